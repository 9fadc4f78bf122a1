// Runs in a browser.
/**
 * Page sets: where the memory of areas comes from, and which of its pages are pinned (reference 3.6).
 *
 * A page set is a stretch of a process's address space, or of a file. MAP makes one for its area; COPY lets further
 * areas, each with its own part, share it. Pages are numbered as in their source: address or file offset / 4096.
 *
 * Always true: a page is pinned exactly while somebody has acquired it, and then once, however many have; `segments` says
 * which pages those are, in ascending order, and holds their frames. Everything here is plain functions, so that nobody
 * sees a page set half changed.
 */
import {
  type AccountMode,
  type AddressSpace,
  charge,
  type DmaBuf,
  type FrameRun,
  PAGE_SIZE,
  type PhysicalMemory,
  type Process,
  type User,
  uncharge,
} from "../memory/index.ts";
import { EFAULT, EINVAL, EOVERFLOW, refuse, type System, type Task } from "../runtime/index.ts";
import type { Area } from "./area.ts";
import type { IovaSpace } from "./iova-space.ts";

/** Pages of an address space of 64 bits. */
const ADDRESS_SPACE_PAGES = 2 ** 52;
/** As many pages are looked at together; a longer pin that ends at the end of the address space fails before. */
const PIN_BATCH = 8192;

/** Where pages come from. */
export interface PageSource {
  /** For people: `"memory of process 12"`. */
  readonly label: string;
  /** Only pages of a regular file can be taken over by another process (IOAS_CHANGE_PROCESS). */
  readonly kind: "memory" | "file" | "dma-buf";
  /** Whose memory it is, if it is a process's. */
  readonly addressSpace?: AddressSpace;
  /** Frames of pages `page` … `page + count - 1`, pinned. All or nothing. `caller` makes the call that needs them. */
  pin(page: number, count: number, writable: boolean, caller: Process): FrameRun[];
}

/** Memory of a process: pages are looked up in its address space each time they are pinned. */
export class UserPages implements PageSource {
  readonly kind = "memory";
  private readonly process: Process;

  constructor(process: Process) {
    this.process = process;
  }

  get label(): string {
    return `memory of ${this.process.label}`;
  }

  get addressSpace(): AddressSpace {
    return this.process.memory;
  }

  pin(page: number, count: number, writable: boolean, caller: Process): FrameRun[] {
    const space = this.process.memory;
    if (!space.alive) refuse(EFAULT, () => `${this.label}, which is gone, cannot be pinned any more`);
    if (page + count >= ADDRESS_SPACE_PAGES) {
      const errno = caller.memory === space && count <= PIN_BATCH ? EOVERFLOW : EFAULT;
      refuse(errno, () => `the pages end at the end of the address space, where none can be pinned`);
    }
    return space.pin(page, count, writable);
  }
}

/** Anything that was mapped with MAP_FILE. What kind of file it is matters only when pages are pinned. */
export class FilePages implements PageSource {
  readonly kind = "file";
  readonly label: string;
  private readonly memory: PhysicalMemory;
  private readonly file: ReturnType<Process["file"]>;

  constructor(memory: PhysicalMemory, file: ReturnType<Process["file"]>) {
    this.memory = memory;
    this.file = file;
    this.label = file.kind === "ours" ? file.file.label : file.kind === "eventfd" ? "an eventfd" : file.label;
  }

  pin(page: number, count: number): FrameRun[] {
    const { file, memory } = this;
    if (file.kind !== "memory") {
      return refuse(
        EINVAL,
        () => `${this.label} is no memory file: only memfd, shmem and hugetlb files have pages to pin`,
      );
    }
    if ((page + count) * PAGE_SIZE > file.size) {
      refuse(
        EINVAL,
        () => `pages ${page} to ${page + count - 1} reach beyond the end of ${this.label}, ${file.size} bytes`,
      );
    }
    if (file.pin !== undefined) return file.pin(page, count);
    const pfn = memory.adopt(file.backing, count, page);
    memory.rebind(pfn, count, file.backing, page);
    const run = { pfn, count };
    memory.pin(run);
    // The pin keeps the frames; nobody else needs them.
    memory.drop(pfn, count);
    return [run];
  }
}

