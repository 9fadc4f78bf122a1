import fc from "fast-check";
import { expect, test } from "vitest";
import { IdAllocator } from "./ids.ts";
import { NumberSet } from "./number-set.ts";

/** Numbers near the borders of words, of levels and of the first capacity. */
const number = fc.oneof(
  fc.nat(100),
  fc.nat(2100),
  fc.tuple(fc.constantFrom(32, 1024, 2048, 32768), fc.integer({ min: -2, max: 2 })).map(([border, by]) => border + by),
);
const count = fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(512, 1024, 1056, 32768));

const step = fc.oneof(
  fc.record({ kind: fc.constant("add" as const), number }),
  fc.record({ kind: fc.constant("delete" as const), number }),
  fc.record({ kind: fc.constant("lowest" as const) }),
  fc.record({ kind: fc.constant("addRange" as const), number, count }),
  fc.record({ kind: fc.constant("deleteRange" as const), number, count }),
  fc.record({ kind: fc.constant("ask" as const), number, count }),
);

function lowestAbsent(model: Set<number>, from: number): number {
  let at = from;
  while (model.has(at)) at++;
  return at;
}

test("a NumberSet is a set of numbers that knows the lowest absent one", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const set = new NumberSet();
      const model = new Set<number>();
      for (const step of steps) {
        switch (step.kind) {
          case "add":
            expect(set.add(step.number)).toBe(!model.has(step.number));
            model.add(step.number);
            break;
          case "delete":
            expect(set.delete(step.number)).toBe(model.delete(step.number));
            break;
          case "lowest": {
            const lowest = lowestAbsent(model, 0);
            expect(set.addLowest()).toBe(lowest);
            model.add(lowest);
            break;
          }
          case "addRange":
          case "deleteRange": {
            // The longest piece of the range that is allowed.
            const adding = step.kind === "addRange";
            let length = 0;
            while (length < step.count && model.has(step.number + length) !== adding) length++;
            if (length === 0) break;
            if (adding) set.addRange(step.number, length);
            else set.deleteRange(step.number, length);
            for (let i = 0; i < length; i++) {
              if (adding) model.add(step.number + i);
              else model.delete(step.number + i);
            }
            break;
          }
          case "ask": {
            expect(set.has(step.number)).toBe(model.has(step.number));
            expect(set.lowestAbsent(step.number)).toBe(lowestAbsent(model, step.number));
            let present: number | undefined = step.number;
            while (present < step.number + step.count && !model.has(present)) present++;
            if (present === step.number + step.count) present = undefined;
            expect(set.lowestPresent(step.number, step.number + step.count)).toBe(present);
            const all = lowestAbsent(model, step.number) >= step.number + step.count;
            expect(set.hasRange(step.number, step.count)).toBe(all);
            break;
          }
        }
        expect(set.size).toBe(model.size);
        expect(set.lowestAbsent()).toBe(lowestAbsent(model, 0));
      }
    }),
    { numRuns: 300 },
  );
});

test("an IdAllocator gives the lowest free id of its range, whatever was taken and freed before", () => {
  const id = fc.integer({ min: 3, max: 12 });
  fc.assert(
    fc.property(fc.array(fc.record({ kind: fc.constantFrom("allocate", "reserve", "free"), id })), (steps) => {
      const ids = new IdAllocator(5, 10);
      const model = new Set<number>();
      for (const { kind, id } of steps) {
        const inRange = id >= 5 && id <= 10;
        if (kind === "allocate") {
          const lowest = [5, 6, 7, 8, 9, 10].find((candidate) => !model.has(candidate));
          expect(ids.allocate()).toBe(lowest);
          if (lowest !== undefined) model.add(lowest);
        } else if (kind === "reserve") {
          expect(ids.reserve(id)).toBe(inRange && !model.has(id));
          if (inRange) model.add(id);
        } else if (model.delete(id)) {
          ids.free(id);
        } else {
          expect(() => ids.free(id)).toThrow("was not taken");
        }
        expect(ids.has(id)).toBe(model.has(id));
        expect(ids.size).toBe(model.size);
      }
    }),
  );
});
