import { openSync, readFileSync, readlinkSync, statfsSync, statSync } from "node:fs";
import type { ClientFile, File, PhysicalMemory, Process, User, UserAddress } from "../memory/index.ts";
import { EBADF, refuse } from "../runtime/index.ts";
import { ClientAddressSpace } from "./address-space.ts";
import { DescriptorBacking } from "./backings.ts";
import type { EventFdOwner, EventFds } from "./event-fds.ts";

/** File systems whose files are memory: tmpfs (memfd too), hugetlbfs. */
const memoryFileSystems = new Set([0x01021994, 0x958458f6]);

/** What a client needs of the host. */
export interface ClientContext {
  readonly memory: PhysicalMemory;
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
  readonly address: number;
}

/** One address space of a real process, from its first contact until it exits or executes another program. */
export class ClientProcess implements Process, EventFdOwner {
  readonly pid: number;
  readonly label: string;
  readonly user: User;
  readonly memory: ClientAddressSpace;
  /** Set by {@link installFile} during a call; whoever answers the call takes it. */
  installation: Installation | undefined;
  private readonly context: ClientContext;
  private generation = -1;
  private capabilities: { readonly low: number; readonly high: number } | undefined;
  private memlock: number | undefined;

  constructor(pid: number, context: ClientContext) {
    this.pid = pid;
    this.context = context;
    this.label = `${programName(pid)}[${pid}]`;
    this.user = context.user(uidOf(pid));
    this.memory = new ClientAddressSpace(pid, this.label, context.memory);
  }

  /** A call begins. If the generation is a new one, mappings, limits or capabilities may have changed. */
  begin(generation: number): void {
    if (generation === this.generation) return;
    this.generation = generation;
    this.memory.vmas.forget();
    this.capabilities = undefined;
    this.memlock = undefined;
  }

  capable(capability: number): boolean {
    if (this.capabilities === undefined) {
      const mask = /^CapEff:\s*([0-9a-f]+)/m.exec(read(`/proc/${this.pid}/status`))?.[1] ?? "0";
      const words = mask.padStart(16, "0");
      this.capabilities = { low: Number.parseInt(words.slice(8), 16), high: Number.parseInt(words.slice(0, 8), 16) };
    }
    const { low, high } = this.capabilities;
    return (((capability < 32 ? low : high) >>> (capability % 32)) & 1) === 1;
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
    const path = `/proc/${this.pid}/fd/${fd}`;
    let target: string;
    try {
      target = readlinkSync(path);
    } catch {
      return refuse(EBADF, () => `${this.label} has no descriptor ${fd}`);
    }
    const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1];
    if (inode !== undefined) {
      const file = this.context.fileOf(Number(inode));
      return file === undefined ? { kind: "other", label: "a socket" } : { kind: "ours", file };
    }
    if (target === "anon_inode:[eventfd]") return { kind: "eventfd", event: this.context.events.take(this, fd) };
    return memoryFile(path, target) ?? { kind: "other", label: target };
  }

  sendDescriptor(fd: number, token: number): boolean {
    return this.context.sendDescriptor(this, fd, token);
  }

  installFile(file: File, address: UserAddress): void {
    this.memory.checkWritable(address, 4);
    this.installation = { file, address: Number(address) };
  }
}

function memoryFile(path: string, label: string): ClientFile | undefined {
  try {
    const status = statSync(path);
    if (!status.isFile() || !memoryFileSystems.has(statfsSync(path).type)) return undefined;
    return { kind: "memory", backing: new DescriptorBacking(open(path)), size: status.size, label };
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
