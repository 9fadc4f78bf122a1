import fc from "fast-check";
import { expect, test } from "vitest";
import { IntervalSet } from "./interval-set.ts";
import { type Interval, IntervalMap, type Range } from "./intervals.ts";
import { Random } from "./random.ts";

const MAXIMUM = 2n ** 64n - 1n;
/** Enough for several levels of nodes. */
const CROWD = 2500;

/** Crowded places: the bottom, the top, and where doubles begin to round. */
const place = fc.oneof(
  fc.bigInt({ min: 0n, max: 60n }),
  fc.bigInt({ min: MAXIMUM - 60n, max: MAXIMUM }),
  fc.bigInt({ min: 2n ** 53n - 30n, max: 2n ** 53n + 30n }),
  fc.bigInt({ min: 2n ** 63n - 30n, max: 2n ** 63n + 5000n }),
  fc.bigInt({ min: 0n, max: MAXIMUM }),
);
const size = fc.oneof(
  fc.bigInt({ min: 1n, max: 10n }),
  fc.bigInt({ min: 1n, max: 5000n }),
  fc.bigInt({ min: 1n, max: MAXIMUM }),
);
const range = fc
  .tuple(place, size)
  .map(([start, size]) => ({ start, last: start + size - 1n > MAXIMUM ? MAXIMUM : start + size - 1n }));

/** The same map as a sorted array: slow, and hard to get wrong. */
class Naive {
  entries: Interval<number>[] = [];

  intersecting(start: bigint, last: bigint): Interval<number>[] {
    return this.entries.filter((entry) => entry.start <= last && entry.last >= start);
  }

  insert(entry: Interval<number>): void {
    this.entries.push(entry);
    this.entries.sort((a, b) => (a.start < b.start ? -1 : 1));
  }

  holes(start: bigint, last: bigint): Range[] {
    const bounds = [{ last: -1n }, ...this.entries, { start: MAXIMUM + 1n }] as Interval<number>[];
    return bounds
      .slice(1)
      .map((entry, i) => ({ start: bounds[i].last + 1n, last: entry.start - 1n }))
      .map((hole) => ({
        start: hole.start < start ? start : hole.start,
        last: hole.last > last ? last : hole.last,
      }))
      .filter((hole) => hole.start <= hole.last);
  }
}

const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("insert" as const), range }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("remove" as const), which: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("ask" as const), range }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("firstHole" as const),
      range,
      size,
      align: fc.constantFrom(1n, 4n, 4096n),
    }),
  },
);

test("an IntervalMap behaves as a sorted array of intervals does, over all 64 bits", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120, size: "max" }), (steps) => {
      const map = new IntervalMap<number>();
      const naive = new Naive();
      for (const [number, step] of steps.entries()) {
        switch (step.kind) {
          case "insert": {
            // Cut down to what is free, so that crowds grow dense.
            const [hole] = naive.holes(step.range.start, step.range.last);
            if (hole === undefined) {
              expect(() => map.insert(step.range.start, step.range.last, number)).toThrow("intersects");
            } else {
              naive.insert(map.insert(hole.start, hole.last, number));
            }
            break;
          }
          case "remove": {
            if (naive.entries.length === 0) break;
            const [entry] = naive.entries.splice(step.which % naive.entries.length, 1);
            map.remove(entry);
            expect(() => map.remove(entry)).toThrow("removed already");
            break;
          }
          case "ask": {
            const { start, last } = step.range;
            const expected = naive.intersecting(start, last);
            expect([...map.intersecting(start, last)]).toEqual(expected);
            expect(map.firstIntersecting(start, last)).toBe(expected[0]);
            expect(map.at(start)).toBe(naive.intersecting(start, start)[0]);
            expect([...map.holes(start, last)]).toEqual(naive.holes(start, last));
            break;
          }
          case "firstHole": {
            const { start, last } = step.range;
            const asked: Range[] = [];
            const fits = (hole: Range): bigint | undefined => {
              asked.push(hole);
              const aligned = ((hole.start + step.align - 1n) / step.align) * step.align;
              return aligned + step.size - 1n <= hole.last ? aligned : undefined;
            };
            const found = map.firstHole(start, last, step.size, fits);
            const candidates = naive.holes(start, last).filter((hole) => hole.last - hole.start + 1n >= step.size);
            const index = candidates.findIndex((hole) => fits(hole) !== undefined);
            expect(found).toBe(index < 0 ? undefined : fits(candidates[index]));
            const visited = index < 0 ? candidates : candidates.slice(0, index + 1);
            expect(asked.slice(0, visited.length)).toEqual(visited);
            break;
          }
        }
        expect(map.size).toBe(naive.entries.length);
      }
      expect([...map]).toEqual(naive.entries);
      for (const [i, entry] of naive.entries.entries()) {
        expect(map.next(entry)).toBe(naive.entries[i + 1]);
        expect(map.previous(entry)).toBe(naive.entries[i - 1]);
      }
    }),
    { numRuns: 300 },
  );
});

