import { openSync, readdirSync, readFileSync, readlinkSync, statfsSync, statSync } from "node:fs";
import type { ClientFile, File, FrameRun, PhysicalMemory, Process, User, UserAddress } from "../memory/index.ts";
import { EBADF, EMFILE, refuse } from "../runtime/index.ts";
import { ClientAddressSpace } from "./address-space.ts";
import { DescriptorBacking } from "./backings.ts";
import type { EventFdOwner, EventFds } from "./event-fds.ts";
import { livingThread } from "./living-thread.ts";
import { REPLY_BOUND, REPLY_PINNED } from "./protocol.ts";
import { keyOfFile, type SharedFiles } from "./shared-files.ts";

/** File systems whose files are memory: tmpfs (memfd too), hugetlbfs. */
const memoryFileSystems = new Set([0x01021994, 0x958458f6]);

/** What a client needs of the host. */
export interface ClientContext {
  readonly memory: PhysicalMemory;
  readonly sharedFiles: SharedFiles;
  readonly events: EventFds;
  /** The open file whose connection is the socket with this inode. */
  fileOf(inode: number): File | undefined;
  user(uid: number): User;
  /** Asks a thread of the client that waits in a call to send a descriptor to the helper; false if there is none. */
  sendDescriptor(client: ClientProcess, fd: number, token: number): boolean;
  /** RLIMIT_MEMLOCK of every client in bytes; undefined: what each really has. */
  readonly memlockLimit: number | undefined;
}

/** A file that the call makes a descriptor for. */
export interface Installation {
  readonly file: File;
  /** Where its number goes; 0: it is what the call returns. */
  readonly address: number;
}

/** One address space of a real process, from its first contact until it exits or executes another program. */
export class ClientProcess implements Process, EventFdOwner {
  readonly pid: number;
  readonly label: string;
  readonly memory: ClientAddressSpace;
  /** Set by {@link installFile} during a call; whoever answers the call takes it. */
  installation: Installation | undefined;
  /** What the shim was told last of {@link watching}, and a number that grows with each change. */
  private told = 0;
  private toldVersion = 0;
  private readonly context: ClientContext;
  private generation = -1;
  private capabilities: { readonly effective: string; readonly bounding: string } | undefined;
  private memlock: number | undefined;
  private currentUser: User | undefined;

  constructor(pid: number, context: ClientContext) {
    this.pid = pid;
    this.context = context;
    this.label = `${programName(pid)}[${pid}]`;
    this.memory = new ClientAddressSpace(pid, this.label, context);
  }

  /** A call begins. If the generation is a new one, mappings, limits, capabilities or the user may have changed. */
  begin(generation: number): void {
    if (generation === this.generation) return;
    this.generation = generation;
    this.memory.vmas.forget();
    this.capabilities = undefined;
    this.memlock = undefined;
    this.currentUser = undefined;
  }

  /** What its shim is to tell: reply flags, and their version. */
  get watching(): { readonly flags: number; readonly version: number } {
    const { pinned, notifiers } = this.memory;
    const flags = (pinned.size > 0 ? REPLY_PINNED : 0) | (notifiers.any ? REPLY_BOUND : 0);
    if (flags !== this.told) {
      this.told = flags;
      this.toldVersion++;
    }
    return { flags, version: this.toldVersion };
  }

  get user(): User {
    this.currentUser ??= this.context.user(uidOf(this.pid));
    return this.currentUser;
  }

  capable(capability: number): boolean {
    this.capabilities ??= capabilitiesOf(this.pid);
    const { effective, bounding } = this.capabilities;
    if (hasBit(effective, capability)) return true;
    // What a container took from everybody, us included, nobody took on the machine: its root has it, unless it gave up all.
    ours ??= capabilitiesOf(process.pid);
    const isTakenFromAll = !hasBit(bounding, capability) && !hasBit(ours.bounding, capability);
    return this.user.uid === 0 && isTakenFromAll && /[^0]/.test(effective);
  }

  get memlockLimit(): number {
    if (this.context.memlockLimit !== undefined) return this.context.memlockLimit;
    if (this.memlock === undefined) {
      const soft = /^Max locked memory\s+(\S+)/m.exec(read(`/proc/${this.pid}/limits`))?.[1];
      this.memlock = soft === undefined || soft === "unlimited" ? Number.POSITIVE_INFINITY : Number(soft);
    }
    return this.memlock;
  }

