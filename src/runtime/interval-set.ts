// Runs in a browser.
import { assert } from "./assert.ts";
import { IntervalMap, type Range } from "./intervals.ts";

/** A set of numbers of 0 … 2^64-1, kept as ranges that neither touch nor overlap. */
export class IntervalSet {
  private readonly map = new IntervalMap<undefined>();

  get isEmpty(): boolean {
    return this.map.size === 0;
  }

  /** Number of ranges. */
  get size(): number {
    return this.map.size;
  }

  add(start: bigint, last: bigint): void {
    assert(start <= last, () => `no range: ${start} … ${last}`);
    let from = start;
    let to = last;
    // Neighbours that only touch are joined too.
    for (const range of this.map.intersecting(start === 0n ? 0n : start - 1n, last + 1n)) {
      if (range.start < from) from = range.start;
      if (range.last > to) to = range.last;
      this.map.remove(range);
    }
    this.map.insert(from, to, undefined);
  }

  /** Removes the numbers of a range, those that are there. */
  remove(start: bigint, last: bigint): void {
    assert(start <= last, () => `no range: ${start} … ${last}`);
    for (const range of this.map.intersecting(start, last)) {
      this.map.remove(range);
      if (range.start < start) this.map.insert(range.start, start - 1n, undefined);
      if (range.last > last) this.map.insert(last + 1n, range.last, undefined);
    }
  }

  has(point: bigint): boolean {
    return this.map.at(point) !== undefined;
  }

  /** True if a number of the range is in the set. */
  intersects(start: bigint, last: bigint): boolean {
    return this.map.firstIntersecting(start, last) !== undefined;
  }

  /** The ranges, clipped to `start` … `last`, ascending. */
  *ranges(start = 0n, last = 0xffffffffffffffffn): Generator<Range, void, undefined> {
    for (const range of this.map.intersecting(start, last)) {
      yield { start: range.start < start ? start : range.start, last: range.last > last ? last : range.last };
    }
  }

  /** The gaps inside `start` … `last`, clipped to it, ascending. */
  holes(start: bigint, last: bigint): Generator<Range, void, undefined> {
    return this.map.holes(start, last);
  }
}