test("an IntervalSet holds the numbers that were added and not removed since", () => {
  const small = fc.tuple(fc.nat(40), fc.nat(12)).map(([start, more]) => ({ start, last: start + more }));
  const change = fc.record({ add: fc.boolean(), range: small, top: fc.boolean() });
  fc.assert(
    fc.property(fc.array(change, { maxLength: 30 }), small, (changes, window) => {
      for (const base of [0n, MAXIMUM - 52n]) {
        const set = new IntervalSet();
        const model = new Set<number>();
        for (const { add, range } of changes) {
          if (add) set.add(base + BigInt(range.start), base + BigInt(range.last));
          else set.remove(base + BigInt(range.start), base + BigInt(range.last));
          for (let i = range.start; i <= range.last; i++) {
            if (add) model.add(i);
            else model.delete(i);
          }
        }
        const numbers = (ranges: Iterable<Range>): number[] => {
          const all: number[] = [];
          let previous = -1n;
          for (const { start, last } of ranges) {
            expect(start).toBeGreaterThan(previous);
            for (let i = start; i <= last; i++) all.push(Number(i - base));
            previous = last + 1n;
          }
          return all;
        };
        const sorted = [...model].sort((a, b) => a - b);
        const within = (i: number): boolean => i >= window.start && i <= window.last;
        const start = base + BigInt(window.start);
        const last = base + BigInt(window.last);
        expect(numbers(set.ranges())).toEqual(sorted);
        expect(numbers(set.ranges(start, last))).toEqual(sorted.filter(within));
        expect(set.isEmpty).toBe(model.size === 0);
        expect(set.has(start)).toBe(model.has(window.start));
        expect(set.intersects(start, last)).toBe(sorted.some(within));
        const all = Array.from({ length: window.last - window.start + 1 }, (_, i) => window.start + i);
        expect(numbers(set.holes(start, last))).toEqual(all.filter((i) => !model.has(i)));
      }
    }),
    { numRuns: 300 },
  );
});

test.each([
  ["where numbers are exact", 0x100000000n],
  ["where doubles begin to round", 2n ** 53n - 1500n],
  ["at the top", MAXIMUM - 9000n],
])("a crowd that grows, shrinks and grows again keeps its order and its holes, %s", (_where, base) => {
  const random = new Random(1);
  const map = new IntervalMap<number>();
  const there = new Map<number, Interval<number>>();
  const check = (): void => {
    const places = [...there.keys()].sort((a, b) => a - b);
    expect([...map].map(({ value }) => value)).toEqual(places);
    expect([map.size, map.lowest?.value, map.highest?.value]).toEqual([places.length, places[0], places.at(-1)]);
    // Intervals of two numbers, one apart: a hole of four is where at least one is missing.
    const missing = Array.from({ length: CROWD }, (_, place) => place).find((place) => !there.has(place));
    const last = base + BigInt(CROWD * 3 - 1);
    const found = map.firstHole(base, last, 4n, (hole) => hole.start);
    const expected = missing === undefined ? undefined : base + BigInt(missing * 3 - 1);
    // Before the first there is only a hole of three.
    if (missing !== 0) expect(found).toBe(expected);
  };
  for (const chanceToAdd of [90, 10, 60, 100, 0]) {
    for (let step = 0; step < 4000; step++) {
      const place = random.below(CROWD);
      const interval = there.get(place);
      const adds = random.below(100) < chanceToAdd;
      if (adds && interval === undefined) {
        const start = base + BigInt(place * 3);
        there.set(place, map.insert(start, start + 1n, place));
      } else if (!adds && interval !== undefined) {
        expect(map.at(interval.last)).toBe(interval);
        map.remove(interval);
        there.delete(place);
        expect(map.at(interval.start)).toBeUndefined();
      }
      if (step % 500 === 0) check();
    }
    check();
  }
});
