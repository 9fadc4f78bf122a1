// Runs in a browser.
import { EFAULT, EINVAL, ENOMEM, Refusal, refuse, type System } from "../runtime/index.ts";
import { type Extent, ExtentList } from "./extents.ts";
import { FrameCounts } from "./frame-counts.ts";
import { MmNotifiers } from "./notifiers.ts";
import type { PhysicalMemory } from "./physical.ts";
import {
  type AddressSpace,
  type FrameRun,
  PAGE_EXECUTE,
  PAGE_READ,
  PAGE_SIZE,
  PAGE_WRITE,
  type ResidentPages,
  type UserAddress,
} from "./types.ts";

/** Where mappings go that ask for no address, and where user addresses end (as on x86-64 Linux), in pages. */
const FIRST_PAGE = 0x7f0000000;
const END_PAGE = 2 ** 35 - 1;
/** From this size on, mappings are aligned to large leaves: 2 MiB. */
const LARGE = 512;

/**
 * The address space of a library's process: private pages on frames of RAM.
 *
 * Always true: a frame is mapped by one address space, or shared, copy on write, by several that fork made; `sharers`
 * counts those beyond the first. A pinned page is never shared: pinning makes it this address space's own, and fork
 * copies it for the child at once and leaves it to the parent (Linux's rule for pages that may be pinned). So what a
 * device reads and writes is what the process that pinned reads and writes, for as long as it maps the page. Whatever
 * changes the frame behind a page, or takes a right to it away, is told to `notifiers` before.
 */
export class LibraryAddressSpace implements AddressSpace {
  readonly label: string;
  alive = true;
  lockedPages = 0;
  pinnedPages = 0;
  readonly notifiers: MmNotifiers = new MmNotifiers();
  private readonly system: System;
  private readonly physical: PhysicalMemory;
  /** Per frame, how many address spaces of the family map it beyond the first. */
  private readonly sharers: FrameCounts;
  private extents = new ExtentList();
  private nextPage = FIRST_PAGE;

  constructor(system: System, physical: PhysicalMemory, label: string, relative?: LibraryAddressSpace) {
    this.system = system;
    this.physical = physical;
    this.label = label;
    this.sharers = relative?.sharers ?? new FrameCounts();
  }

  /**
   * Maps `count` zeroed pages and returns their address, in bytes. They get consecutive frames if there are any.
   * Throws Refusal EINVAL for an address that is no page of a user or is mapped, ENOMEM when RAM is short.
   */
  map(count: number, options: { writable?: boolean; address?: number } = {}): number {
    const { writable = true, address } = options;
    if (!this.alive) refuse(EINVAL, () => `${this.label} is gone`);
    const align = count >= LARGE ? LARGE : 1;
    const page = address === undefined ? this.findPage(count, align) : address / PAGE_SIZE;
    if (!Number.isInteger(page) || page < 0 || count <= 0 || page + count > END_PAGE) {
      refuse(EINVAL, () => `${count} pages from ${hex(page * PAGE_SIZE)} on are no pages of a user`);
    }
    const [taken] = this.extents.within(page, count);
    if (taken !== undefined) refuse(EINVAL, () => `${pageText(taken.page)} of ${this.label} is mapped already`);
    let at = page;
    for (const run of this.allocate(count, page % align === 0 ? align : 1)) {
      this.extents.insert({ page: at, count: run.count, pfn: run.pfn, writable, copyOnWrite: false });
      at += run.count;
    }
    if (this.system.events.on) this.tell("memory.pages.map", page, count);
    return page * PAGE_SIZE;
  }

  /** Unmaps what is mapped of `count` pages; pinned frames stay until they are unpinned. */
  unmap(address: number, count: number): void {
    const page = pageAt(address);
    this.notifiers.during(page, count, () => {
      for (const piece of this.extents.remove(page, count)) this.letGo(piece.pfn, piece.count);
    });
    if (this.system.events.on) this.tell("memory.pages.unmap", page, count);
  }

