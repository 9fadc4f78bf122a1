// Runs in a browser.
import { assert, ENOMEM, refuse, type System } from "../runtime/index.ts";
import { ForeignFrames } from "./foreign-frames.ts";
import { FrameAllocator } from "./frame-allocator.ts";
import { MemoryFile } from "./memory-file.ts";
import { Pins } from "./pins.ts";
import { CHUNK_SIZE, Ram, wordIndex } from "./ram.ts";
import { type FrameBacking, type FrameRun, PAGE_SIZE } from "./types.ts";

/** Where frames of others are numbered from unless said otherwise, in bytes, and how many there can be. */
const FOREIGN_BASE = 2 ** 40;
const FOREIGN_FRAMES = 2 ** 31;

/** Nothing answers at a physical address. A bus answers it with an abort: neither a client's error nor a bug of ours. */
export class BusError {
  /** The first byte that nobody has. */
  readonly address: number;

  constructor(address: number) {
    this.address = address;
  }

  toString(): string {
    return `nothing at physical address 0x${this.address.toString(16)}`;
  }
}

export interface PhysicalMemoryOptions {
  /** Ranges of RAM in bytes, multiples of 2 MiB, ascending and apart. */
  readonly ram: readonly { readonly base: number; readonly size: number }[];
  /** Where frames of others are numbered from, in bytes; by default 2^40, or the end of RAM if that is above. */
  readonly foreignBase?: number;
}

/**
 * All that physical addresses reach: RAM, and frames of others.
 *
 * RAM is 32-bit little-endian words in chunks of 2 MiB that exist once written; untouched RAM reads as 0. Frames of
 * others (pages of a process, of a file) are numbered from a window outside of RAM; what is behind each is a
 * {@link FrameBacking}, which may change while the number stays.
 */
export class PhysicalMemory {
  private readonly system: System;
  private readonly content = new Ram();
  private readonly ram: readonly FrameAllocator[];
  /** No RAM from here on, in bytes. */
  private readonly ramEnd: number;
  private readonly foreign: ForeignFrames;
  private readonly pins = new Pins(
    (pfn, count) => this.tellBackings(pfn, count),
    (pfn, count) => this.release(pfn, count),
  );

  constructor(system: System, options: PhysicalMemoryOptions) {
    this.system = system;
    const zones: { first: number; end: number }[] = [];
    let ramEnd = 0;
    for (const { base, size } of options.ram) {
      assert(
        base >= ramEnd && base % CHUNK_SIZE === 0 && size > 0 && size % CHUNK_SIZE === 0,
        () => `RAM at 0x${base.toString(16)} +0x${size.toString(16)} is not ascending, or no multiple of 2 MiB`,
      );
      const previous = zones.at(-1);
      // Neighbours become one: a run of frames lies in one zone.
      if (previous !== undefined && base === ramEnd) previous.end += size / PAGE_SIZE;
      else zones.push({ first: base / PAGE_SIZE, end: (base + size) / PAGE_SIZE });
      ramEnd = base + size;
    }
    this.ram = zones.map(({ first, end }) => new FrameAllocator(first, end));
    this.ramEnd = ramEnd;
    const foreignBase = options.foreignBase ?? Math.max(FOREIGN_BASE, ramEnd + CHUNK_SIZE);
    assert(foreignBase > ramEnd && foreignBase % CHUNK_SIZE === 0, "frames of others must be numbered from above RAM");
    this.foreign = new ForeignFrames(foreignBase / PAGE_SIZE, foreignBase / PAGE_SIZE + FOREIGN_FRAMES);
  }

  /** Frames of RAM given out. */
  get usedFrames(): number {
    return this.ram.reduce((sum, zone) => sum + zone.size, 0);
  }

  /** Frames of RAM that are not given out. */
  get freeFrames(): number {
    return this.ram.reduce((sum, zone) => sum + (zone.end - zone.first) - zone.size, 0);
  }

  /** Frames of others. */
  get adoptedFrames(): number {
    return this.foreign.allocator.size;
  }

  /** Bytes of the host's memory that the content of RAM takes. */
  get residentBytes(): number {
    return this.content.size;
  }

  // Content

  /** True where there is RAM or a frame of somebody. */
  isBacked(pa: number): boolean {
    return this.isRam(pa) || this.foreign.at(Math.floor(pa / PAGE_SIZE)) !== undefined;
  }

