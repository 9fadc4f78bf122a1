/** A machine small enough to test the host with, and nothing else of uiommu: two devices and a few texts. */
import {
  type EventFd,
  type File,
  type FileNode,
  type FileTree,
  type FrameRun,
  PAGE_SIZE,
  PhysicalMemory,
  type Process,
} from "../memory/index.ts";
import { EAGAIN, EBUSY, EINVAL, ENOENT, ENOTTY, refuse, System, type Task, WaitQueue } from "../runtime/index.ts";
import type { Served } from "./host.ts";

/** ioctl numbers of /dev/toy/echo; each takes the address of what its line says. */
export const TOY_GET = 0x3b01; // { u32 size, u32 a, u64 b, u64 sum }: sum = a + b
export const TOY_SIGNAL = 0x3b02; // s32 eventfd: signalled
export const TOY_PIN = 0x3b03; // { u64 address, u32 pages, u32 writable, u64 pinned }
export const TOY_UNPIN = 0x3b04; // nothing: all pins go
export const TOY_PEEK = 0x3b05; // { u64 page, u64 offset, u8 byte }: reads a pinned page as a device would
export const TOY_POKE = 0x3b06; // likewise, writes
export const TOY_QUEUE = 0x3b07; // s32: a new queue file
export const TOY_PUSH = 0x3b08; // value, not an address: into the last queue
export const TOY_WAIT = 0x3b09; // nothing: blocks until TOY_WAKE
export const TOY_WAKE = 0x3b0a; // nothing
export const TOY_FILL = 0x3b0b; // { u64 address, u64 count }: fills with 0x5a
export const TOY_HOLD = 0x3b0c; // s32 eventfd: signalled when this file is released
export const TOY_WATCH = 0x3b0d; // s32 eventfd: each signal of it is counted, and pushed into the queue if there is one
export const TOY_COUNT = 0x3b0e; // nothing: how many signals there were
export const TOY_WAITERS = 0x3b0f; // nothing: how many calls are in TOY_WAIT

export class ToyTree implements FileTree {
  readonly nodes: Map<string, FileNode> = new Map();
  private readonly listeners = new Set<(path: string) => void>();

  listen(listener: (path: string) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  set(path: string, node: FileNode | undefined): void {
    if (node === undefined) this.nodes.delete(path);
    else this.nodes.set(path, node);
    for (const listener of this.listeners) listener(path);
  }
}

function copyIn(process: Process, argument: number, size: number): { bytes: Uint8Array; view: DataView } {
  const bytes = new Uint8Array(size);
  process.memory.read(argument, bytes);
  return { bytes, view: new DataView(bytes.buffer) };
}

class Queue implements File {
  readonly label = "toy-queue";
  readonly hasPosition = false;
  readonly values: number[] = [];
  onReadable: (() => void) | undefined;
  private readonly toy: Toy;

  constructor(toy: Toy) {
    this.toy = toy;
  }

  *ioctl(): Task<number> {
    return refuse(ENOTTY, () => "a queue has no ioctl");
  }

  readable(): boolean {
    return this.values.length > 0;
  }

  push(value: number): void {
    this.values.push(value);
    this.onReadable?.();
  }

  *read(_process: Process, _position: number, into: Uint8Array): Task<number> {
    const value = this.values.shift();
    if (value === undefined) return refuse(EAGAIN, () => "the queue is empty");
    into[0] = value;
    return 1;
  }

  *release(): Task<void> {
    this.toy.open.delete(this);
  }
}

class Echo implements File {
  readonly label = "toy-echo";
  readonly hasPosition = true;
  readonly seekable = true;
  private readonly toy: Toy;
  private readonly content = new Uint8Array(65536);
  private runs: FrameRun[] = [];
  private held: EventFd | undefined;
  private queue: Queue | undefined;
  private watched: EventFd | undefined;
  private signals = 0;
  private readonly get = { bytes: new Uint8Array(24), view: new DataView(new ArrayBuffer(0)) };

  constructor(toy: Toy) {
    this.toy = toy;
    toy.open.add(this);
    this.get.view = new DataView(this.get.bytes.buffer);
  }

