// Runs in a browser.
import { assert } from "../runtime/index.ts";
import { FrameAllocator } from "./frame-allocator.ts";
import { SparseArray } from "./sparse.ts";
import type { FrameBacking } from "./types.ts";

/** Frames of one group: 2 MiB. */
const GROUP = 512;

/** Consecutive frames with consecutive pages of one backing. Never crosses a group. */
export interface ForeignRun {
  readonly pfn: number;
  readonly count: number;
  readonly backing: FrameBacking;
  /** The backing's page behind `pfn`. */
  readonly page: number;
}

/** Frames whose content is somebody else's: numbers from a window outside of RAM, and what is behind each. */
export class ForeignFrames {
  readonly allocator: FrameAllocator;
  private readonly first: number;
  /** By group (counted from the window's start), the runs in it in ascending order. */
  private readonly groups = new SparseArray<ForeignRun[]>();

  constructor(first: number, end: number) {
    this.first = first;
    this.allocator = new FrameAllocator(first, end);
  }

  /** The run that holds a frame. */
  at(pfn: number): ForeignRun | undefined {
    const runs = this.groups.get(this.groupOf(pfn));
    if (runs === undefined) return undefined;
    const run = runs[firstFrom(runs, (candidate) => candidate.pfn > pfn) - 1] as ForeignRun | undefined;
    return run !== undefined && pfn < run.pfn + run.count ? run : undefined;
  }

  /**
   * New frames in one run; undefined if there is none so long. Runs of a 2 MiB group or more begin in their group
   * where the page number `alike` does in its own, so that large leaves fit both.
   */
  adopt(backing: FrameBacking, count: number, alike: number): number | undefined {
    const align = Math.min(GROUP, 2 ** Math.floor(Math.log2(count)));
    const pfn = this.allocator.allocateRun(count, align, alike % align);
    if (pfn !== undefined) this.bind(pfn, count, backing, 0);
    return pfn;
  }

  /** From now on, page `page` of `backing` is behind `pfn`, and so on. */
  bind(pfn: number, count: number, backing: FrameBacking, page: number): void {
    assert(this.allocator.hasRange(pfn, count), () => `frames 0x${pfn.toString(16)} +${count} were never adopted`);
    this.change(pfn, count, (from, length) => ({ pfn: from, count: length, backing, page: page + (from - pfn) }));
  }

  /** The frames are no more. */
  drop(pfn: number, count: number): void {
    this.allocator.free(pfn, count);
    this.change(pfn, count, () => undefined);
  }

  private groupOf(pfn: number): number {
    return Math.floor((pfn - this.first) / GROUP);
  }

  /** Cuts a range out of the runs, group by group, and puts `make`'s run in its place. */
  private change(pfn: number, count: number, make: (pfn: number, count: number) => ForeignRun | undefined): void {
    for (let at = pfn, end = pfn + count; at < end; ) {
      const group = this.groupOf(at);
      const to = Math.min(end, this.first + (group + 1) * GROUP);
      const runs = this.groups.get(group) ?? [];
      const first = firstFrom(runs, (run) => run.pfn + run.count > at);
      const next = firstFrom(runs, (run) => run.pfn >= to);
      const pieces: ForeignRun[] = [];
      if (first < next && runs[first].pfn < at) pieces.push({ ...runs[first], count: at - runs[first].pfn });
      const made = make(at, to - at);
      if (made !== undefined) pieces.push(made);
      const last = runs[next - 1];
      if (first < next && last.pfn + last.count > to) {
        const cut = to - last.pfn;
        pieces.push({ ...last, pfn: to, page: last.page + cut, count: last.count - cut });
      }
      runs.splice(first, next - first, ...pieces);
      this.groups.set(group, runs.length === 0 ? undefined : runs);
      at = to;
    }
  }
}

/** Where in ascending order the first run is for which `is` holds, and holds for all behind it. */
function firstFrom(runs: readonly ForeignRun[], is: (run: ForeignRun) => boolean): number {
  let low = 0;
  let high = runs.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (is(runs[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}