  file(fd: number): ClientFile {
    const path = `${livingThread(this.pid)}/fd/${fd}`;
    let target: string;
    try {
      target = readlinkSync(path);
    } catch {
      return refuse(EBADF, () => `${this.label} has no descriptor ${fd}`);
    }
    if (isPathOnly(this.pid, fd))
      refuse(EBADF, () => `descriptor ${fd} of ${this.label} names a file but does not open it`);
    const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1];
    if (inode !== undefined) {
      const file = this.context.fileOf(Number(inode));
      return file === undefined ? { kind: "other", label: "a socket" } : { kind: "ours", file };
    }
    if (target === "anon_inode:[eventfd]") return { kind: "eventfd", event: this.context.events.take(this, fd) };
    return memoryFile(path, target, this.context.sharedFiles) ?? { kind: "other", label: target };
  }

  sendDescriptor(fd: number, token: number): boolean {
    return this.context.sendDescriptor(this, fd, token);
  }

  installFile(file: File, address: UserAddress): void {
    this.checkRoom();
    this.memory.checkWritable(address, 4);
    this.installation = { file, address: Number(address) };
  }

  installFileAsResult(file: File): number {
    this.checkRoom();
    this.installation = { file, address: 0 };
    return 0;
  }

  /** EMFILE if the process cannot have one more descriptor: the shim, which makes it, would find out too late. */
  private checkRoom(): void {
    const limit = Number(/^Max open files\s+(\d+)/m.exec(read(`/proc/${this.pid}/limits`))?.[1] ?? Infinity);
    let taken: Set<string>;
    try {
      taken = new Set(readdirSync(`${livingThread(this.pid)}/fd`));
    } catch {
      return; // the process is gone
    }
    for (let fd = 0; fd < limit; fd++) if (!taken.has(`${fd}`)) return;
    refuse(EMFILE, () => `${this.label} has ${taken.size} descriptors, and its limit is ${limit}`);
  }
}

/** O_PATH of open(2). */
const PATH_ONLY = 0o10000000;

function isPathOnly(pid: number, fd: number): boolean {
  const flags = /^flags:\s*([0-7]+)/m.exec(read(`/proc/${pid}/fdinfo/${fd}`))?.[1] ?? "0";
  return (Number.parseInt(flags, 8) & PATH_ONLY) !== 0;
}

/** Our own capabilities. */
let ours: ReturnType<typeof capabilitiesOf> | undefined;

/** Sets of capabilities, as hexadecimal digits. */
function capabilitiesOf(pid: number): { effective: string; bounding: string } {
  const status = read(`/proc/${pid}/status`);
  const set = (name: string): string => new RegExp(`^${name}:\\s*([0-9a-f]+)`, "m").exec(status)?.[1] ?? "0";
  return { effective: set("CapEff"), bounding: set("CapBnd") };
}

function hasBit(digits: string, bit: number): boolean {
  const digit = digits[digits.length - 1 - Math.floor(bit / 4)] ?? "0";
  return ((Number.parseInt(digit, 16) >>> (bit % 4)) & 1) === 1;
}

function memoryFile(path: string, label: string, files: SharedFiles): ClientFile | undefined {
  try {
    const status = statSync(path);
    if (!status.isFile() || !memoryFileSystems.has(statfsSync(path).type)) return undefined;
    const backing = new DescriptorBacking(open(path));
    const pin = (page: number, count: number): FrameRun[] =>
      files.pin(keyOfFile(backing.file), page, count, () => open(`/proc/self/fd/${backing.file}`))!;
    return { kind: "memory", backing, size: status.size, label, pin };
  } catch {
    return undefined;
  }
}

function open(path: string): number {
  try {
    return openSync(path, "r+");
  } catch {
    return openSync(path, "r");
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return ""; // the process is gone
  }
}

function programName(pid: number): string {
  return read(`/proc/${pid}/comm`).trim() || "process";
}

function uidOf(pid: number): number {
  return Number(/^Uid:\t(\d+)/m.exec(read(`/proc/${pid}/status`))?.[1] ?? 0);
}
