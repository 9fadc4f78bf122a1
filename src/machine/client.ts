// Runs in a browser.
import { type File, type FileNode, LibraryProcess, type LibraryProcessOptions, PAGE_SIZE } from "../memory/index.ts";
import { assert, EACCES, EBADF, EINVAL, ENOENT, refuse } from "../runtime/index.ts";
import type { Machine } from "./machine.ts";

/** Pages of a client for the structs of its calls. */
const SCRATCH_PAGES = 1;

/**
 * A program on a machine in the same JavaScript: what a C program does with open() and ioctl(), for library users, tests
 * and pages. Its memory lies in the machine's own. Errors are Refusals: the errno, and why.
 *
 *     const client = new LibraryClient(machine);
 *     const iommu = client.open("/dev/iommu");
 *     const ioas = client.ioctl(iommu, 0x3b81, new IoasAlloc(), { size: 12 }).out_ioas_id;
 */
export class LibraryClient {
  readonly process: LibraryProcess;
  private readonly machine: Machine;
  private readonly scratch: number;

  constructor(machine: Machine, options?: LibraryProcessOptions) {
    this.machine = machine;
    this.process = new LibraryProcess(machine.system, machine.memory, options);
    this.scratch = this.process.memory.map(SCRATCH_PAGES);
  }

  /** Opens a device node of the machine; a descriptor. ENOENT, EINVAL for what is no device, and the device's own. */
  open(path: string): number {
    const node = this.machine.files.nodes.get(path);
    if (node === undefined) refuse(ENOENT, () => `${path}: there is no such file`);
    if (node.kind !== "device") refuse(EINVAL, () => `${path} is a ${node.kind}, not a device`);
    const file = this.machine.system.run(`open ${path}`, node.open(this.process));
    return this.process.addFile({ kind: "ours", file });
  }

  close(fd: number): void {
    this.machine.system.run(`close ${fd}`, this.process.close(fd));
  }

  /**
   * Fills `fields` into the struct, calls with its address, and reads it back: the same view, with the answer in it.
   * What was there stays, so that a command can be used again.
   */
  ioctl<V extends { readonly $bytes: Uint8Array }>(fd: number, request: number, command: V, fields?: Partial<V>): V {
    if (fields !== undefined) Object.assign(command, fields);
    assert(command.$bytes.length <= SCRATCH_PAGES * PAGE_SIZE, "a struct is at most a page");
    const { memory } = this.process;
    memory.write(this.scratch, command.$bytes);
    this.call(fd, request, this.scratch);
    memory.read(this.scratch, command.$bytes);
    return command;
  }

  /** An ioctl whose argument is a value or an address of the client's own. */
  call(fd: number, request: number, argument: number): number {
    const file = this.file(fd);
    return this.machine.system.run("ioctl", file.ioctl(this.process, request, argument));
  }

  /** pread(): how many bytes were read into `into`. */
  read(fd: number, position: number, into: Uint8Array): number {
    const file = this.file(fd);
    if (file.read === undefined) refuse(EINVAL, () => `${file.label} cannot be read`);
    return this.machine.system.run("read", file.read(this.process, position, into));
  }

  write(fd: number, position: number, from: Uint8Array): number {
    const file = this.file(fd);
    if (file.write === undefined) refuse(EINVAL, () => `${file.label} cannot be written`);
    return this.machine.system.run("write", file.write(this.process, position, from));
  }

  /** What `cat` shows of a text of the machine. ENOENT, EINVAL for what is no text. */
  readText(path: string): string {
    const content = this.text(path).read();
    return typeof content === "string" ? content : new TextDecoder("latin1").decode(content);
  }

  /** What `echo TEXT > PATH` does: the text, with a newline. EACCES for a text that cannot be written, and its own. */
  writeText(path: string, text: string): void {
    const { write } = this.text(path);
    if (write === undefined) refuse(EACCES, () => `${path} cannot be written`);
    this.machine.system.run(`write ${path}`, write(this.process, new TextEncoder().encode(`${text}\n`)));
  }

  private text(path: string): FileNode & { readonly kind: "text" } {
    const node = this.machine.files.nodes.get(path);
    if (node === undefined) refuse(ENOENT, () => `${path}: there is no such file`);
    if (node.kind !== "text") refuse(EINVAL, () => `${path} is a ${node.kind}, not a text`);
    return node;
  }

  private file(fd: number): File {
    const opened = this.process.file(fd);
    if (opened.kind !== "ours") refuse(EBADF, () => `descriptor ${fd} is no file of the machine`);
    return opened.file;
  }
}
