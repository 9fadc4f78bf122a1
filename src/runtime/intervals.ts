// Runs in a browser.
/**
 * Disjoint intervals over 0 … 2^64-1, and the holes between them.
 *
 * A B-tree whose leaves form a list. Every slot of a node knows the largest hole below it, so a search for a hole skips
 * whole subtrees; keys and holes of a node lie side by side as doubles (see `interval-node.ts`), so a way down waits for
 * memory once or twice a level and there are few levels.
 *
 * Doubles round above 2^53, but never change an order: what they say is checked exactly where it matters, at entries.
 *
 * Nodes split when they are full and go when they are empty; nothing is merged in between. A map that grows upwards leaves
 * full nodes behind.
 */
import { assert } from "./assert.ts";
import { Entry, Node, WIDTH } from "./interval-node.ts";
import { numberOf } from "./u64.ts";

/** One entry of an {@link IntervalMap}. It stays the same object until it is removed. */
export interface Interval<V> {
  readonly start: bigint;
  /** Inclusive. */
  readonly last: bigint;
  value: V;
}

/** A range of numbers, `last` inclusive. */
export interface Range {
  readonly start: bigint;
  readonly last: bigint;
}

const MAXIMUM = 0xffffffffffffffffn;

/** A search for a hole: see {@link IntervalMap.firstHole}. */
interface HoleSearch<T> {
  readonly start: bigint;
  readonly last: bigint;
  readonly minimumSize: bigint;
  /** A key below that of `start`, and the size, as the tree has them. */
  readonly keyBelow: number;
  readonly smallest: number;
  readonly fits: (hole: Range) => T | undefined;
  /** No hole behind it begins before `last`. */
  ended: boolean;
}

/** Disjoint intervals, each with a value. Finding, adding and removing one takes time in proportion to log n. */
export class IntervalMap<V> {
  private root: Node<V> | undefined;
  /** The leaves at both ends. */
  private head: Node<V> | undefined;
  private tail: Node<V> | undefined;
  private count = 0;
  /** Where {@link locate} ended. */
  private leaf: Node<V> | undefined;
  private index = -1;

  get size(): number {
    return this.count;
  }

  /** The interval with the lowest start. */
  get lowest(): Interval<V> | undefined {
    return this.head?.entry(0);
  }

  /** The interval with the highest start. */
  get highest(): Interval<V> | undefined {
    return this.count === 0 ? undefined : this.tail!.entry(this.tail!.count - 1);
  }

  /** Adds an interval that intersects no other. Its object is the key to {@link remove}. */
  insert(start: bigint, last: bigint, value: V): Interval<V> {
    assert(start >= 0n && start <= last && last <= MAXIMUM, () => `no interval: ${text(start, last)}`);
    const entry = new Entry(start, last, value);
    this.locate(start);
    const leaf = this.leaf ?? this.plant();
    const index = this.index + 1;
    this.assertFree(entry, leaf, index);
    const isHighest = leaf.next === undefined && index === leaf.count;
    this.add(leaf, index, entry, numberOf(start), isHighest);
    if (!isHighest) this.measureNextHole(entry.leaf!, entry.leaf === leaf ? index : entry.leaf!.indexOf(entry));
    this.count++;
    return entry;
  }

  /** Removes an interval that {@link insert} returned. */
  remove(interval: Interval<V>): void {
    const entry = interval as Entry<V>;
    const { leaf } = entry;
    assert(leaf !== undefined, () => `${text(entry.start, entry.last)} was removed already`);
    const index = leaf.indexOf(entry);
    leaf.remove(index);
    entry.leaf = undefined;
    this.count--;
    // The only leaf stays: whoever adds and removes a single interval again and again needs no new one.
    if (leaf.count > 0 || this.count === 0) {
      this.measureNextHole(leaf, index - 1);
      return;
    }
    const { next } = leaf;
    this.drop(leaf);
    if (next !== undefined) this.measureNextHole(next, -1);
  }

  /** The interval that holds `point`. */
  at(point: bigint): Interval<V> | undefined {
    const entry = this.locate(point);
    return entry === undefined || entry.last < point ? undefined : entry;
  }

