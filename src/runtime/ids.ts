// Runs in a browser.
import { assert } from "./assert.ts";
import { NumberSet } from "./number-set.ts";

/** Gives out the lowest free id of `first` … `last`, as Linux does for objects, groups and descriptors. */
export class IdAllocator {
  private readonly first: number;
  private readonly last: number;
  private readonly used = new NumberSet();

  constructor(first: number, last: number) {
    this.first = first;
    this.last = last;
  }

  /** How many are taken. */
  get size(): number {
    return this.used.size;
  }

  /** Takes the lowest free id; undefined if all are taken. */
  allocate(): number | undefined {
    if (this.used.size > this.last - this.first) return undefined;
    return this.first + this.used.addLowest();
  }

  /** Takes this very id; false if it is taken, or outside of the range. */
  reserve(id: number): boolean {
    return id >= this.first && id <= this.last && this.used.add(id - this.first);
  }

  free(id: number): void {
    assert(this.has(id), () => `id ${id} is freed but was not taken`);
    this.used.delete(id - this.first);
  }

  has(id: number): boolean {
    return id >= this.first && id <= this.last && this.used.has(id - this.first);
  }
}
