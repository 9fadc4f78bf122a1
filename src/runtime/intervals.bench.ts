import { type Benchmark, median, type Row } from "../../bench/benchmark.ts";
import { type Interval, IntervalMap, type Range } from "./intervals.ts";
import { Random } from "./random.ts";

const PAGE = 4096n;
const TWO_PAGES = 2n * PAGE;

/** Single pages at shuffled places, with holes of one page between them. */
function crowd(count: number): { map: IntervalMap<number>; entries: Interval<number>[] } {
  const random = new Random(1);
  const places = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [places[i], places[j]] = [places[j], places[i]];
  }
  const map = new IntervalMap<number>();
  const entries = places.map((place) => {
    const start = 0x100000000n + BigInt(place) * 2n * PAGE;
    return map.insert(start, start + PAGE - 1n, place);
  });
  return { map, entries };
}

function change(count: number): number {
  const { map, entries } = crowd(count);
  let at = 0;
  return median((repeats) => {
    for (let i = 0; i < repeats; i++) {
      const entry = entries[at];
      map.remove(entry);
      entries[at] = map.insert(entry.start, entry.last, entry.value);
      at = (at + 1) % count;
    }
  }, 20_000);
}

function find(count: number): number {
  const { map, entries } = crowd(count);
  let at = 0;
  let sum = 0;
  const time = median((repeats) => {
    for (let i = 0; i < repeats; i++) {
      sum += map.at(entries[at].last)!.value;
      at = (at + 1) % count;
    }
  }, 20_000);
  return sum >= 0 ? time : 0;
}

function place(count: number): number {
  const { map, entries } = crowd(count);
  // One hole of three pages in the middle of many of one page.
  const middle = entries.find((entry) => entry.value === count >> 1)!;
  map.remove(middle);
  const fits = (hole: Range): bigint | undefined => {
    const beyond = hole.start % TWO_PAGES;
    const aligned = beyond === 0n ? hole.start : hole.start - beyond + TWO_PAGES;
    return aligned + TWO_PAGES - 1n <= hole.last ? aligned : undefined;
  };
  return median((repeats) => {
    for (let i = 0; i < repeats; i++) map.firstHole(0x100000000n, 0xffffffffffffn, TWO_PAGES, fits);
  }, 20_000);
}

const goal = (value: number, limit: number): Pick<Row, "value" | "unit" | "goal" | "met"> => ({
  value,
  unit: "ns",
  goal: `≤ ${limit} ns`,
  met: value <= limit,
});

const benchmark: Benchmark = {
  name: "intervals",
  rows: () => [
    { what: "remove and insert, 1,000 intervals, in random order", ...goal(change(1_000), 1000) },
    { what: "remove and insert, 100,000 intervals, in random order", ...goal(change(100_000), 1000) },
    { what: "find the interval at an address, 100,000 intervals", ...goal(find(100_000), 1000) },
    { what: "first hole that fits, aligned, 10,000 intervals", ...goal(place(10_000), 1000) },
    { what: "first hole that fits, aligned, 100,000 intervals", ...goal(place(100_000), 1000) },
  ],
};
export default benchmark;