  /** Lets `count` pages be written, or not (mprotect). Throws Refusal ENOMEM if one is not mapped. */
  protect(address: number, count: number, { writable }: { readonly writable: boolean }): void {
    const page = pageAt(address);
    this.present(page, count, ENOMEM);
    this.notifiers.during(page, count, () => {
      for (const piece of this.extents.remove(page, count)) this.extents.insert({ ...piece, writable });
    });
    if (this.system.events.on) this.tell("memory.pages.protect", page, count);
  }

  /** Puts zeroed pages in place of `count` (madvise with MADV_DONTNEED). Throws Refusal ENOMEM, and nothing has changed. */
  discard(address: number, count: number): void {
    const page = pageAt(address);
    this.present(page, count, ENOMEM);
    const runs = this.allocate(count, 1);
    this.notifiers.during(page, count, () => {
      const pieces = this.extents.remove(page, count);
      for (const piece of joined(pieces, runs)) this.extents.insert({ ...piece, copyOnWrite: false });
      for (const { pfn, count: frames } of pieces) this.letGo(pfn, frames);
    });
    if (this.system.events.on) this.tell("memory.pages.discard", page, count);
  }

  /** Moves `count` pages to `target` (mremap). Throws Refusal EINVAL if something is mapped there, EFAULT if a page is not. */
  move(address: number, count: number, target: number): void {
    const page = pageAt(address);
    const to = pageAt(target);
    this.present(page, count);
    const [taken] = this.extents.within(to, count);
    if (taken !== undefined) refuse(EINVAL, () => `${pageText(taken.page)} of ${this.label} is mapped already`);
    this.notifiers.during(page, count, () => {
      for (const piece of this.extents.remove(page, count)) {
        this.extents.insert({ ...piece, page: piece.page - page + to });
      }
    });
    if (this.system.events.on) this.tell("memory.pages.move", page, count);
  }

  /** A copy of this address space, as fork makes it. Throws Refusal ENOMEM, and then nothing has changed. */
  fork(label: string): LibraryAddressSpace {
    return this.notifiers.during(0, END_PAGE, () => this.copy(label));
  }

  private copy(label: string): LibraryAddressSpace {
    const child = new LibraryAddressSpace(this.system, this.physical, label, this);
    child.nextPage = this.nextPage;
    const own = new ExtentList();
    try {
      for (const extent of this.extents) {
        let { page } = extent;
        for (const { pfn, count, pinned } of this.physical.splitByPins(extent)) {
          const part = { ...extent, page, pfn, count };
          if (pinned) {
            own.insert(part);
            child.takeCopy(part);
          } else {
            const shared = { ...part, copyOnWrite: true };
            this.sharers.increment(pfn, count);
            own.insert(shared);
            child.extents.insert(shared);
          }
          page += count;
        }
      }
    } catch (error) {
      child.exit();
      throw error;
    }
    this.extents = own;
    if (this.system.events.on)
      this.system.events.emit({ kind: "memory.process.fork", label: this.label, child: label });
    return child;
  }

  /** The process is gone: everything is unmapped. Pinned frames stay until they are unpinned. */
  exit(): void {
    if (!this.alive) return;
    this.alive = false;
    this.notifiers.release();
    for (const extent of this.extents) this.letGo(extent.pfn, extent.count);
    this.extents = new ExtentList();
    if (this.system.events.on) this.system.events.emit({ kind: "memory.process.exit", label: this.label });
  }

  read(address: UserAddress, into: Uint8Array): void {
    const { page, offset } = split(address);
    const count = pagesOf(offset, into.length);
    const whole = this.extents.holding(page, count);
    if (whole !== undefined) {
      this.physical.read(frameOf(whole, page) * PAGE_SIZE + offset, into);
      return;
    }
    let done = 0;
    for (const piece of this.present(page, count)) {
      const skip = done === 0 ? offset : 0;
      const length = Math.min(piece.count * PAGE_SIZE - skip, into.length - done);
      this.physical.read(piece.pfn * PAGE_SIZE + skip, into.subarray(done, done + length));
      done += length;
    }
  }

