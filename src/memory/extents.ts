// Runs in a browser.
import { assert } from "../runtime/index.ts";

/** Consecutive pages of an address space on consecutive frames, alike in what may be done with them. */
export interface Extent {
  /** Page number: address / 4096. */
  readonly page: number;
  readonly count: number;
  /** The frame of `page`. */
  readonly pfn: number;
  readonly writable: boolean;
  /** The frames may be shared with a relative: to be copied before they are written or pinned. */
  readonly copyOnWrite: boolean;
}

/** The extents of an address space: a sorted list without overlap, neighbours that continue each other joined. */
export class ExtentList {
  private list: Extent[] = [];

  [Symbol.iterator](): Iterator<Extent> {
    return this.list[Symbol.iterator]();
  }

  get length(): number {
    return this.list.length;
  }

  /** The pieces of extents inside a range of pages, in order. */
  within(page: number, count: number): Extent[] {
    const pieces: Extent[] = [];
    const end = page + count;
    for (let i = this.firstEndingAfter(page); i < this.list.length && this.list[i].page < end; i++) {
      pieces.push(clip(this.list[i], page, end));
    }
    return pieces;
  }

  /** The extent that holds all of a range of pages. */
  holding(page: number, count: number): Extent | undefined {
    const extent = this.list[this.firstEndingAfter(page)];
    return extent !== undefined && extent.page <= page && page + count <= extent.page + extent.count
      ? extent
      : undefined;
  }

  /** Cuts a range of pages out, and returns the pieces that were there. */
  remove(page: number, count: number): Extent[] {
    const end = page + count;
    const from = this.firstEndingAfter(page);
    let to = from;
    const rest: Extent[] = [];
    const pieces: Extent[] = [];
    for (; to < this.list.length && this.list[to].page < end; to++) {
      const extent = this.list[to];
      if (extent.page < page) rest.push(clip(extent, extent.page, page));
      if (extent.page + extent.count > end) rest.push(clip(extent, end, extent.page + extent.count));
      pieces.push(clip(extent, page, end));
    }
    this.list.splice(from, to - from, ...rest);
    return pieces;
  }

  /** Adds an extent where there is none. */
  insert(extent: Extent): void {
    const index = this.firstEndingAfter(extent.page);
    const before = this.list[index - 1];
    const after = this.list[index];
    assert(
      after === undefined || after.page >= extent.page + extent.count,
      () => `page 0x${extent.page.toString(16)} is mapped already`,
    );
    let joined = extent;
    let from = index;
    let replaced = 0;
    if (before !== undefined && continues(before, joined)) {
      joined = { ...before, count: before.count + joined.count };
      from--;
      replaced++;
    }
    if (after !== undefined && continues(joined, after)) {
      joined = { ...joined, count: joined.count + after.count };
      replaced++;
    }
    this.list.splice(from, replaced, joined);
  }

  /** Index of the first extent that ends after `page`. */
  private firstEndingAfter(page: number): number {
    let low = 0;
    let high = this.list.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.list[middle].page + this.list[middle].count <= page) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function continues(first: Extent, second: Extent): boolean {
  return (
    first.page + first.count === second.page &&
    first.pfn + first.count === second.pfn &&
    first.writable === second.writable &&
    first.copyOnWrite === second.copyOnWrite
  );
}

/** The part of an extent in `page` … `end - 1`. */
function clip(extent: Extent, page: number, end: number): Extent {
  const from = Math.max(extent.page, page);
  const to = Math.min(extent.page + extent.count, end);
  if (to - from === extent.count) return extent;
  return { ...extent, page: from, pfn: extent.pfn + (from - extent.page), count: to - from };
}
