// Runs in a browser.
/** A split virtqueue (§2.7) from the device's side: chains of descriptors come out of it and go back used. */
import type { PhysicalMemory } from "../../memory/index.ts";

const DESCRIPTOR_BYTES = 16;
const DESC_NEXT = 1;
const DESC_WRITE = 2;
const DESC_INDIRECT = 4;
const AVAIL_NO_INTERRUPT = 1;

/** The ring is not one: what the driver wrote cannot be followed. */
export class BadRing {
  readonly reason: string;

  constructor(reason: string) {
    this.reason = reason;
  }
}

interface Segment {
  readonly address: number;
  readonly length: number;
}

/** One buffer: what the device may read of it, then what it may write (§2.7.4.2). */
export class Chain {
  readonly head: number;
  readableBytes = 0;
  writableBytes = 0;
  private readonly memory: PhysicalMemory;
  private readonly readable: Segment[] = [];
  private readonly writable: Segment[] = [];

  constructor(memory: PhysicalMemory, head: number) {
    this.memory = memory;
    this.head = head;
  }

  add(address: number, length: number, isWritable: boolean): void {
    if (isWritable) {
      this.writable.push({ address, length });
      this.writableBytes += length;
      return;
    }
    if (this.writable.length > 0) throw new BadRing("a readable descriptor follows a writable one");
    this.readable.push({ address, length });
    this.readableBytes += length;
  }

  /** The first bytes of the readable part, as many as there are. Throws BusError. */
  read(into: Uint8Array): void {
    let done = 0;
    for (const { address, length } of this.readable) {
      if (done === into.length) return;
      const count = Math.min(length, into.length - done);
      this.memory.read(address, count === into.length ? into : into.subarray(done, done + count));
      done += count;
    }
  }

  /** Fills the writable part from `offset` on, which has room for it. Throws BusError. */
  write(bytes: Uint8Array, offset: number): void {
    let done = 0;
    for (const { address, length } of this.writable) {
      if (done === bytes.length) return;
      if (offset >= length) {
        offset -= length;
        continue;
      }
      const count = Math.min(length - offset, bytes.length - done);
      this.memory.write(address + offset, count === bytes.length ? bytes : bytes.subarray(done, done + count));
      done += count;
      offset = 0;
    }
  }
}

export class Virtqueue {
  /** Entries at most. */
  readonly maximum: number;
  /** What the driver says, as pairs of words where it is an address. */
  size: number;
  readonly descriptors: [low: number, high: number] = [0, 0];
  readonly driverArea: [low: number, high: number] = [0, 0];
  readonly deviceArea: [low: number, high: number] = [0, 0];
  isReady = false;
  /** The driver accepted INDIRECT_DESC. */
  allowsIndirect = false;
  private readonly memory: PhysicalMemory;
  private table = 0;
  private avail = 0;
  private used = 0;
  /** Free-running, 16 bits: the next entry of the available ring to look at, and of the used ring to fill. */
  private taken = 0;
  private completed = 0;

  constructor(memory: PhysicalMemory, maximum: number) {
    this.memory = memory;
    this.maximum = maximum;
    this.size = maximum;
  }

  /** Stays not ready if its size is no power of two up to the maximum, or a part is not aligned (§2.7). */
  start(): void {
    const { size } = this;
    if (this.isReady || size === 0 || size > this.maximum || (size & (size - 1)) !== 0) return;
    this.table = addressOf(this.descriptors);
    this.avail = addressOf(this.driverArea);
    this.used = addressOf(this.deviceArea);
    if (this.table % 16 !== 0 || this.avail % 2 !== 0 || this.used % 4 !== 0) return;
    this.taken = this.completed = 0;
    this.isReady = true;
  }

  /** As after a reset. */
  stop(): void {
    this.isReady = false;
    this.size = this.maximum;
    for (const address of [this.descriptors, this.driverArea, this.deviceArea]) address.fill(0);
  }

  /** The next buffer that the driver made available, if any. Throws {@link BadRing}, and BusError. */
  take(): Chain | undefined {
    if (!this.isReady) return undefined;
    const waiting = (this.read16(this.avail + 2) - this.taken) & 0xffff;
    if (waiting === 0) return undefined;
    if (waiting > this.size) throw new BadRing(`${waiting} buffers are available in a ring of ${this.size}`);
    const head = this.read16(this.avail + 4 + (this.taken & (this.size - 1)) * 2);
    const chain = this.follow(head);
    this.taken = (this.taken + 1) & 0xffff;
    return chain;
  }

  /** Gives a buffer back, `written` bytes of which the device wrote. True if the driver wants to be interrupted. */
  complete(chain: Chain, written: number): boolean {
    const entry = this.used + 4 + (this.completed & (this.size - 1)) * 8;
    this.memory.writeWord(entry, chain.head);
    this.memory.writeWord(entry + 4, written);
    this.completed = (this.completed + 1) & 0xffff;
    // Flags (0: notify me) and index are one word.
    this.memory.writeWord(this.used, this.completed * 2 ** 16);
    return (this.read16(this.avail) & AVAIL_NO_INTERRUPT) === 0;
  }

  private follow(head: number): Chain {
    const chain = new Chain(this.memory, head);
    let { table, size } = this;
    let index = head;
    for (let steps = 0; ; steps++) {
      if (index >= size) throw new BadRing(`descriptor ${index} of ${size}`);
      if (steps > this.size) throw new BadRing(`a chain of more than ${this.size} descriptors`);
      const at = table + index * DESCRIPTOR_BYTES;
      const address = this.memory.readWord(at + 4) * 2 ** 32 + this.memory.readWord(at);
      const length = this.memory.readWord(at + 8);
      const last = this.memory.readWord(at + 12);
      const flags = last & 0xffff;
      if ((flags & DESC_INDIRECT) !== 0) {
        if (!this.allowsIndirect || table !== this.table) throw new BadRing("an indirect table where none may be");
        if ((flags & DESC_NEXT) !== 0 || length === 0 || length % DESCRIPTOR_BYTES !== 0 || address % 4 !== 0) {
          throw new BadRing(`an indirect table of ${length} bytes, flags ${flags}`);
        }
        table = address;
        size = length / DESCRIPTOR_BYTES;
        index = 0;
        continue;
      }
      chain.add(address, length, (flags & DESC_WRITE) !== 0);
      if ((flags & DESC_NEXT) === 0) return chain;
      index = last >>> 16;
    }
  }

  private read16(address: number): number {
    const odd = address % 4;
    const word = this.memory.readWord(address - odd);
    return odd === 0 ? word & 0xffff : word >>> 16;
  }
}

function addressOf([low, high]: readonly [number, number]): number {
  return (high >>> 0) * 2 ** 32 + (low >>> 0);
}
