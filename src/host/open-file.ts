import type { File, FileNode, Process } from "../memory/index.ts";
import { EACCES, EBADF, EFBIG, EINVAL, ENOTTY, ESPIPE, refuse, type Task } from "../runtime/index.ts";
import type { Connection } from "./connection.ts";

export const O_ACCMODE = 3;
export const O_RDONLY = 0;
const O_WRONLY = 1;
export const O_RDWR = 2;
const SEEK_SET = 0;
const SEEK_CUR = 1;
const SEEK_END = 2;

const pollByte = new Uint8Array(1);

/** What stat(2) and /proc/self/fd say of an open file. */
export interface Description {
  readonly kind: number;
  readonly mode: number;
  readonly major: number;
  readonly minor: number;
  /** As given to open(2). */
  readonly flags: number;
  readonly path: string;
}

/** An open file description: a file, its position, and who shares it, which is whoever holds the connection's other end. */
export class OpenFile {
  /** The inode of the client's socket. */
  readonly inode: number;
  readonly file: File;
  readonly description: Description;
  position = 0;
  /** Connections whose {@link Connection.calling} it is. */
  callers = 0;
  /** Its other end is what the client's descriptors are. */
  readonly connection: Connection;
  /** True while a byte lies in the connection for poll(2) to see. */
  raised = false;

  constructor(inode: number, file: File, description: Description, connection: Connection) {
    this.inode = inode;
    this.file = file;
    this.description = description;
    this.connection = connection;
  }

  /** The client has its descriptor: from now on poll(2) sees what is there. What has no poll of its own is always readable. */
  begin(): void {
    if (this.file.readable !== undefined) this.file.onReadable = () => this.showReadable();
    this.showReadable();
  }

  private showReadable(): void {
    if (this.raised || this.file.readable?.() === false) return;
    this.raised = true;
    this.connection.send(pollByte, 1);
  }

  /** True if the byte must be taken out again. */
  lowerIfDrained(): boolean {
    if (!this.raised || this.file.readable === undefined || this.file.readable()) return false;
    this.raised = false;
    return true;
  }

  /** `position` undefined: the file's own, which moves. */
  *read(process: Process, position: number | undefined, into: Uint8Array): Task<number> {
    const { file, description } = this;
    if ((description.flags & O_ACCMODE) === O_WRONLY) refuse(EBADF, () => `${file.label} is open for writing only`);
    this.checkPosition(position);
    if (file.read === undefined) return refuse(EINVAL, () => `${file.label} cannot be read`);
    const count = yield* file.read(process, position ?? this.position, into);
    if (position === undefined && file.hasPosition) this.position += count;
    return count;
  }

  /** EACCES unless it was opened such that it may be mapped; `writes`: what is stored there goes to the file. */
  checkMappable(writes: boolean): void {
    const access = this.description.flags & O_ACCMODE;
    if (access === O_WRONLY) refuse(EACCES, () => `${this.file.label} is open for writing only`);
    if (writes && access === O_RDONLY) refuse(EACCES, () => `${this.file.label} is open for reading only`);
  }

  *write(process: Process, position: number | undefined, from: Uint8Array): Task<number> {
    const { file, description } = this;
    if ((description.flags & O_ACCMODE) === O_RDONLY) refuse(EBADF, () => `${file.label} is open for reading only`);
    this.checkPosition(position);
    if (file.write === undefined) return refuse(EINVAL, () => `${file.label} cannot be written`);
    const count = yield* file.write(process, position ?? this.position, from);
    if (position === undefined && file.hasPosition) this.position += count;
    return count;
  }

  /** For files that move bytes from and to the client's memory themselves. */
  *readInto(process: Process, position: number | undefined, address: number, count: number): Task<number> {
    this.checkPosition(position);
    return yield* this.file.readInto!(process, address, count);
  }

  *writeFrom(process: Process, position: number | undefined, address: number, count: number): Task<number> {
    this.checkPosition(position);
    return yield* this.file.writeFrom!(process, address, count);
  }

  seek(offset: number, whence: number): number {
    if (!this.file.seekable) refuse(ESPIPE, () => `${this.file.label} cannot seek`);
    const bases = { [SEEK_SET]: 0, [SEEK_CUR]: this.position, [SEEK_END]: this.file.size };
    const target = (bases[whence as keyof typeof bases] ?? Number.NaN) + offset;
    if (!(target >= 0) || target > Number.MAX_SAFE_INTEGER)
      refuse(EINVAL, () => `lseek to ${offset}, whence ${whence}`);
    this.position = target;
    return target;
  }

  private checkPosition(position: number | undefined): void {
    if (position === undefined) return;
    if (!this.file.hasPosition) refuse(ESPIPE, () => `${this.file.label} has no position`);
    if (position > Number.MAX_SAFE_INTEGER) refuse(EINVAL, () => `position ${position} is too large`);
  }
}

/** A text or a block of registers that can be written, opened. Each write is one store, as in sysfs. */
export class TextFile implements File {
  readonly label: string;
  readonly hasPosition = true;
  readonly seekable = true;
  readonly size: number | undefined;
  private readonly node: FileNode & { kind: "text" };

  constructor(path: string, node: FileNode & { kind: "text" }) {
    this.label = path;
    this.node = node;
    this.size = node.size;
  }

  *ioctl(): Task<number> {
    return refuse(ENOTTY, () => `${this.label} is a text`);
  }

  *read(_process: Process, position: number, into: Uint8Array): Task<number> {
    const content = this.node.read();
    const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
    const part = bytes.subarray(position, position + into.length);
    into.set(part);
    return part.length;
  }

  *write(process: Process, position: number, from: Uint8Array): Task<number> {
    const { size } = this;
    const { write } = this.node;
    if (write === undefined) return refuse(EINVAL, () => `${this.label} cannot be written`);
    if (size !== undefined && position >= size) refuse(EFBIG, () => `${this.label} has ${size} bytes`);
    const taken = size === undefined ? from : from.subarray(0, size - position);
    yield* write(process, taken, position);
    return taken.length;
  }

  *release(): Task<void> {}
}
