// Runs in a browser.
import { assert } from "../runtime/index.ts";
import { SparseArray } from "./sparse.ts";

/** Frames of one group: 2 MiB. */
const GROUP = 512;

/** Counts of 512 frames: one number while all are equal, an array once they differ. */
interface Group {
  uniform: number;
  each: Uint32Array | undefined;
  /** The sum of `each`, to notice when all are 0 again. */
  total: number;
}

/**
 * A count for every frame there may be, changed by ranges. Whole groups of 512 frames with equal counts change in one
 * step, so large aligned ranges cost next to nothing, in time and in space; frames with count 0 cost nothing.
 */
export class FrameCounts {
  private readonly groups = new SparseArray<Group>();
  /** The array of a group that is gone, all 0: a page that is pinned again and again by itself needs no new one. */
  private spare: Uint32Array | undefined;
  private nonzero = 0;

  /** How many frames have a count above 0. */
  get size(): number {
    return this.nonzero;
  }

  get(pfn: number): number {
    const group = this.groups.get(Math.floor(pfn / GROUP));
    if (group === undefined) return 0;
    return group.each === undefined ? group.uniform : group.each[pfn & (GROUP - 1)];
  }

  /** Visits `count` frames from `pfn` on in order, in runs of equal counts (a run may be told in parts). */
  forEachRun(pfn: number, count: number, visit: (pfn: number, count: number, value: number) => void): void {
    for (let at = pfn, end = pfn + count; at < end; ) {
      const from = at & (GROUP - 1);
      const to = Math.min(GROUP, from + (end - at));
      const group = this.groups.get(Math.floor(at / GROUP));
      const each = group?.each;
      let length = to - from;
      if (each !== undefined) {
        length = 1;
        while (from + length < to && each[from + length] === each[from]) length++;
      }
      visit(at, length, each === undefined ? (group?.uniform ?? 0) : each[from]);
      at += length;
    }
  }

  /** Adds 1 to `count` frames from `pfn` on. */
  increment(pfn: number, count: number): void {
    for (let at = pfn, end = pfn + count; at < end; ) {
      const index = Math.floor(at / GROUP);
      const from = at & (GROUP - 1);
      const to = Math.min(GROUP, from + (end - at));
      const group = this.groupAt(index);
      if (to - from === GROUP && group.each === undefined) {
        if (group.uniform++ === 0) this.nonzero += GROUP;
      } else {
        const each = this.spread(group);
        group.total += to - from;
        for (let i = from; i < to; i++) if (each[i]++ === 0) this.nonzero++;
      }
      at += to - from;
    }
  }

  /**
   * Takes 1 from `count` frames from `pfn` on, none of which is 0. `gone` is told the frames whose count became 0, in
   * runs as long as they come.
   */
  decrement(pfn: number, count: number, gone: (pfn: number, count: number) => void): void {
    let first = pfn;
    let length = 0;
    for (let at = pfn, end = pfn + count; at < end; ) {
      const index = Math.floor(at / GROUP);
      const from = at & (GROUP - 1);
      const to = Math.min(GROUP, from + (end - at));
      const group = this.groups.get(index);
      assert(group !== undefined, () => `the count of frame 0x${at.toString(16)} is 0 and cannot go down`);
      if (to - from === GROUP && group.each === undefined) {
        if (--group.uniform === 0) {
          this.groups.set(index, undefined);
          if (length === 0) first = at;
          length += GROUP;
        } else if (length > 0) {
          this.nonzero -= length;
          gone(first, length);
          length = 0;
        }
      } else {
        const each = this.spread(group);
        for (let i = from; i < to; i++) {
          assert(each[i] > 0, () => `the count of frame 0x${(at + i - from).toString(16)} is 0 and cannot go down`);
          if (--each[i] === 0) {
            if (length === 0) first = at + i - from;
            length++;
          } else if (length > 0) {
            this.nonzero -= length;
            gone(first, length);
            length = 0;
          }
        }
        group.total -= to - from;
        if (group.total === 0) {
          this.groups.set(index, undefined);
          this.spare = each;
        }
      }
      at += to - from;
    }
    this.nonzero -= length;
    if (length > 0) gone(first, length);
  }

  private groupAt(index: number): Group {
    let group = this.groups.get(index);
    if (group === undefined) {
      group = { uniform: 0, each: undefined, total: 0 };
      this.groups.set(index, group);
    }
    return group;
  }

  private spread(group: Group): Uint32Array {
    if (group.each !== undefined) return group.each;
    const each = this.spare ?? new Uint32Array(GROUP);
    this.spare = undefined;
    if (group.uniform > 0) each.fill(group.uniform);
    group.each = each;
    group.total = group.uniform * GROUP;
    return each;
  }
}