  /** The lowest interval that shares a number with `start` … `last`. */
  firstIntersecting(start: bigint, last: bigint): Interval<V> | undefined {
    const entry = this.firstEndingFrom(start);
    return entry !== undefined && entry.start <= last ? entry : undefined;
  }

  /** The interval behind one that is there, or behind where it was. */
  next(interval: Interval<V>): Interval<V> | undefined {
    const { leaf } = interval as Entry<V>;
    if (leaf !== undefined) return leaf.entryAfter(leaf.indexOf(interval as Entry<V>));
    this.locate(interval.start);
    return this.leaf?.entryAfter(this.index);
  }

  previous(interval: Interval<V>): Interval<V> | undefined {
    const { leaf } = interval as Entry<V>;
    assert(leaf !== undefined, () => `${text(interval.start, interval.last)} was removed`);
    return leaf.entryBefore(leaf.indexOf(interval as Entry<V>));
  }

  /** The intervals that share a number with `start` … `last`, ascending. The one just told may be removed. */
  *intersecting(start: bigint, last: bigint): Generator<Interval<V>, void, undefined> {
    let entry: Interval<V> | undefined = this.firstEndingFrom(start);
    while (entry !== undefined && entry.start <= last) {
      const next = this.next(entry);
      yield entry;
      entry = next;
    }
  }

  /** The gaps inside `start` … `last`, clipped to it, ascending. */
  *holes(start: bigint, last: bigint): Generator<Range, void, undefined> {
    let at = start;
    for (const interval of this.intersecting(start, last)) {
      if (interval.start > at) yield { start: at, last: interval.start - 1n };
      if (interval.last >= last) return;
      at = interval.last + 1n;
    }
    if (at <= last) yield { start: at, last };
  }

  /**
   * What `fits` returns for the lowest hole that it accepts (returns something for). It is asked only about holes that,
   * clipped to `start` … `last`, have at least `minimumSize` numbers, ascending. Subtrees without such a hole cost
   * nothing.
   */
  firstHole<T>(start: bigint, last: bigint, minimumSize: bigint, fits: (hole: Range) => T | undefined): T | undefined {
    assert(minimumSize > 0n, "a hole of no size is nowhere");
    const key = numberOf(start);
    const keyBelow = key - 1 - key * Number.EPSILON;
    const search = { start, last, minimumSize, keyBelow, smallest: numberOf(minimumSize), fits, ended: false };
    const found = this.root && this.searchHoles(this.root, search);
    if (found !== undefined || search.ended) return found;
    const beyond = this.highest === undefined ? 0n : this.highest.last + 1n;
    return offer(search, beyond, MAXIMUM);
  }

  *[Symbol.iterator](): Generator<Interval<V>, void, undefined> {
    yield* this.intersecting(0n, MAXIMUM);
  }

  // ---- Ways through the tree

  /**
   * The entry with the highest start that is not above `point`. `leaf` and `index` say where it is, or would be: -1 stands
   * for what is before a leaf, where its keys begin; no leaf, in an empty tree.
   */
  private locate(point: bigint): Entry<V> | undefined {
    const key = numberOf(point);
    let node = this.root;
    while (node !== undefined && node.level > 0) node = node.child(Math.max(node.floor(key), 0));
    this.leaf = node;
    this.index = node === undefined ? -1 : node.floor(key);
    if (node === undefined) return undefined;
    return key < 2 ** 53 ? this.located(node) : this.locateExactly(node, point);
  }

  /** Of several entries with the same key, the last one that is not above `point`. */
  private locateExactly(from: Node<V>, point: bigint): Entry<V> | undefined {
    for (let node = from; ; this.index--) {
      const entry = this.located(node);
      if (entry === undefined || entry.start <= point) return entry;
      if (this.index >= 0) continue;
      node = this.leaf = node.previous!;
      this.index = node.count - 1;
    }
  }

  private located(leaf: Node<V>): Entry<V> | undefined {
    return this.index >= 0 ? leaf.entry(this.index) : leaf.entryBefore(0);
  }

  /** The lowest entry whose last is not below `point`. */
  private firstEndingFrom(point: bigint): Entry<V> | undefined {
    const entry = this.locate(point);
    if (entry !== undefined && entry.last >= point) return entry;
    return this.leaf?.entryAfter(this.index);
  }

