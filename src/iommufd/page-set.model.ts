import fc from "fast-check";
import { expect, it } from "vitest";
import { type FrameRun, LibraryProcess, PhysicalMemory } from "../memory/index.ts";
import { Refusal, System } from "../runtime/index.ts";
import { PageSet, type PageSource } from "./page-set.ts";

const PAGES = 24;

/** Pages whose frames are scattered, some of them absent. */
function world(absent: ReadonlySet<number>) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 24 }] });
  const process = new LibraryProcess(system, memory, { memlockLimit: 16 * 4096 });
  const runs = Array.from({ length: PAGES / 2 }, () => memory.allocate(2)).reverse();
  const frame = (page: number): number => runs[page >> 1] + (page & 1);
  const source: PageSource = {
    label: "test memory",
    kind: "memory",
    pin(page, count) {
      const pinned: FrameRun[] = [];
      for (let at = page; at < page + count; at++) {
        if (absent.has(at)) throw new Refusal(14, () => `page ${at} is absent`);
        pinned.push({ pfn: frame(at), count: 1 });
      }
      for (const run of pinned) memory.pin(run);
      return pinned;
    },
  };
  return { memory, process, frame, set: new PageSet({ system, memory }, source, true, process, "user") };
}

const range = fc.tuple(fc.nat(PAGES - 1), fc.nat(7)).map(([first, more]) => [first, Math.min(PAGES - 1, first + more)]);
const step = fc.oneof(
  { weight: 3, arbitrary: range.map(([first, last]) => ({ acquire: true, first, last, which: 0 })) },
  { weight: 2, arbitrary: fc.nat(50).map((which) => ({ acquire: false, first: 0, last: 0, which })) },
);

it("a page is pinned once, exactly while somebody has acquired it, whatever the ranges and failures", () => {
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 40 }),
      fc.uniqueArray(fc.nat(PAGES - 1), { maxLength: 2 }),
      (steps, absent) => {
        const { memory, process, frame, set } = world(new Set(absent));
        const users = new Array<number>(PAGES).fill(0);
        const acquired: [number, number][] = [];
        for (const { acquire, first, last, which } of steps) {
          const pages = (a: number, b: number) => Array.from({ length: b - a + 1 }, (_, i) => a + i);
          if (acquire) {
            const fresh = pages(first, last).filter((page) => users[page] === 0);
            const pinned = users.filter((count) => count > 0).length;
            let errno = 0;
            try {
              set.acquire(first, last, process);
            } catch (error) {
              errno = (error as Refusal).errno;
            }
            const fails = fresh.some((page) => absent.includes(page)) || pinned + fresh.length > 16;
            expect(errno !== 0).toBe(fails);
            if (errno === 0) {
              acquired.push([first, last]);
              for (const page of pages(first, last)) users[page]++;
            }
          } else if (acquired.length > 0) {
            const [[from, to]] = acquired.splice(which % acquired.length, 1);
            set.release(from, to);
            for (const page of pages(from, to)) users[page]--;
          }
          const expected = users.map((count) => (count > 0 ? 1 : 0));
          expect(users.map((_, page) => memory.pinCount(frame(page)))).toEqual(expected);
          const total = expected.reduce((sum: number, pins) => sum + pins, 0);
          expect([set.pinnedPages, process.user.lockedPages, process.memory.pinnedPages]).toEqual([
            total,
            total,
            total,
          ]);
          for (const [from, to] of acquired) {
            const frames = set
              .frames(from, to)
              .flatMap(({ pfn, count }) => Array.from({ length: count }, (_, i) => pfn + i));
            expect(frames).toEqual(pages(from, to).map(frame));
          }
        }
      },
    ),
    { numRuns: 200 },
  );
});
