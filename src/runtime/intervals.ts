// Runs in a browser.
/**
 * Disjoint intervals over 0 … 2^64-1, and the holes between them.
 *
 * An AVL tree whose nodes also form a list. Every node knows the hole before it, and the largest such hole in its
 * subtree, so a search for a hole skips whole subtrees.
 *
 * Keys are bigints, but a tree that compares those, or doubles, waits for memory: each is an object of its own. So nodes
 * keep what decides the way down as small integers, which lie in the node itself: bounds as two signed 32-bit halves,
 * sizes of holes as the bits of a float (see `interval-keys.ts`).
 */
import { assert } from "./assert.ts";
import { highHalf, LOWEST_HALF, lowHalf, sizeBits } from "./interval-keys.ts";

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

/** An interval in the tree of an {@link IntervalMap}. */
class Node<V> implements Interval<V> {
  // The fields that a way down reads come first, to share a cache line.
  readonly startHigh: number;
  readonly startLow: number;
  left: Node<V> | undefined = undefined;
  right: Node<V> | undefined = undefined;
  /** The largest `hole` in the subtree. */
  largest = 0;
  /** Size of the hole between the previous interval (or 0) and this one, as {@link sizeBits}. */
  hole = 0;
  height = 1;
  parent: Node<V> | undefined = undefined;
  readonly lastHigh: number;
  readonly lastLow: number;
  previous: Node<V> | undefined = undefined;
  next: Node<V> | undefined = undefined;
  readonly start: bigint;
  readonly last: bigint;
  value: V;

  constructor(start: bigint, last: bigint, value: V) {
    this.startHigh = highHalf(start);
    this.startLow = lowHalf(start);
    this.lastHigh = highHalf(last);
    this.lastLow = lowHalf(last);
    this.start = start;
    this.last = last;
    this.value = value;
  }

  measureHole(): void {
    const { previous } = this;
    const size =
      previous === undefined
        ? (this.startHigh - LOWEST_HALF) * 2 ** 32 + (this.startLow - LOWEST_HALF)
        : (this.startHigh - previous.lastHigh) * 2 ** 32 + (this.startLow - previous.lastLow - 1);
    this.hole = sizeBits(size);
  }

  startsAtOrBefore(high: number, low: number): boolean {
    return this.startHigh < high || (this.startHigh === high && this.startLow <= low);
  }

  endsBefore(high: number, low: number): boolean {
    return this.lastHigh < high || (this.lastHigh === high && this.lastLow < low);
  }

  /** Brings `height` and `largest` up to date from the children; false if nothing changed. */
  refresh(): boolean {
    const { left, right } = this;
    let height = 0;
    let largest = this.hole;
    if (left !== undefined) {
      height = left.height;
      if (left.largest > largest) largest = left.largest;
    }
    if (right !== undefined) {
      if (right.height > height) height = right.height;
      if (right.largest > largest) largest = right.largest;
    }
    height++;
    if (height === this.height && largest === this.largest) return false;
    this.height = height;
    this.largest = largest;
    return true;
  }
}

/** Disjoint intervals, each with a value. Finding, adding and removing one takes time in proportion to log n. */
export class IntervalMap<V> {
  private root: Node<V> | undefined;
  private head: Node<V> | undefined;
  private tail: Node<V> | undefined;
  private count = 0;

  get size(): number {
    return this.count;
  }

  /** The interval with the lowest start. */
  get lowest(): Interval<V> | undefined {
    return this.head;
  }

  /** The interval with the highest start. */
  get highest(): Interval<V> | undefined {
    return this.tail;
  }

