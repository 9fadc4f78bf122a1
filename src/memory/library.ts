// Runs in a browser.
import { EBADF, EMFILE, IdAllocator, refuse, type System, type Task } from "../runtime/index.ts";
import { LibraryAddressSpace } from "./address-space.ts";
import type { PhysicalMemory } from "./physical.ts";
import type { ClientFile, File, Process } from "./process.ts";
import type { User, UserAddress } from "./types.ts";

export interface LibraryProcessOptions {
  /** 1 unless said otherwise. */
  readonly pid?: number;
  /** Unless said otherwise, one of its own with uid 1000. */
  readonly user?: User;
  /** By their Linux numbers; none unless said otherwise. */
  readonly capabilities?: Iterable<number>;
  /** RLIMIT_MEMLOCK in bytes; no limit unless said otherwise. */
  readonly memlockLimit?: number;
}

/** An open file, and how many descriptors of a process and its children lead to it. */
interface Description {
  readonly file: ClientFile;
  descriptors: number;
}

/** 0, 1 and 2 belong to the terminal. */
const FIRST_DESCRIPTOR = 3;
const LAST_DESCRIPTOR = 1023;

/** The process of a library's user, a test or a web page: its memory lies in PhysicalMemory. */
export class LibraryProcess implements Process {
  readonly pid: number;
  readonly label: string;
  readonly memory: LibraryAddressSpace;
  readonly user: User;
  memlockLimit: number;
  private readonly system: System;
  private readonly physical: PhysicalMemory;
  private readonly capabilities: ReadonlySet<number>;
  private readonly descriptors = new IdAllocator(FIRST_DESCRIPTOR, LAST_DESCRIPTOR);
  private readonly files = new Map<number, Description>();

  constructor(
    system: System,
    physical: PhysicalMemory,
    options: LibraryProcessOptions = {},
    memory?: LibraryAddressSpace,
  ) {
    this.system = system;
    this.physical = physical;
    this.pid = options.pid ?? 1;
    this.label = `process ${this.pid}`;
    this.user = options.user ?? { uid: 1000, lockedPages: 0 };
    this.capabilities = new Set(options.capabilities);
    this.memlockLimit = options.memlockLimit ?? Number.POSITIVE_INFINITY;
    this.memory = memory ?? new LibraryAddressSpace(system, physical, this.label);
  }

  capable(capability: number): boolean {
    return this.capabilities.has(capability);
  }

  file(fd: number): ClientFile {
    return this.description(fd).file;
  }

  installFile(file: File, address: UserAddress): void {
    const fd = this.addFile({ kind: "ours", file });
    try {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setInt32(0, fd, true);
      this.memory.write(address, bytes);
    } catch (error) {
      this.forget(fd);
      throw error;
    }
  }

  installFileAsResult(file: File): number {
    return this.addFile({ kind: "ours", file });
  }

  /** Gives the process the lowest free descriptor, for `file`. Throws Refusal EMFILE. */
  addFile(file: ClientFile): number {
    const fd = this.descriptors.allocate();
    if (fd === undefined) refuse(EMFILE, () => `${this.label} has ${this.descriptors.size} files open`);
    this.files.set(fd, { file, descriptors: 1 });
    return fd;
  }

  /** Closes a descriptor; the file is released with its last one. Throws Refusal EBADF. */
  *close(fd: number): Task<void> {
    const { file, descriptors } = this.description(fd);
    this.forget(fd);
    if (descriptors === 1 && file.kind === "ours") yield* file.file.release();
  }

  /** A child with a copy of the memory and the same open files. Throws Refusal ENOMEM. */
  fork(pid: number = this.pid + 1): LibraryProcess {
    const { system, physical, user, capabilities, memlockLimit } = this;
    const memory = this.memory.fork(`process ${pid}`);
    const child = new LibraryProcess(system, physical, { pid, user, capabilities, memlockLimit }, memory);
    for (const [fd, description] of this.files) {
      description.descriptors++;
      child.descriptors.reserve(fd);
      child.files.set(fd, description);
    }
    return child;
  }

  /** Ends the process: its memory goes first, then its files are closed, each in a task. */
  exit(): void {
    this.memory.exit();
    for (const fd of [...this.files.keys()]) this.system.tasks.start(`${this.label} closes ${fd}`, this.close(fd));
  }

  private description(fd: number): Description {
    return this.files.get(fd) ?? refuse(EBADF, () => `${this.label} has no file ${fd}`);
  }

  private forget(fd: number): void {
    this.description(fd).descriptors--;
    this.files.delete(fd);
    this.descriptors.free(fd);
  }
}