  write(address: UserAddress, from: Uint8Array): void {
    const { page, offset } = split(address);
    const count = pagesOf(offset, from.length);
    const whole = this.extents.holding(page, count);
    if (whole?.writable && !whole.copyOnWrite) {
      this.physical.write(frameOf(whole, page) * PAGE_SIZE + offset, from);
      return;
    }
    this.requireWritable(page, count);
    this.unshare(page, count);
    let done = 0;
    for (const piece of this.extents.within(page, count)) {
      const skip = done === 0 ? offset : 0;
      const length = Math.min(piece.count * PAGE_SIZE - skip, from.length - done);
      this.physical.write(piece.pfn * PAGE_SIZE + skip, from.subarray(done, done + length));
      done += length;
    }
  }

  pin(page: number, count: number, writable: boolean): FrameRun[] {
    this.system.failures.point("memory.pages.pin");
    const whole = this.extents.holding(page, count);
    if (whole !== undefined && !whole.copyOnWrite && (whole.writable || !writable)) {
      const run = { pfn: frameOf(whole, page), count };
      this.physical.pin(run);
      return [run];
    }
    if (writable) this.requireWritable(page, count);
    else this.present(page, count);
    this.unshare(page, count);
    const runs: { pfn: number; count: number }[] = [];
    for (const piece of this.extents.within(page, count)) {
      const previous = runs.at(-1);
      if (previous !== undefined && previous.pfn + previous.count === piece.pfn) previous.count += piece.count;
      else runs.push({ pfn: piece.pfn, count: piece.count });
    }
    for (const run of runs) this.physical.pin(run);
    return runs;
  }

  faultIn(page: number, rights: number): ResidentPages {
    if ((rights & PAGE_EXECUTE) !== 0) refuse(EFAULT, () => `${pageText(page)} of ${this.label} holds no code`);
    if ((rights & PAGE_WRITE) !== 0) {
      this.requireWritable(page, 1);
      this.unshare(page, 1);
    }
    const [{ pfn, writable, copyOnWrite }] = this.present(page, 1);
    return { page, count: 1, pfn, rights: writable && !copyOnWrite ? PAGE_READ | PAGE_WRITE : PAGE_READ };
  }

  /** Where `count` pages fit, with a hole of one page around them, upwards from the last such place. */
  private findPage(count: number, align: number): number {
    let page = this.nextPage;
    for (;;) {
      page = Math.ceil(page / align) * align;
      const taken = this.extents.within(page - 1, count + 2).at(-1);
      if (taken === undefined) break;
      page = taken.page + taken.count + 1;
    }
    this.nextPage = page + count + 1;
    return page;
  }

  /** The pieces of a range, all of it mapped. Throws a Refusal for the first page that is not. */
  private present(page: number, count: number, errno = EFAULT): Extent[] {
    const pieces = this.extents.within(page, count);
    let at = page;
    for (const piece of pieces) {
      if (piece.page !== at) break;
      at += piece.count;
    }
    if (at < page + count) {
      refuse(errno, () =>
        this.alive ? `${pageText(at)} of ${this.label} is not mapped` : `the memory of ${this.label} is gone`,
      );
    }
    return pieces;
  }

  private requireWritable(page: number, count: number): void {
    for (const piece of this.present(page, count)) {
      if (!piece.writable) refuse(EFAULT, () => `${pageText(piece.page)} of ${this.label} is not writable`);
    }
  }

  /** Makes the pages of a range this address space's own: those that others still share are copied. */
  private unshare(page: number, count: number): void {
    for (const piece of this.extents.within(page, count)) {
      if (!piece.copyOnWrite) continue;
      let at = piece.page;
      const parts: Extent[] = [];
      this.sharers.forEachRun(piece.pfn, piece.count, (pfn, length, sharers) => {
        parts.push({ ...piece, page: at, pfn, count: length, copyOnWrite: sharers > 0 });
        at += length;
      });
      for (const part of parts) {
        if (part.copyOnWrite) {
          this.notifiers.during(part.page, part.count, () => {
            this.takeCopy(part);
            this.letGo(part.pfn, part.count);
          });
        } else {
          this.extents.remove(part.page, part.count);
          this.extents.insert(part);
        }
      }
    }
  }