  /**
   * The chunk that holds `pa`, for those who read many words: the word is at `wordIndex(pa)`, that is
   * `(pa % 2097152) / 4`. Undefined where RAM is untouched or not there: then ask {@link readWord}. Not to be kept.
   */
  words(pa: number): Uint32Array | undefined {
    return pa < this.ramEnd ? this.content.words(pa) : undefined;
  }

  /** {@link words} for those who have the address in words: chunk `index` is the one at `index` * 2 MiB. */
  chunk(index: number): Uint32Array | undefined {
    return this.content.chunk(index);
  }

  /** The 32-bit word at `pa`, a multiple of 4. Throws {@link BusError}. */
  readWord(pa: number): number {
    if (pa < this.ramEnd) {
      const words = this.content.words(pa);
      if (words !== undefined) return words[wordIndex(pa)];
      if (this.isRam(pa)) return 0;
    }
    const bytes = new Uint8Array(4);
    this.read(pa, bytes);
    return new DataView(bytes.buffer).getUint32(0, true);
  }

  /** Throws {@link BusError}. */
  writeWord(pa: number, value: number): void {
    if (pa < this.ramEnd) {
      const words = this.content.words(pa);
      if (words !== undefined) {
        words[wordIndex(pa)] = value;
        return;
      }
      if (this.isRam(pa)) {
        this.content.writeWord(pa, value);
        return;
      }
    }
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value, true);
    this.write(pa, bytes);
  }

  /** A 64-bit word at `pa`, a multiple of 8, in one piece: who reads it sees the old one or the new. */
  writeDoubleword(pa: number, low: number, high: number): void {
    this.writeWord(pa, low);
    this.writeWord(pa + 4, high);
  }

  /** Fills `into` from any address on. Throws {@link BusError} at the first byte that is not there, the rest unread. */
  read(pa: number, into: Uint8Array): void {
    this.transfer(pa, into, false);
  }

  /** Throws {@link BusError} at the first byte that is not there; those before it are written. */
  write(pa: number, from: Uint8Array): void {
    this.transfer(pa, from, true);
  }

  /** As {@link read} and {@link write}, as a bus answers a device: false where nothing is there. */
  access(pa: number, bytes: Uint8Array, write: boolean): boolean {
    try {
      this.transfer(pa, bytes, write);
      return true;
    } catch (error) {
      if (error instanceof BusError) return false;
      throw error;
    }
  }

  /** Copies the content of one frame of RAM to another. */
  copyFrame(from: number, to: number): void {
    this.content.copyFrame(from, to);
  }

  // Frames of RAM

  /**
   * Gives out `count` consecutive frames of RAM, zeroed, the lowest that are free; the first one is a multiple of
   * `align` (in frames). Returns its number. Throws Refusal ENOMEM.
   */
  allocate(count = 1, align = 1): number {
    this.system.failures.point("memory.frames.allocate");
    for (const zone of this.ram) {
      const pfn = count === 1 && align === 1 ? zone.allocate() : zone.allocateRun(count, align);
      if (pfn === undefined) continue;
      this.content.clear(pfn, count);
      if (this.system.events.on) this.system.events.emit({ kind: "memory.frames.allocate", pfn, count });
      return pfn;
    }
    return refuse(ENOMEM, () => `RAM has no ${count} free consecutive frames aligned to ${align}`);
  }

  /** Takes back frames of RAM; one that is pinned when its last pin goes. */
  free(pfn: number, count = 1): void {
    const zone = this.zoneOf(pfn);
    assert(zone?.hasRange(pfn, count) ?? false, () => `frames ${frames(pfn, count)} are freed but not in use`);
    if (this.system.events.on) this.system.events.emit({ kind: "memory.frames.free", pfn, count });
    this.pins.giveUp(pfn, count);
  }

  // Frames of others

  /**
   * Numbers `count` frames for pages 0, 1, … of `backing`: one run outside of RAM. Long runs lie in their 2 MiB as the
   * page number `alike` lies in its own, so that large leaves fit. Throws Refusal ENOMEM.
   */
  adopt(backing: FrameBacking, count: number, alike = 0): number {
    this.system.failures.point("memory.frames.adopt");
    const pfn = this.foreign.adopt(backing, count, alike);
    if (pfn === undefined) refuse(ENOMEM, () => `no ${count} consecutive frame numbers are left`);
    if (this.system.events.on) this.system.events.emit({ kind: "memory.frames.adopt", pfn, count });
    return pfn;
  }

  /**
   * Numbers `count` zeroed frames outside of RAM that a host can let clients map: it rebinds them to what it shares with
   * these. Given back by {@link drop}. Throws Refusal ENOMEM.
   */
  allocateShareable(count: number): number {
    return this.adopt(new MemoryFile(count * PAGE_SIZE, "shareable frames"), count);
  }

  /** From now on page `firstPage` of `backing` is behind adopted frame `pfn`, the next page behind the next, and so on. */
  rebind(pfn: number, count: number, backing: FrameBacking, firstPage = 0): void {
    this.foreign.bind(pfn, count, backing, firstPage);
    if (this.system.events.on) this.system.events.emit({ kind: "memory.frames.rebind", pfn, count });
  }

  /** Forgets adopted frames; one that is pinned when its last pin goes. */
  drop(pfn: number, count: number): void {
    assert(this.foreign.allocator.hasRange(pfn, count), () => `frames ${frames(pfn, count)} were not adopted`);
    if (this.system.events.on) this.system.events.emit({ kind: "memory.frames.drop", pfn, count });
    this.pins.giveUp(pfn, count);
  }

  // Pins

  /** Adds a pin to each frame: it stays, with its content, until {@link unpin}. */
  pin({ pfn, count }: FrameRun): void {
    const zone = this.zoneOf(pfn) ?? this.foreign.allocator;
    assert(zone.hasRange(pfn, count), () => `frames ${frames(pfn, count)} are pinned but not in use`);
    this.pins.add({ pfn, count });
    if (this.system.events.on) this.system.events.emit({ kind: "memory.frames.pin", pfn, count });
  }

  /** Takes a pin from each frame. Backings hear of the last one; frames given up meanwhile are free then. */
  unpin(runs: readonly FrameRun[]): void {
    for (const run of runs) {
      if (this.system.events.on)
        this.system.events.emit({ kind: "memory.frames.unpin", pfn: run.pfn, count: run.count });
      this.pins.remove(run);
    }
  }

  /** Pins on a frame. */
  pinCount(pfn: number): number {
    return this.pins.get(pfn);
  }

  /** The frames of a run in order, in parts that are pinned or not. */
  splitByPins(run: FrameRun): (FrameRun & { readonly pinned: boolean })[] {
    return this.pins.split(run);
  }

  /** Frames that have a pin. */
  get pinnedFrames(): number {
    return this.pins.size;
  }

  private tellBackings(pfn: number, count: number): void {
    if (pfn < this.foreign.allocator.first) return;
    for (let at = pfn, end = pfn + count; at < end; ) {
      const run = this.foreign.at(at);
      assert(run !== undefined, () => `the pinned frame 0x${at.toString(16)} is gone`);
      const length = Math.min(run.pfn + run.count, end) - at;
      run.backing.unpinned?.(run.page + (at - run.pfn), length);
      at += length;
    }
  }

  private release(pfn: number, count: number): void {
    const zone = this.zoneOf(pfn);
    if (zone === undefined) {
      this.foreign.drop(pfn, count);
      return;
    }
    zone.free(pfn, count);
    this.content.discardChunks(pfn, count);
  }

  private zoneOf(pfn: number): FrameAllocator | undefined {
    for (const zone of this.ram) if (pfn >= zone.first && pfn < zone.end) return zone;
    return undefined;
  }

  private isRam(pa: number): boolean {
    return this.ramAt(pa) !== undefined;
  }

  private ramAt(pa: number): FrameAllocator | undefined {
    return pa < this.ramEnd ? this.zoneOf(Math.floor(pa / PAGE_SIZE)) : undefined;
  }

  private transfer(pa: number, bytes: Uint8Array, write: boolean): void {
    for (let done = 0; done < bytes.length; ) {
      const at = pa + done;
      const pfn = Math.floor(at / PAGE_SIZE);
      const zone = this.ramAt(at);
      const run = zone === undefined ? this.foreign.at(pfn) : undefined;
      const end = zone?.end ?? (run === undefined ? pfn : run.pfn + run.count);
      if (end === pfn) throw new BusError(at);
      const length = Math.min(bytes.length - done, end * PAGE_SIZE - at);
      const part = length === bytes.length ? bytes : bytes.subarray(done, done + length);
      if (run === undefined) {
        if (write) this.content.write(at, part);
        else this.content.read(at, part);
      } else {
        const page = run.page + (pfn - run.pfn);
        if (write) run.backing.write(page, at % PAGE_SIZE, part);
        else run.backing.read(page, at % PAGE_SIZE, part);
      }
      done += length;
    }
  }
}

function frames(pfn: number, count: number): string {
  return `0x${pfn.toString(16)} +${count}`;
}
