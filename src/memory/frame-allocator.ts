// Runs in a browser.
import { assert, NumberSet } from "../runtime/index.ts";

/** Gives out frames of one range, lowest first. What was never given out costs nothing. */
export class FrameAllocator {
  readonly first: number;
  /** Exclusive. */
  readonly end: number;
  private readonly used = new NumberSet();

  constructor(first: number, end: number) {
    this.first = first;
    this.end = end;
  }

  /** How many frames are given out. */
  get size(): number {
    return this.used.size;
  }

  /** The lowest free frame, or undefined. */
  allocate(): number | undefined {
    if (this.used.size >= this.end - this.first) return undefined;
    return this.first + this.used.addLowest();
  }

  /** The lowest free run of `count` frames whose first one is `phase` modulo `align`; undefined if there is none. */
  allocateRun(count: number, align: number, phase = 0): number | undefined {
    const { first, end, used } = this;
    let pfn = first + used.lowestAbsent();
    for (;;) {
      pfn = alignUp(pfn - phase, align) + phase;
      if (pfn + count > end) return undefined;
      const taken = used.lowestPresent(pfn - first, pfn - first + count);
      if (taken === undefined) break;
      pfn = first + used.lowestAbsent(taken);
    }
    used.addRange(pfn - first, count);
    return pfn;
  }

  free(pfn: number, count: number): void {
    assert(
      pfn >= this.first && pfn + count <= this.end && this.used.hasRange(pfn - this.first, count),
      () => `frames 0x${pfn.toString(16)} +${count} are freed, but not all of them are in use`,
    );
    if (count === 1) this.used.delete(pfn - this.first);
    else this.used.deleteRange(pfn - this.first, count);
  }

  has(pfn: number): boolean {
    return pfn >= this.first && pfn < this.end && this.used.has(pfn - this.first);
  }

  hasRange(pfn: number, count: number): boolean {
    return pfn >= this.first && pfn + count <= this.end && this.used.hasRange(pfn - this.first, count);
  }
}

function alignUp(value: number, align: number): number {
  return Math.ceil(value / align) * align;
}