  /** Puts copies of an extent's frames behind its pages here, in place of what is there. */
  private takeCopy(extent: Extent): void {
    const runs = this.allocate(extent.count, 1);
    this.extents.remove(extent.page, extent.count);
    let done = 0;
    for (const { pfn, count } of runs) {
      for (let i = 0; i < count; i++) this.physical.copyFrame(extent.pfn + done + i, pfn + i);
      this.extents.insert({ page: extent.page + done, count, pfn, writable: extent.writable, copyOnWrite: false });
      done += count;
    }
  }

  /** Gives up this address space's share of some frames; the last one frees them. */
  private letGo(pfn: number, count: number): void {
    const alone: FrameRun[] = [];
    this.sharers.forEachRun(pfn, count, (first, length, sharers) => {
      if (sharers === 0) alone.push({ pfn: first, count: length });
      else this.sharers.decrement(first, length, () => undefined);
    });
    for (const run of alone) this.physical.free(run.pfn, run.count);
  }

  /** New frames in as few runs as RAM allows. All or nothing. */
  private allocate(count: number, align: number): FrameRun[] {
    if (count > this.physical.freeFrames) {
      refuse(ENOMEM, () => `${count} frames are asked for and ${this.physical.freeFrames} are free`);
    }
    const runs: FrameRun[] = [];
    let left = count;
    let length = count;
    while (left > 0) {
      length = Math.min(length, left);
      try {
        runs.push({ pfn: this.physical.allocate(length, length >= align ? align : 1), count: length });
        left -= length;
      } catch (error) {
        if (length === 1 || !(error instanceof Refusal)) {
          for (const run of runs) this.physical.free(run.pfn, run.count);
          throw error;
        }
        length = Math.ceil(length / 2);
      }
    }
    return runs;
  }

  private tell(kind: string, page: number, count: number): void {
    this.system.events.emit({ kind, label: this.label, page, count });
  }
}

function split(address: UserAddress): { page: number; offset: number } {
  const near = Number(address);
  if (near <= Number.MAX_SAFE_INTEGER) return { page: Math.floor(near / PAGE_SIZE), offset: near & (PAGE_SIZE - 1) };
  return { page: Number(BigInt(address) / 4096n), offset: Number(BigInt(address) % 4096n) };
}

/** The number of the page that an address begins. Throws Refusal EINVAL. */
function pageAt(address: number): number {
  if (address % PAGE_SIZE !== 0) refuse(EINVAL, () => `${hex(address)} is not the address of a page`);
  return address / PAGE_SIZE;
}

/** The pieces again, with the frames of `runs` behind their pages, in order; as many frames as pages. */
function* joined(pieces: readonly Extent[], runs: readonly FrameRun[]): Iterable<Extent> {
  let run = 0;
  let used = 0;
  for (const piece of pieces) {
    for (let done = 0; done < piece.count; ) {
      const { pfn, count: frames } = runs[run];
      const count = Math.min(piece.count - done, frames - used);
      yield { ...piece, page: piece.page + done, count, pfn: pfn + used };
      done += count;
      used += count;
      if (used === frames) {
        run++;
        used = 0;
      }
    }
  }
}

/** The frame behind a page of an extent. */
function frameOf(extent: Extent, page: number): number {
  return extent.pfn + (page - extent.page);
}

/** Pages that `length` bytes from `offset` in the first one touch. */
function pagesOf(offset: number, length: number): number {
  return length === 0 ? 0 : Math.ceil((offset + length) / PAGE_SIZE);
}

function hex(address: number): string {
  return `0x${address.toString(16)}`;
}

function pageText(page: number): string {
  return `page ${hex(page * PAGE_SIZE)}`;
}
