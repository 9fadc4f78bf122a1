// Runs in a browser.
import { assert } from "../runtime/index.ts";

/** A range of bus addresses out of which places are given. */
export class AddressWindow {
  readonly start: number;
  /** Exclusive. */
  readonly end: number;
  /** Ascending. */
  private readonly taken: { readonly start: number; readonly end: number }[] = [];

  constructor(start: number, end: number) {
    this.start = start;
    this.end = end;
  }

  get size(): number {
    return this.end - this.start;
  }

  /** Where the last place ends; the window's start while there is none. */
  get used(): number {
    return this.taken.at(-1)?.end ?? this.start;
  }

  /** A multiple of `align` from which on `size` bytes are free: behind all others, else in the lowest gap; undefined if there is none. */
  allocate(size: number, align: number = size): number | undefined {
    for (const gap of [this.taken.length, ...this.taken.keys()]) {
      const start = Math.ceil((this.taken[gap - 1]?.end ?? this.start) / align) * align;
      if (start + size > (this.taken[gap]?.start ?? this.end)) continue;
      this.taken.splice(gap, 0, { start, end: start + size });
      return start;
    }
    return undefined;
  }

  /** Takes back what {@link allocate} gave. */
  free(start: number): void {
    const index = this.taken.findIndex((place) => place.start === start);
    assert(index >= 0, () => `nothing was placed at ${start}`);
    this.taken.splice(index, 1);
  }
}