  /** Adds an interval that intersects no other. Its object is the key to {@link remove}. */
  insert(start: bigint, last: bigint, value: V): Interval<V> {
    assert(start >= 0n && start <= last && last <= MAXIMUM, () => `no interval: ${text(start, last)}`);
    const node = new Node(start, last, value);
    const previous = this.floor(node.startHigh, node.startLow);
    const next = previous === undefined ? this.head : previous.next;
    assert(
      (previous === undefined || previous.endsBefore(node.startHigh, node.startLow)) &&
        (next === undefined || node.endsBefore(next.startHigh, next.startLow)),
      () => `${text(start, last)} intersects an interval that is there`,
    );
    node.previous = previous;
    node.next = next;
    if (previous === undefined) this.head = node;
    else previous.next = node;
    if (next === undefined) this.tail = node;
    else next.previous = node;

    // Of two neighbours, one has no child on the side of the other.
    if (previous !== undefined && previous.right === undefined) {
      previous.right = node;
      node.parent = previous;
    } else if (next !== undefined) {
      next.left = node;
      node.parent = next;
    } else {
      this.root = node;
    }
    node.measureHole();
    node.largest = node.hole;
    next?.measureHole();
    this.retrace(node.parent);
    this.retrace(next);
    this.count++;
    return node;
  }

  /** Removes an interval that {@link insert} returned. */
  remove(interval: Interval<V>): void {
    const node = interval as Node<V>;
    const { previous, next } = node;
    assert(
      (previous === undefined ? this.head : previous.next) === node,
      () => `${text(node.start, node.last)} was removed already`,
    );
    if (previous === undefined) this.head = next;
    else previous.next = next;
    if (next === undefined) this.tail = previous;
    else next.previous = previous;
    next?.measureHole();

    let from: Node<V> | undefined;
    if (node.left === undefined || node.right === undefined) {
      from = node.parent;
      this.replaceChild(node, node.left ?? node.right);
    } else {
      // Two children: the next node, which has no left child, takes its place.
      const heir = next!;
      from = heir.parent === node ? heir : heir.parent;
      this.replaceChild(heir, heir.right);
      heir.left = node.left;
      heir.left.parent = heir;
      heir.right = node.right;
      if (heir.right !== undefined) heir.right.parent = heir;
      this.replaceChild(node, heir);
      heir.height = node.height;
      heir.largest = node.largest;
    }
    this.retrace(from);
    this.retrace(next);
    this.count--;
    node.parent = node.left = node.right = undefined;
    // So that a second removal is noticed; `next` stays for whoever is iterating.
    node.previous = node;
  }

  /** The interval that holds `point`. */
  at(point: bigint): Interval<V> | undefined {
    const high = highHalf(point);
    const low = lowHalf(point);
    const node = this.floor(high, low);
    return node === undefined || node.endsBefore(high, low) ? undefined : node;
  }

  /** The lowest interval that shares a number with `start` … `last`. */
  firstIntersecting(start: bigint, last: bigint): Interval<V> | undefined {
    const node = this.firstEndingFrom(start);
    return node !== undefined && node.start <= last ? node : undefined;
  }

  next(interval: Interval<V>): Interval<V> | undefined {
    return (interval as Node<V>).next;
  }

  previous(interval: Interval<V>): Interval<V> | undefined {
    return (interval as Node<V>).previous;
  }

  /** The intervals that share a number with `start` … `last`, ascending. The one just told may be removed. */
  *intersecting(start: bigint, last: bigint): Generator<Interval<V>, void, undefined> {
    let node = this.firstEndingFrom(start);
    while (node !== undefined && node.start <= last) {
      const { next } = node;
      yield node;
      node = next;
    }
  }