/** A dma-buf: not memory but addresses, which need no pin, until the exporter takes them back. */
export class DmaBufPages implements PageSource {
  readonly kind = "dma-buf";
  readonly buffer: DmaBuf;

  constructor(buffer: DmaBuf) {
    this.buffer = buffer;
  }

  get label(): string {
    return this.buffer.label;
  }

  pin(page: number, count: number): FrameRun[] {
    return [{ pfn: this.buffer.physical / PAGE_SIZE + page, count }];
  }
}

/** What a set of pages of a dma-buf needs to be taken out of all domains. */
interface Revocation {
  revoked: boolean;
  readonly areas: Map<Area, IovaSpace>;
  /** Ends the listening. */
  readonly end: () => void;
}

/** What pinning needs of its surroundings. */
export interface PinningContext {
  readonly system: System;
  readonly memory: PhysicalMemory;
}

/** Where a copy begins, and how it is made. */
export interface PlaceInPages {
  readonly page: number;
  readonly offset: number;
  /** Makes the call. */
  readonly caller: Process;
  /** Through frames, also where the caller could reach its own memory. */
  readonly slow: boolean;
}

/** Copies a contiguous part: its physical address, and which of the bytes it is. */
type Copy = (physical: number, from: number, to: number) => void;

/** Consecutive pages with the same number of users, and their frames. */
interface Segment {
  readonly first: number;
  /** Inclusive. */
  readonly last: number;
  users: number;
  readonly runs: readonly FrameRun[];
}

export class PageSet {
  readonly source: PageSource;
  /** Created by a mapping with WRITEABLE: pins ask for write access. */
  readonly writable: boolean;
  private readonly context: PinningContext;
  private payer: Process;
  /** Of the payer, when the pages were mapped. */
  private user: User;
  private readonly mode: AccountMode;
  private segments: Segment[] = [];
  private pinned = 0;
  private revocation: Revocation | undefined;

  constructor(context: PinningContext, source: PageSource, writable: boolean, payer: Process, mode: AccountMode) {
    this.context = context;
    this.source = source;
    this.writable = writable;
    this.payer = payer;
    this.user = payer.user;
    this.mode = mode;
  }

  // ---- Of a dma-buf: which areas show it

  get isRevocable(): boolean {
    return this.source.kind === "dma-buf";
  }

  /** The exporter has to tell it while an area shows it. */
  shownBy(area: Area, space: IovaSpace): void {
    const { buffer } = this.source as DmaBufPages;
    this.revocation ??= { revoked: buffer.revoked, areas: new Map(), end: buffer.listen(() => this.revoke()) };
    this.revocation.areas.set(area, space);
    area.withdrawn = this.revocation.revoked;
  }

  hiddenBy(area: Area): void {
    const { areas, end } = this.revocation!;
    areas.delete(area);
    if (areas.size > 0) return;
    end();
    this.revocation = undefined;
  }

  /** For good: an exporter that gives the buffer back has to be mapped anew. */
  private *revoke(): Task<void> {
    const revocation = this.revocation!;
    revocation.revoked = true;
    for (const [area, space] of [...revocation.areas]) yield* space.withdraw(area);
  }

  get pinnedPages(): number {
    return this.pinned;
  }

  /** Who is charged for what is pinned. */
  get account(): { readonly payer: Process; readonly mode: AccountMode } {
    return { payer: this.payer, mode: this.mode };
  }

  /**
   * Adds a user to pages `first` … `last`, and pins those that had none. All or nothing. Refusals: EFAULT, EOVERFLOW
   * (memory of a process), EINVAL (not a memory file, beyond its end), ENOMEM (over the payer's limit).
   */
  acquire(first: number, last: number, caller: Process): void {
    if (this.segments.length === 0) {
      const segment = this.pin(first, last, caller);
      segment.users = 1;
      this.segments = [segment];
      return;
    }
    const at = this.cut(first, last);
    const covered: Segment[] = [];
    let end = at;
    try {
      let next = first;
      for (; end < this.segments.length && this.segments[end].first <= last; end++) {
        const segment = this.segments[end];
        if (next < segment.first) covered.push(this.pin(next, segment.first - 1, caller));
        covered.push(segment);
        next = segment.last + 1;
      }
      if (next <= last) covered.push(this.pin(next, last, caller));
    } catch (error) {
      for (const segment of covered) if (segment.users === 0) this.unpin(segment);
      throw error;
    }
    for (const segment of covered) segment.users++;
    this.segments.splice(at, end - at, ...covered);
  }