  private searchHoles<T>(node: Node<V>, search: HoleSearch<T>): T | undefined {
    // The holes before all entries further down end before `start`.
    for (let i = Math.max(node.floor(search.keyBelow), 0); i < node.count; i++) {
      if (node.hole(i) < search.smallest) continue;
      let found: T | undefined;
      if (node.level > 0) {
        found = this.searchHoles(node.child(i), search);
      } else {
        const previous = node.entryBefore(i);
        const from = previous === undefined ? 0n : previous.last + 1n;
        search.ended = from > search.last;
        if (!search.ended) found = offer(search, from, node.entry(i).start - 1n);
      }
      if (found !== undefined || search.ended) return found;
    }
    return undefined;
  }

  // ---- Changes

  /** The first leaf. */
  private plant(): Node<V> {
    this.root = this.head = this.tail = new Node<V>(0);
    return this.root;
  }

  /** Doubles that differ have the order of what they stand for: only where they are equal the entries are looked at. */
  private assertFree({ start, last }: Entry<V>, leaf: Node<V>, index: number): void {
    assert(
      (leaf.lastBefore(index) < numberOf(start) || (leaf.entryBefore(index)?.last ?? -1n) < start) &&
        (numberOf(last) < leaf.keyAfter(index - 1) || (leaf.entryAfter(index - 1)?.start ?? MAXIMUM + 1n) > last),
      () => `${text(start, last)} intersects an interval that is there`,
    );
  }

  /** Puts an entry or a node into a slot of `node`, or of its new neighbour if it is full. `isHighest`: nothing is behind it. */
  private add(node: Node<V>, index: number, slot: Entry<V> | Node<V>, key: number, isHighest: boolean): void {
    if (node.count < WIDTH) {
      node.add(index, slot, key);
      if (isHighest || node.level > 0) this.passHoleUp(node);
      return;
    }
    const from = isHighest ? WIDTH : WIDTH / 2;
    const right = node.split(from);
    if (this.tail === node) this.tail = right;
    if (index > from || isHighest) right.add(index - from, slot, key);
    else node.add(index, slot, key);
    if (node.parent === undefined) {
      this.root = new Node<V>(node.level + 1);
      this.root.add(0, node, node.key(0));
    }
    this.passHoleUp(node);
    this.add(node.parent!, node.parent!.indexOfChild(node) + 1, right, right.key(0), isHighest);
  }

  /** Takes an empty node away. */
  private drop(node: Node<V>): void {
    const { parent, previous, next } = node;
    if (previous !== undefined) previous.next = next;
    else if (node === this.head) this.head = next;
    if (next !== undefined) next.previous = previous;
    else if (node === this.tail) this.tail = previous;
    if (parent === undefined) {
      this.root = undefined;
      return;
    }
    parent.remove(parent.indexOfChild(node));
    if (parent.count === 0) {
      this.drop(parent);
      return;
    }
    this.passHoleUp(parent);
    while (this.root!.level > 0 && this.root!.count === 1) {
      this.root = this.root!.child(0);
      this.root.parent = undefined;
    }
  }

  /** The entry behind a place in a leaf has another one before it now. */
  private measureNextHole(leaf: Node<V>, index: number): void {
    const isHere = index + 1 < leaf.count;
    if (isHere) leaf.measureHole(index + 1);
    this.passHoleUp(leaf);
    if (isHere || leaf.next === undefined) return;
    leaf.next.measureHole(0);
    this.passHoleUp(leaf.next);
  }

  /** Tells the nodes above the largest hole of `node`, as far as that changes something. */
  private passHoleUp(node: Node<V>): void {
    for (let at = node; at.parent !== undefined; at = at.parent) {
      const index = at.parent.indexOfChild(at);
      const largest = at.largestHole;
      if (at.parent.hole(index) === largest) return;
      at.parent.setHole(index, largest);
    }
  }
}

/** Asks about a hole, if enough of it is in the bounds of the search. */
function offer<T>({ start, last, minimumSize, fits }: HoleSearch<T>, from: bigint, to: bigint): T | undefined {
  const hole = { start: from < start ? start : from, last: to > last ? last : to };
  return hole.last - hole.start >= minimumSize - 1n ? fits(hole) : undefined;
}

function text(start: bigint, last: bigint): string {
  return `0x${start.toString(16)}-0x${last.toString(16)}`;
}