  /** The gaps inside `start` … `last`, clipped to it, ascending. */
  *holes(start: bigint, last: bigint): Generator<Range, void, undefined> {
    let at = start;
    for (let node = this.firstEndingFrom(start); node !== undefined && node.start <= last; node = node.next) {
      if (node.start > at) yield { start: at, last: node.start - 1n };
      if (node.last >= last) return;
      at = node.last + 1n;
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
    const minimumSpan = minimumSize - 1n;
    const offer = (from: bigint, to: bigint): T | undefined => {
      const hole = { start: from < start ? start : from, last: to > last ? last : to };
      return hole.last - hole.start >= minimumSpan ? fits(hole) : undefined;
    };
    const startHigh = highHalf(start);
    const startLow = lowHalf(start);
    const lastHigh = highHalf(last);
    const lastLow = lowHalf(last);
    const smallest = sizeBits(Number(minimumSize));
    const search = (node: Node<V> | undefined): T | undefined => {
      while (node !== undefined && node.largest >= smallest) {
        // Holes on the left end before this node starts, holes on the right begin after it.
        if (!node.startsAtOrBefore(startHigh, startLow)) {
          const found = search(node.left);
          if (found !== undefined) return found;
          if (node.hole >= smallest) {
            const fit = offer(node.previous === undefined ? 0n : node.previous.last + 1n, node.start - 1n);
            if (fit !== undefined) return fit;
          }
        }
        if (!node.endsBefore(lastHigh, lastLow)) return undefined;
        node = node.right;
      }
      return undefined;
    };
    const found = search(this.root);
    if (found !== undefined) return found;
    const beyond = this.tail === undefined ? 0n : this.tail.last + 1n;
    return beyond <= MAXIMUM ? offer(beyond, MAXIMUM) : undefined;
  }

  *[Symbol.iterator](): Generator<Interval<V>, void, undefined> {
    yield* this.intersecting(0n, MAXIMUM);
  }

  /** The interval with the highest start that is not above a key, given in halves. */
  private floor(high: number, low: number): Node<V> | undefined {
    let node = this.root;
    let found: Node<V> | undefined;
    while (node !== undefined) {
      if (node.startsAtOrBefore(high, low)) {
        found = node;
        node = node.right;
      } else {
        node = node.left;
      }
    }
    return found;
  }

  /** The lowest interval whose last is not below `point`. */
  private firstEndingFrom(point: bigint): Node<V> | undefined {
    const high = highHalf(point);
    const low = lowHalf(point);
    const node = this.floor(high, low);
    if (node === undefined) return this.head;
    return node.endsBefore(high, low) ? node.next : node;
  }

  /** Mends heights, largest holes and the balance from `node` upwards, as far as something changes. */
  private retrace(from: Node<V> | undefined): void {
    for (let node = from; node !== undefined; node = node.parent) {
      const changed = node.refresh();
      const lean = heightOf(node.left) - heightOf(node.right);
      if (lean > 1) {
        const left = node.left!;
        if (heightOf(left.left) < heightOf(left.right)) this.rotateLeft(left);
        node = this.rotateRight(node);
      } else if (lean < -1) {
        const right = node.right!;
        if (heightOf(right.right) < heightOf(right.left)) this.rotateRight(right);
        node = this.rotateLeft(node);
      } else if (!changed) {
        return;
      }
    }
  }

  /** Puts the right child in the place of `node`, which becomes its left child. Returns the child. */
  private rotateLeft(node: Node<V>): Node<V> {
    const child = node.right!;
    this.replaceChild(node, child);
    node.right = child.left;
    if (node.right !== undefined) node.right.parent = node;
    child.left = node;
    node.parent = child;
    node.refresh();
    child.refresh();
    return child;
  }

  private rotateRight(node: Node<V>): Node<V> {
    const child = node.left!;
    this.replaceChild(node, child);
    node.left = child.right;
    if (node.left !== undefined) node.left.parent = node;
    child.right = node;
    node.parent = child;
    node.refresh();
    child.refresh();
    return child;
  }

  /** Hangs `child` where `node` hangs. */
  private replaceChild(node: Node<V>, child: Node<V> | undefined): void {
    const { parent } = node;
    if (parent === undefined) this.root = child;
    else if (parent.left === node) parent.left = child;
    else parent.right = child;
    if (child !== undefined) child.parent = parent;
  }
}

function heightOf<V>(node: Node<V> | undefined): number {
  return node === undefined ? 0 : node.height;
}

function text(start: bigint, last: bigint): string {
  return `0x${start.toString(16)}-0x${last.toString(16)}`;
}
