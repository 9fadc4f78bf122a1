// Runs in a browser.
/** The nodes of the tree in `intervals.ts`. */
import { numberOf } from "./u64.ts";

/** How many slots a node has: so many numbers are searched in one piece of memory. */
export const WIDTH = 16;
/** Where the lanes of `numbers` begin, after that of the keys. */
const HOLES = WIDTH;
const LASTS = 2 * WIDTH;

/** An interval in a tree. */
export class Entry<V> {
  readonly start: bigint;
  readonly last: bigint;
  value: V;
  /** Where it hangs; undefined once it is removed. */
  leaf: Node<V> | undefined = undefined;

  constructor(start: bigint, last: bigint, value: V) {
    this.start = start;
    this.last = last;
    this.value = value;
  }
}

type Slot<V> = Entry<V> | Node<V>;

/**
 * A node: slots in ascending order, of entries in a *leaf* (level 0), of nodes of the level below elsewhere.
 *
 * Each slot has a key and a hole, as doubles. An entry's key is its start, its hole is how many numbers lie before it. A
 * node's key is above no start in it and below none in its left neighbour, its hole is the largest of its slots. Leaves
 * also have the last number of each entry. Of numbers above 2^53 several may be one double.
 */
export class Node<V> {
  readonly level: number;
  parent: Node<V> | undefined = undefined;
  /** Neighbours of a leaf. */
  previous: Node<V> | undefined = undefined;
  next: Node<V> | undefined = undefined;
  private readonly slots: Slot<V>[] = [];
  /** Lanes of WIDTH numbers: keys, holes, lasts. */
  private readonly numbers = new Float64Array(3 * WIDTH);

  constructor(level: number) {
    this.level = level;
  }

  get count(): number {
    return this.slots.length;
  }

  entry(index: number): Entry<V> {
    return this.slots[index] as Entry<V>;
  }

  child(index: number): Node<V> {
    return this.slots[index] as Node<V>;
  }

  key(index: number): number {
    return this.numbers[index];
  }

  hole(index: number): number {
    return this.numbers[HOLES + index];
  }

  setHole(index: number, hole: number): void {
    this.numbers[HOLES + index] = hole;
  }

  last(index: number): number {
    return this.numbers[LASTS + index];
  }

  /** Where an entry of this leaf is. */
  indexOf(entry: Entry<V>): number {
    return this.find(entry, numberOf(entry.start));
  }

  /** Where a child is that has, or just lost, its entries. */
  indexOfChild(child: Node<V>): number {
    return this.find(child, child.numbers[0]);
  }

  /** The last slot whose key is not above `key`; -1 if there is none. */
  floor(key: number): number {
    const { numbers } = this;
    let low = 0;
    let high = this.slots.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (numbers[middle] <= key) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  get largestHole(): number {
    const { numbers } = this;
    let largest = 0;
    for (let i = HOLES, end = HOLES + this.slots.length; i < end; i++) if (numbers[i] > largest) largest = numbers[i];
    return largest;
  }

  /** Measures the hole before an entry of a leaf. */
  measureHole(index: number): void {
    const start = this.numbers[index];
    // Exact where doubles are.
    if (start < 2 ** 53) {
      this.setHole(index, start - this.lastBefore(index) - 1);
      return;
    }
    const entry = this.entry(index);
    const previous = this.entryBefore(index);
    this.setHole(index, numberOf(previous === undefined ? entry.start : entry.start - previous.last - 1n));
  }

  /** The last number of the entry before a place in a leaf; -1 if there is none. */
  lastBefore(index: number): number {
    if (index > 0) return this.last(index - 1);
    return this.previous === undefined ? -1 : this.previous.last(this.previous.count - 1);
  }

  /** The key of the entry behind a place in a leaf; infinite if there is none. */
  keyAfter(index: number): number {
    if (index + 1 < this.slots.length) return this.numbers[index + 1];
    return this.next === undefined ? Number.POSITIVE_INFINITY : this.next.numbers[0];
  }

  entryBefore(index: number): Entry<V> | undefined {
    return index > 0 ? this.entry(index - 1) : this.previous?.entry(this.previous.count - 1);
  }

  entryAfter(index: number): Entry<V> | undefined {
    return index + 1 < this.slots.length ? this.entry(index + 1) : this.next?.entry(0);
  }

  /** Makes a slot. There must be room. */
  add(index: number, slot: Slot<V>, key: number): void {
    const { slots, numbers } = this;
    slots.push(slot);
    for (let i = slots.length - 1; i > index; i--) {
      slots[i] = slots[i - 1];
      numbers[i] = numbers[i - 1];
      numbers[HOLES + i] = numbers[HOLES + i - 1];
      numbers[LASTS + i] = numbers[LASTS + i - 1];
    }
    slots[index] = slot;
    numbers[index] = key;
    if (this.level > 0) {
      (slot as Node<V>).parent = this;
      this.setHole(index, (slot as Node<V>).largestHole);
    } else {
      numbers[LASTS + index] = numberOf((slot as Entry<V>).last);
      (slot as Entry<V>).leaf = this;
      this.measureHole(index);
    }
  }

  remove(index: number): void {
    const { slots, numbers } = this;
    const last = slots.length - 1;
    for (let i = index; i < last; i++) {
      slots[i] = slots[i + 1];
      numbers[i] = numbers[i + 1];
      numbers[HOLES + i] = numbers[HOLES + i + 1];
      numbers[LASTS + i] = numbers[LASTS + i + 1];
    }
    slots.pop();
  }

  /** Moves the slots from `from` on to a new node, the right neighbour. */
  split(from: number): Node<V> {
    const right = new Node<V>(this.level);
    right.previous = this;
    right.next = this.next;
    if (right.next !== undefined) right.next.previous = right;
    this.next = right;
    const moved = this.slots.splice(from);
    for (let i = 0; i < moved.length; i++) right.add(i, moved[i], this.key(from + i));
    return right;
  }

  /** The slot is there: the last one whose key is not above `key`, or of equal keys an earlier one. */
  private find(slot: Slot<V>, key: number): number {
    let index = Math.max(this.floor(key), 0);
    while (this.slots[index] !== slot) index--;
    return index;
  }
}
