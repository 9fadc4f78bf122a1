import fc from "fast-check";
import { expect, test } from "vitest";
import { ForeignFrames } from "./foreign-frames.ts";
import { FrameAllocator } from "./frame-allocator.ts";
import { FrameCounts } from "./frame-counts.ts";
import type { FrameBacking } from "./types.ts";

const FIRST = 2 ** 28 - 512;
const SIZE = 2048;
const at = fc.nat(SIZE - 1);
const count = fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(511, 512, 513, 1024, 1500));

test("counts of frames change by ranges as they would one by one", () => {
  const step = fc.record({ up: fc.boolean(), at: fc.oneof(at, fc.constantFrom(0, 512, 1024)), count });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const counts = new FrameCounts();
      const model = new Array<number>(SIZE + 1500).fill(0);
      for (const { up, at, count } of steps) {
        if (up) {
          counts.increment(FIRST + at, count);
          for (let i = at; i < at + count; i++) model[i]++;
        } else {
          // As far as the counts allow.
          let length = 0;
          while (length < count && model[at + length] > 0) length++;
          if (length === 0) continue;
          const gone: number[] = [];
          counts.decrement(FIRST + at, length, (pfn, run) => {
            for (let i = 0; i < run; i++) gone.push(pfn - FIRST + i);
          });
          const expected: number[] = [];
          for (let i = at; i < at + length; i++) if (--model[i] === 0) expected.push(i);
          expect(gone).toEqual(expected);
        }
        expect(counts.size).toBe(model.filter((value) => value > 0).length);
      }
      expect(model.map((_, i) => counts.get(FIRST + i))).toEqual(model);
      const seen: number[] = [];
      counts.forEachRun(FIRST + 3, SIZE, (pfn, run, value) => {
        expect(pfn).toBe(FIRST + 3 + seen.length);
        for (let i = 0; i < run; i++) seen.push(value);
      });
      expect(seen).toEqual(model.slice(3, 3 + SIZE));
    }),
    { numRuns: 150 },
  );
});

test("the allocator gives the lowest run that is free, aligned and in range", () => {
  const step = fc.oneof(
    fc.record({
      kind: fc.constant("allocate" as const),
      count: fc.integer({ min: 1, max: 70 }),
      align: fc.constantFrom(1, 2, 16, 64),
      phase: fc.nat(63),
    }),
    fc.record({ kind: fc.constant("free" as const), which: fc.nat() }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const first = 1000;
      const size = 400;
      const frames = new FrameAllocator(first, first + size);
      const used = new Set<number>();
      const given: { pfn: number; count: number }[] = [];
      for (const step of steps) {
        if (step.kind === "free") {
          if (given.length === 0) continue;
          const [{ pfn, count }] = given.splice(step.which % given.length, 1);
          frames.free(pfn, count);
          for (let i = 0; i < count; i++) used.delete(pfn + i);
        } else {
          const { count, align } = step;
          const phase = step.phase % align;
          let expected: number | undefined;
          for (let pfn = first; pfn + count <= first + size && expected === undefined; pfn++) {
            if (pfn % align !== phase) continue;
            if (Array.from({ length: count }, (_, i) => pfn + i).every((one) => !used.has(one))) expected = pfn;
          }
          const pfn = count === 1 && align === 1 ? frames.allocate() : frames.allocateRun(count, align, phase);
          expect(pfn).toBe(expected);
          if (pfn === undefined) continue;
          given.push({ pfn, count });
          for (let i = 0; i < count; i++) used.add(pfn + i);
        }
        expect(frames.size).toBe(used.size);
      }
    }),
    { numRuns: 150 },
  );
});

test("behind each frame of others is what it was bound to last", () => {
  const backings = Array.from({ length: 3 }, (): FrameBacking => ({ read() {}, write() {} }));
  const step = fc.record({ at, count, backing: fc.nat(2), page: fc.nat(5000) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 20 }), at, count, (steps, dropAt, dropCount) => {
      const frames = new ForeignFrames(FIRST, FIRST + 8192);
      const pfn = frames.adopt(backings[0], SIZE, 7)!;
      expect(pfn % 512).toBe(7);
      const model = Array.from({ length: SIZE }, (_, i): [FrameBacking, number] | undefined => [backings[0], i]);
      for (const { at, count, backing, page } of steps) {
        const length = Math.min(count, SIZE - at);
        frames.bind(pfn + at, length, backings[backing], page);
        for (let i = 0; i < length; i++) model[at + i] = [backings[backing], page + i];
      }
      const length = Math.min(dropCount, SIZE - dropAt);
      frames.drop(pfn + dropAt, length);
      model.fill(undefined, dropAt, dropAt + length);
      const wrong = model.findIndex((expected, i) => {
        const run = frames.at(pfn + i);
        if (run === undefined || expected === undefined) return run !== expected;
        return run.backing !== expected[0] || run.page + (pfn + i - run.pfn) !== expected[1];
      });
      expect(wrong).toBe(-1);
      expect(frames.allocator.size).toBe(SIZE - length);
    }),
    { numRuns: 60 },
  );
});