  *ioctl(process: Process, request: number, argument: number): Task<number> {
    const { memory } = this.toy;
    switch (request) {
      case TOY_GET: {
        const { bytes, view } = this.get;
        process.memory.read(argument, bytes);
        if (view.getUint32(0, true) !== 24) return refuse(EINVAL, () => `size ${view.getUint32(0, true)} is not 24`);
        view.setUint32(16, view.getUint32(8, true) + view.getUint32(4, true), true);
        process.memory.write(argument, bytes);
        return 0;
      }
      case TOY_SIGNAL:
      case TOY_HOLD: {
        const { view } = copyIn(process, argument, 4);
        const client = process.file(view.getInt32(0, true));
        if (client.kind !== "eventfd") return refuse(EINVAL, () => `it is ${client.kind}`);
        if (request === TOY_HOLD) {
          this.held = client.event;
        } else {
          client.event.signal();
          client.event.release();
        }
        return 0;
      }
      case TOY_PIN: {
        const { bytes, view } = copyIn(process, argument, 24);
        const page = Number(view.getBigUint64(0, true)) / PAGE_SIZE;
        const runs = process.memory.pin(page, view.getUint32(8, true), view.getUint32(12, true) !== 0);
        this.runs.push(...runs);
        view.setBigUint64(16, BigInt(memory.pinnedFrames), true);
        process.memory.write(argument, bytes);
        return 0;
      }
      case TOY_UNPIN:
        this.unpin();
        return 0;
      case TOY_PEEK:
      case TOY_POKE: {
        const { bytes, view } = copyIn(process, argument, 24);
        const frames = this.runs.flatMap(({ pfn, count }) => Array.from({ length: count }, (_, i) => pfn + i));
        const pfn = frames[Number(view.getBigUint64(0, true))];
        if (pfn === undefined) return refuse(ENOENT, () => "no such pinned page");
        const at = pfn * PAGE_SIZE + Number(view.getBigUint64(8, true));
        if (request === TOY_PEEK) {
          memory.read(at, bytes.subarray(16, 17));
          process.memory.write(argument, bytes);
        } else {
          memory.write(at, bytes.subarray(16, 17));
        }
        return 0;
      }
      case TOY_QUEUE:
        this.queue = new Queue(this.toy);
        process.installFile(this.queue, argument);
        this.toy.open.add(this.queue);
        return 0;
      case TOY_PUSH:
        if (this.queue === undefined) return refuse(ENOENT, () => "there is no queue");
        this.queue.push(argument);
        return 0;
      case TOY_WAIT: {
        const { woken } = this.toy;
        this.toy.waiters++;
        yield* this.toy.wakeups.until(() => this.toy.woken > woken);
        this.toy.waiters--;
        return this.toy.woken;
      }
      case TOY_WAKE:
        this.toy.woken++;
        this.toy.wakeups.wake();
        return 0;
      case TOY_WATCH: {
        const client = process.file(copyIn(process, argument, 4).view.getInt32(0, true));
        if (client.kind !== "eventfd") return refuse(EINVAL, () => `it is ${client.kind}`);
        this.watched?.release();
        this.watched = client.event;
        this.watched.watch?.(() => {
          this.signals++;
          this.queue?.push(this.signals);
        });
        return 0;
      }
      case TOY_WAITERS:
        return this.toy.waiters;
      case TOY_COUNT:
        return this.signals;
      case TOY_FILL: {
        const { view } = copyIn(process, argument, 16);
        const count = Number(view.getBigUint64(8, true));
        process.memory.write(view.getBigUint64(0, true), new Uint8Array(count).fill(0x5a));
        return 0;
      }
      default:
        return refuse(ENOTTY, () => `no toy ioctl 0x${request.toString(16)}`);
    }
  }

  *read(_process: Process, position: number, into: Uint8Array): Task<number> {
    const part = this.content.subarray(position, position + into.length);
    into.set(part);
    return part.length;
  }

  *write(_process: Process, position: number, from: Uint8Array): Task<number> {
    const part = from.subarray(0, Math.max(0, this.content.length - position));
    this.content.set(part, position);
    return part.length;
  }

  *release(): Task<void> {
    this.unpin();
    this.held?.signal();
    this.held?.release();
    this.watched?.release();
    this.toy.open.delete(this);
  }

  private unpin(): void {
    const { runs } = this;
    this.runs = [];
    this.toy.memory.unpin(runs);
  }
}

export class Toy implements Served {
  readonly system: System = new System();
  readonly files: ToyTree = new ToyTree();
  readonly memory: PhysicalMemory = new PhysicalMemory(this.system, { ram: [] });
  /** Files that are open. */
  readonly open: Set<File> = new Set();
  readonly wakeups: WaitQueue = new WaitQueue(this.system, "toy wake-ups");
  woken = 0;
  waiters = 0;
  /** What was stored to the text /sys/bus/toy/devices/one/control. */
  control = "none\n";

  constructor() {
    const device = (minor: number, open: () => File): FileNode => ({
      kind: "device",
      major: 240,
      minor,
      mode: 0o660,
      open: function* (): Task<File> {
        return open();
      },
    });
    const text = (content: string): FileNode => ({ kind: "text", mode: 0o444, read: () => content });
    const one = "/sys/devices/toy0/one";
    const control: FileNode = {
      kind: "text",
      mode: 0o644,
      read: () => this.control,
      write: function* (_process: Process, bytes: Uint8Array): Task<void> {
        toy.store(new TextDecoder().decode(bytes));
      },
    };
    const toy = this;
    for (const [path, node] of Object.entries({
      "/dev/toy/echo": device(7, () => new Echo(this)),
      "/dev/toyflat": device(8, () => new Echo(this)),
      [`${one}/name`]: text("one\n"),
      [`${one}/vendor`]: text("0x1234\n"),
      [`${one}/control`]: control,
      [`${one}/subsystem`]: { kind: "link", target: "../../../bus/toy" } as FileNode,
      "/sys/bus/toy/devices/one": { kind: "link", target: "/sys/devices/toy0/one" } as FileNode,
      "/sys/bus/toy/drivers": { kind: "directory" } as FileNode,
      "/sys/class/toyclass/toy0": { kind: "link", target: "../../devices/toy0" } as FileNode,
      "/dev/char/240:7": { kind: "link", target: "../toy/echo" } as FileNode,
    })) {
      this.files.set(path, node);
    }
  }

  private store(value: string): void {
    if (value.startsWith("busy")) refuse(EBUSY, () => "the toy is busy");
    this.control = value;
    this.files.set("/sys/devices/toy0/one/control", this.files.nodes.get("/sys/devices/toy0/one/control"));
  }
}
