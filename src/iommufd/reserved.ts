// Runs in a browser.
import type { Interval, IntervalMap } from "../runtime/index.ts";

/** A range of IOVAs, bytes, `last` inclusive. */
export interface IovaRange {
  readonly start: bigint;
  readonly last: bigint;
}

/** The last IOVA. */
export const MAX_IOVA = 0xffffffffffffffffn;

export function hexRange(start: bigint, last: bigint): string {
  return `0x${start.toString(16)}-0x${last.toString(16)}`;
}

/** Sorts ranges and joins those that overlap or touch. */
export function joinRanges(ranges: Iterable<IovaRange>): IovaRange[] {
  const sorted = [...ranges].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
  const joined: IovaRange[] = [];
  for (const range of sorted) {
    const before = joined.at(-1);
    if (before === undefined || range.start > before.last + 1n) joined.push(range);
    else if (range.last > before.last) joined[joined.length - 1] = { start: before.start, last: range.last };
  }
  return joined;
}

/** The gaps between ranges that {@link joinRanges} gave, over all 64 bits. */
export function gapsBetween(joined: readonly IovaRange[]): IovaRange[] {
  const gaps: IovaRange[] = [];
  let next = 0n;
  for (const { start, last } of joined) {
    if (next < start) gaps.push({ start: next, last: start - 1n });
    next = last + 1n;
  }
  if (next <= MAX_IOVA) gaps.push({ start: next, last: MAX_IOVA });
  return gaps;
}

/** Who needs a range kept free. A reservation without owner lives as long as its IOAS. */
export interface ReservationOwner {
  readonly label: string;
}

/** Marks, among the areas, where nothing may be mapped. */
export const RESERVED = "reserved";

/**
 * The reserved ranges of an IOAS. They may overlap and have owners, equal ranges several; their union lies as
 * {@link RESERVED} intervals among the areas, so that one search finds what is free of both.
 */
export class Reservations {
  private readonly occupied: IntervalMap<unknown>;
  private readonly ranges = new Map<string, IovaRange & { readonly owners: (ReservationOwner | undefined)[] }>();
  private union: readonly IovaRange[] = [];
  private marks: Interval<unknown>[] = [];

  constructor(occupied: IntervalMap<unknown>) {
    this.occupied = occupied;
  }

  /** All of them joined, ascending. */
  get joined(): readonly IovaRange[] {
    return this.union;
  }

  /** Who reserved an address of the range, for people. */
  ownersOf(start: bigint, last: bigint): string {
    const owners = new Set<string>();
    for (const range of this.ranges.values()) {
      if (range.start > last || range.last < start) continue;
      for (const owner of range.owners)
        owners.add(`${hexRange(range.start, range.last)} for ${owner?.label ?? "a test"}`);
    }
    return [...owners].join(", ");
  }

  /** The range must be free of areas. */
  add(start: bigint, last: bigint, owner: ReservationOwner | undefined): void {
    const key = hexRange(start, last);
    const range = this.ranges.get(key);
    if (range !== undefined) {
      range.owners.push(owner);
      return;
    }
    this.ranges.set(key, { start, last, owners: [owner] });
    this.mark();
  }

  /** Drops all that `owner` reserved. */
  remove(owner: ReservationOwner): void {
    let changed = false;
    for (const [key, { owners }] of this.ranges) {
      const kept = owners.filter((other) => other !== owner);
      if (kept.length === owners.length) continue;
      owners.splice(0, owners.length, ...kept);
      if (kept.length > 0) continue;
      this.ranges.delete(key);
      changed = true;
    }
    if (changed) this.mark();
  }

  /** For people: every range and its owners. */
  describe(): { start: bigint; last: bigint; owners: string[] }[] {
    return [...this.ranges.values()].map(({ start, last, owners }) => ({
      start,
      last,
      owners: owners.map((owner) => owner?.label ?? "nobody"),
    }));
  }

  private mark(): void {
    for (const mark of this.marks) this.occupied.remove(mark);
    this.union = joinRanges(this.ranges.values());
    this.marks = this.union.map(({ start, last }) => this.occupied.insert(start, last, RESERVED));
  }
}