  /** Takes a user from pages that were acquired; those that have none left are unpinned. */
  release(first: number, last: number): void {
    const { segments } = this;
    if (segments.length === 1 && segments[0].first === first && segments[0].last === last && segments[0].users === 1) {
      this.unpin(segments.pop()!);
      return;
    }
    const at = this.cut(first, last);
    let end = at;
    const left: Segment[] = [];
    for (; end < segments.length && segments[end].first <= last; end++) {
      const segment = segments[end];
      if (--segment.users === 0) this.unpin(segment);
      else left.push(segment);
    }
    segments.splice(at, end - at, ...left);
  }

  /** The frames of pages that were acquired, in page order, consecutive ones as one run. */
  frames(first: number, last: number): readonly FrameRun[] {
    const { segments } = this;
    if (segments.length === 1 && segments[0].first === first && segments[0].last === last) return segments[0].runs;
    const runs: FrameRun[] = [];
    for (let at = this.search(first); at < segments.length && segments[at].first <= last; at++) {
      const segment = segments[at];
      const from = Math.max(first, segment.first) - segment.first;
      const to = Math.min(last, segment.last) - segment.first;
      for (const run of clip(segment.runs, from, to)) append(runs, run);
    }
    return runs;
  }

  // ---- Copy without pinning (reference 3.13)

  /** Refusals: EFAULT, EOVERFLOW (memory of a process), EINVAL (file). A part may have been copied. */
  read(place: PlaceInPages, into: Uint8Array): void {
    if (this.isReachedDirectly(place)) {
      this.source.addressSpace!.read(addressOf(place), into);
      return;
    }
    const { memory } = this.context;
    const copy: Copy = (physical, from, to) => memory.read(physical, into.subarray(from, to));
    this.throughFrames(place, into.length, false, copy);
  }

  /** The same for writing; only to a page set that is writable. */
  write(place: PlaceInPages, bytes: Uint8Array): void {
    if (this.isReachedDirectly(place)) {
      this.source.addressSpace!.write(addressOf(place), bytes);
      return;
    }
    const { memory } = this.context;
    const copy: Copy = (physical, from, to) => memory.write(physical, bytes.subarray(from, to));
    this.throughFrames(place, bytes.length, true, copy);
  }

  private isReachedDirectly({ caller, slow }: PlaceInPages): boolean {
    return !slow && caller.memory === this.source.addressSpace;
  }

  /** `copy` gets each contiguous part. Pins for that time only. */
  private throughFrames({ page, offset, caller }: PlaceInPages, length: number, writes: boolean, copy: Copy): void {
    const last = page + Math.floor((offset + length - 1) / PAGE_SIZE);
    const borrowed: FrameRun[] = [];
    try {
      const runs = this.borrow(page, last, writes, caller, borrowed);
      let done = 0;
      for (const { pfn, count } of runs) {
        const skip = done === 0 ? offset : 0;
        const end = Math.min(length, done + count * PAGE_SIZE - skip);
        copy(pfn * PAGE_SIZE + skip, done, end);
        done = end;
      }
    } finally {
      this.context.memory.unpin(borrowed);
    }
  }

  /** Frames of pages; those that nobody has pinned are pinned, into `borrowed`, and charged to nobody. */
  private borrow(first: number, last: number, writes: boolean, caller: Process, borrowed: FrameRun[]): FrameRun[] {
    const { source, segments } = this;
    // A page alone is asked of its process, for what is done now, also where it is pinned; that of a process that is gone
    // only if it is.
    if (first === last && source.addressSpace?.alive) {
      this.context.system.failures.point("iommufd.pages.copy", EINVAL);
      borrowed.push(...source.addressSpace.pin(first, 1, writes));
      return borrowed;
    }
    const runs: FrameRun[] = [];
    const pinUpTo = (next: number, end: number): void => {
      if (next > end) return;
      const pinned = source.pin(next, end - next + 1, this.writable, caller);
      borrowed.push(...pinned);
      runs.push(...pinned);
    };
    let next = first;
    for (let at = this.search(first); at < segments.length && segments[at].first <= last; at++) {
      const segment = segments[at];
      pinUpTo(next, segment.first - 1);
      const from = Math.max(first, segment.first) - segment.first;
      runs.push(...clip(segment.runs, from, Math.min(last, segment.last) - segment.first));
      next = segment.last + 1;
    }
    pinUpTo(next, last);
    return runs;
  }

