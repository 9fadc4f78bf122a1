import fc from "fast-check";
import { expect, it } from "vitest";
import { LibraryProcess, PhysicalMemory } from "../memory/index.ts";
import { System } from "../runtime/index.ts";
import { DirtyBitmap, granuleOf } from "./dirty-bitmap.ts";

const START = 0x1_0000_0000_0000n;
const PAGES = 3;

it("sets exactly the bits of the granules that ranges touch, besides those that were set", () => {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 24 }] });
  const { memory: space } = new LibraryProcess(system, memory);
  const bitmap = space.map(PAGES);
  const range = fc.record({ at: fc.nat(40_000), size: fc.integer({ min: 1, max: 3000 }) });
  fc.assert(
    fc.property(fc.array(range, { maxLength: 12 }), fc.nat(4), fc.nat(5000), (ranges, log2, offset) => {
      const granule = 2 ** log2;
      space.write(bitmap, new Uint8Array(PAGES * 4096).fill(0x10));
      const dirty = new DirtyBitmap(space, BigInt(bitmap + offset), START, granule);
      const expected = new Set<number>();
      for (const { at, size } of ranges) {
        const from = log2 === 0 ? at / 4 : at;
        dirty.set(START + BigInt(Math.floor(from)), size);
        for (let byte = Math.floor(from); byte < Math.floor(from) + size; byte++)
          expected.add(Math.floor(byte / granule));
      }
      dirty.flush();
      const bytes = new Uint8Array(PAGES * 4096 - offset);
      space.read(bitmap + offset, bytes);
      const wrong = Array.from({ length: bytes.length * 8 }, (_, bit) => bit).filter((bit) => {
        const isSet = ((bytes[bit >> 3] >> (bit & 7)) & 1) === 1;
        return isSet !== (expected.has(bit) || (bit & 7) === 4);
      });
      expect(wrong).toEqual([]);
    }),
    { numRuns: 60 },
  );
});

it.each([
  [1n, 1],
  [4096n, 4096],
  [3000n, 8],
  [2n ** 63n, 2 ** 63],
])("the granule of page size %s is its lowest bit", (pageSize, granule) => {
  expect(granuleOf(pageSize)).toBe(granule);
});
