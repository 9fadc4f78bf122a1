/**
 * Random programs of map, unmap, split and writes on AMDv1 tables, beside a reference that knows nothing of tables: a
 * list of leaves, and the rule for choosing them as one says it in English.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PhysicalMemory } from "../memory/index.ts";
import { EADDRINUSE, Refusal, System } from "../runtime/index.ts";
import { type Amdv1Options, amdv1 } from "./formats/amdv1.ts";
import { PROT_CACHE, PROT_READ, PROT_WRITE } from "./prot.ts";
import { type Leaf, PageTable, type UnmapResult } from "./table.ts";

const powers = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => 2 ** (from + index));

const configurations: readonly (Amdv1Options & { name: string })[] = [
  { name: "granule 2K, all sizes", granuleBits: 11, inputBits: 38, pageSizes: powers(11, 36) },
  { name: "granule 2K, pages of 4K and 1M", granuleBits: 11, inputBits: 38, pageSizes: [4096, 2 ** 20] },
  { name: "granule 4K, all sizes", granuleBits: 12, inputBits: 48, pageSizes: powers(12, 38) },
  { name: "one level", granuleBits: 12, inputBits: 21, pageSizes: powers(12, 20) },
];

type Entry = Leaf & { dirty: boolean };

class Reference {
  leaves: Entry[] = [];
  private readonly sizes: readonly number[];
  /** What one entry of a leaf spans: the largest table entry that is not larger than the leaf. */
  readonly entrySize: (size: number) => number;

  constructor({ granuleBits, pageSizes }: Amdv1Options) {
    this.sizes = pageSizes;
    this.entrySize = (size) => 2 ** (granuleBits + 9 * Math.floor((Math.log2(size) - granuleBits) / 9));
  }

  map(iova: number, physical: number, size: number, prot: number): number {
    if (this.leaves.some((leaf) => leaf.iova < iova + size && iova < leaf.iova + leaf.size)) return EADDRINUSE;
    for (let done = 0; done < size; ) {
      const fits = (page: number): boolean =>
        (iova + done) % page === 0 && (physical + done) % page === 0 && size - done >= page;
      const page = Math.max(...this.sizes.filter(fits));
      this.leaves.push({ iova: iova + done, physical: physical + done, size: page, prot, dirty: false });
      done += page;
    }
    this.leaves.sort((a, b) => a.iova - b.iova);
    return 0;
  }

  at(iova: number): Entry | undefined {
    return this.leaves.find((leaf) => leaf.iova <= iova && iova < leaf.iova + leaf.size);
  }

  /** "A leaf goes whole; a hole ends it." */
  unmap(iova: number, size: number): number {
    let at = iova;
    for (let leaf = this.at(at); at < iova + size && leaf !== undefined; leaf = this.at(at)) {
      this.leaves.splice(this.leaves.indexOf(leaf), 1);
      at = leaf.iova + leaf.size;
    }
    return at - iova;
  }
}

const PAGES = 1024;
const offsets = fc.oneof(fc.nat(PAGES), fc.constantFrom(0, 1, 2, 256, 512, 513, 1024));
const step = fc.oneof(
  fc.record({ op: fc.constant("map" as const), at: offsets, to: offsets, pages: offsets, write: fc.boolean() }),
  fc.record({ op: fc.constant("unmap" as const), at: offsets, pages: offsets }),
  fc.record({ op: fc.constant("mark" as const), at: offsets, extra: fc.nat(4095) }),
  fc.record({ op: fc.constant("dirty" as const), at: offsets, pages: offsets, clean: fc.boolean() }),
);

describe.each(configurations)("AMDv1, $name", (options) => {
  const smallest = options.pageSizes[0];

  test("holds what a list of leaves would", () => {
    const run = fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const system = new System();
      const memory = new PhysicalMemory(system, { ram: [{ base: 2 ** 30, size: 2 ** 26 }] });
      const table = new PageTable(system, memory, amdv1(options));
      const reference = new Reference(options);
      const end = Math.min(2 ** options.inputBits, 2 ** 23);
      const bytes = (pages: number): number => pages * smallest;
      for (const one of steps) {
        const iova = bytes(one.at);
        if (one.op === "map") {
          const size = Math.min(bytes(one.pages), end - iova);
          if (size <= 0) continue;
          const prot = PROT_READ | PROT_CACHE | (one.write ? PROT_WRITE : 0);
          const physical = 2 ** 40 + bytes(one.to);
          expect(errnoOf(() => table.map(iova, physical, size, prot))).toBe(reference.map(iova, physical, size, prot));
        } else if (one.op === "unmap") {
          const size = Math.min(bytes(one.pages), end - iova);
          const gather = { start: 1n, last: 0n, leafSize: 0, freedTables: [] as number[] } satisfies UnmapResult;
          if (size > 0) expect(table.unmap(iova, size, gather)).toBe(reference.unmap(iova, size));
          for (const pfn of gather.freedTables) memory.free(pfn);
        } else if (one.op === "mark") {
          const leaf = reference.at(iova + one.extra);
          if (leaf !== undefined) leaf.dirty = true;
          expect(table.markDirty(iova + one.extra)).toBe(leaf !== undefined);
        } else {
          const size = bytes(one.pages);
          const dirty = reference.leaves.filter((l) => l.dirty && l.iova < iova + size && iova < l.iova + l.size);
          const seen: number[][] = [];
          table.visitDirty(iova, size, one.clean, (...leaf) => seen.push(leaf));
          expect(seen).toEqual(dirty.map((leaf) => [leaf.iova, leaf.size, reference.entrySize(leaf.size)]));
          if (one.clean) for (const leaf of dirty) leaf.dirty = false;
        }
        expect([...table.leaves()]).toEqual(reference.leaves.map(({ dirty: _, ...leaf }) => leaf));
        const probe = reference.at(iova);
        expect(table.translate(iova)?.physical).toBe(probe && probe.physical + iova - probe.iova);
      }
      table.free();
      expect(memory.usedFrames).toBe(0);
    });
    fc.assert(run, { numRuns: 100 });
  });

  test("splits a leaf into smaller ones that translate the same, and stay dirty", () => {
    const run = fc.property(
      fc.nat(options.pageSizes.length - 1),
      fc.nat(options.pageSizes.length - 1),
      fc.nat(),
      (from, to, where) => {
        const size = options.pageSizes[from];
        if (size > 2 ** 33) return;
        const target = options.pageSizes[to];
        const system = new System();
        const memory = new PhysicalMemory(system, { ram: [{ base: 2 ** 30, size: 2 ** 26 }] });
        const table = new PageTable(system, memory, amdv1(options));
        table.map(0, 2 ** 40, size, PROT_READ);
        table.markDirty(0);
        const iova = where % size;
        table.split(iova, target);
        expect(table.translate(iova)?.size).toBe(Math.min(size, target));
        const leaves = [...table.leaves()];
        let next = 0;
        for (const leaf of leaves) {
          expect(leaf.iova).toBe(next);
          expect(leaf.physical).toBe(2 ** 40 + next);
          next += leaf.size;
        }
        expect(next).toBe(size);
        let dirty = 0;
        table.visitDirty(0, size, false, (_, bytes) => {
          dirty += bytes;
        });
        expect(dirty).toBe(size);
        table.free();
        expect(memory.usedFrames).toBe(0);
      },
    );
    fc.assert(run, { numRuns: 100 });
  });
});

function errnoOf(action: () => void): number {
  try {
    action();
    return 0;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return error.errno;
  }
}