  /**
   * Charges what is pinned to somebody else, in the mode that it was mapped in; what is charged to nobody, or to him
   * already, stays as it is. Refusals: ENOMEM (over his limit), EINVAL (by process, and the one that was charged is gone);
   * then nothing has changed.
   */
  changePayer(payer: Process): void {
    const { mode, payer: before } = this;
    if (mode === "none" || (payer === before && payer.user === this.user)) return;
    charge(payer, mode, this.pinned);
    if (mode === "process" && !before.memory.alive) {
      uncharge(payer, mode, this.pinned);
      refuse(EINVAL, () => `${before.label}, which was charged for ${this.source.label}, is gone`);
    }
    uncharge(before, mode, this.pinned, this.user);
    this.payer = payer;
    this.user = payer.user;
  }

  /** A segment that nobody uses yet. */
  private pin(first: number, last: number, caller: Process): Segment {
    const count = last - first + 1;
    this.context.system.failures.point("iommufd.pages.pin", EFAULT);
    const runs = this.source.pin(first, count, this.writable, caller);
    if (this.source.kind === "dma-buf") return { first, last, users: 0, runs };
    try {
      charge(this.payer, this.mode, count, this.user);
    } catch (error) {
      this.context.memory.unpin(runs);
      throw error;
    }
    this.pinned += count;
    return { first, last, users: 0, runs };
  }

  private unpin(segment: Segment): void {
    if (this.source.kind === "dma-buf") return;
    const count = segment.last - segment.first + 1;
    this.context.memory.unpin(segment.runs);
    uncharge(this.payer, this.mode, count, this.user);
    this.pinned -= count;
  }

  /** Makes segments begin at `first` and after `last` where they span these; the index of the first one in the range. */
  private cut(first: number, last: number): number {
    this.cutBefore(last + 1);
    this.cutBefore(first);
    return this.search(first);
  }

  private cutBefore(page: number): void {
    const at = this.search(page);
    const segment = this.segments[at];
    if (segment === undefined || segment.first >= page) return;
    const { first, last, users, runs } = segment;
    this.segments.splice(
      at,
      1,
      { first, last: page - 1, users, runs: clip(runs, 0, page - 1 - first) },
      { first: page, last, users, runs: clip(runs, page - first, last - first) },
    );
  }

  /** Index of the first segment that ends at or after `page`. */
  private search(page: number): number {
    let low = 0;
    let high = this.segments.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.segments[middle].last < page) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function addressOf({ page, offset }: PlaceInPages): number | bigint {
  const near = page * PAGE_SIZE + offset;
  return near <= Number.MAX_SAFE_INTEGER ? near : BigInt(page) * BigInt(PAGE_SIZE) + BigInt(offset);
}

/** The part of `runs` from page `from` to page `to`, counted from their beginning. */
function clip(runs: readonly FrameRun[], from: number, to: number): FrameRun[] {
  const parts: FrameRun[] = [];
  let start = 0;
  for (const { pfn, count } of runs) {
    const first = Math.max(from, start);
    const last = Math.min(to, start + count - 1);
    if (first <= last) parts.push({ pfn: pfn + first - start, count: last - first + 1 });
    start += count;
  }
  return parts;
}

/** Adds a run, to the last one where it continues that. */
function append(runs: FrameRun[], run: FrameRun): void {
  const before = runs.at(-1);
  if (before !== undefined && before.pfn + before.count === run.pfn) {
    runs[runs.length - 1] = { pfn: before.pfn, count: before.count + run.count };
  } else {
    runs.push(run);
  }
}
