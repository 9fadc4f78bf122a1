import fc from "fast-check";
import { expect, test } from "vitest";
import { type PageTable, PROT_CACHE, PROT_READ, PROT_WRITE } from "../../pagetable/index.ts";
import { newGather, RAM_BASE, Workbench } from "./workbench.test-support.ts";

/**
 * Random changes of stage 1 and stage 2 tables, each followed by the invalidation that it needs and nothing more: then
 * the model's answers, from whatever it has cached, are those of the tables as software reads them.
 */
const RW = PROT_READ | PROT_WRITE | PROT_CACHE;
const PAGE = 4096;
const BLOCK = 2 ** 21;
const IOVA = 2 ** 40;
const VMID = 7n;
const ASID = 5n;
/** Stage 2 maps tables and CDs to themselves here, and never changes that. */
const FIXED = 2 ** 26;
/** Intermediate addresses that stage 1 maps to: two blocks. */
const IPA = 2 ** 34;
const DATA = RAM_BASE + 2 ** 27;
const PAGES = 1024;

const pageNumber = fc.constantFrom(0, 1, 2, 3, 511, 512, 513);
const rights = fc.constantFrom(RW, PROT_READ);

const change = fc.oneof(
  fc.record({
    kind: fc.constantFrom("stage1" as const, "stage2" as const),
    page: pageNumber,
    block: fc.boolean(),
    to: pageNumber,
    rights,
    ranged: fc.boolean(),
  }),
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("access" as const), page: pageNumber, write: fc.boolean() }) },
);

class Nested {
  readonly bench = new Workbench();
  readonly stage1: PageTable = this.bench.stage1Table();
  readonly stage2: PageTable = this.bench.stage2Table();

  constructor() {
    this.stage2.map(RAM_BASE, RAM_BASE, FIXED, RW);
    this.stage1.map(IOVA, IPA, 2 * BLOCK, RW);
    for (let page = 0; page < PAGES; page++) this.stage2.map(IPA + page * PAGE, DATA + page * PAGE, PAGE, RW);
    this.bench.nestedStream(8, { table: this.stage1, asid: Number(ASID) }, { table: this.stage2, vmid: Number(VMID) });
    this.bench.enable();
  }

  /** Replaces what is mapped at a page, or at its whole block. */
  replace(table: PageTable, at: number, to: number, size: number, prot: number): void {
    const start = at - (at % size);
    // A block is never cut: the page's neighbours in it go with it.
    const block = at - (at % BLOCK);
    const { size: mapped = size } = table.translate(at) ?? {};
    if (mapped > size || size === BLOCK) table.unmap(block, BLOCK, newGather());
    else table.unmap(start, size, newGather());
    for (let hole = start; hole < start + size; hole += PAGE) {
      if (table.translate(hole) !== undefined) table.unmap(hole, PAGE, newGather());
    }
    table.map(start, to - (to % size), size, prot);
  }

  /** Where the tables say that an access goes. */
  expected(iova: number, write: boolean): number | undefined {
    const needed = write ? PROT_WRITE : PROT_READ;
    const first = this.stage1.translate(iova);
    if (first === undefined || (first.prot & needed) === 0) return undefined;
    const second = this.stage2.translate(first.physical);
    return second === undefined || (second.prot & needed) === 0 ? undefined : second.physical;
  }
}

test("what is cached never differs from the tables, once they were invalidated", () => {
  fc.assert(
    fc.property(fc.array(change, { maxLength: 60, size: "max" }), (changes) => {
      const nested = new Nested();
      const { bench } = nested;
      for (const step of changes) {
        if (step.kind === "access") {
          const iova = IOVA + step.page * PAGE + 8;
          const got = bench.translate(8, iova, step.write);
          expect(typeof got === "number" ? got : undefined).toBe(nested.expected(iova, step.write));
          continue;
        }
        const size = step.block ? BLOCK : PAGE;
        if (step.kind === "stage1") {
          nested.replace(nested.stage1, IOVA + step.page * PAGE, IPA + step.to * PAGE, size, step.rights);
          const start = BigInt(IOVA + step.page * PAGE);
          // The whole block by range, as what was there before may have been one; or each of its pages.
          const address = start - (start % BigInt(BLOCK));
          const tags = VMID * 2n ** 32n + ASID * 2n ** 48n;
          if (step.ranged) bench.commands([0x12n + tags + 7n * 2n ** 12n + 6n * 2n ** 20n, address + 2n ** 10n]);
          else bench.commands([0x11n + tags, 0n]);
        } else {
          nested.replace(nested.stage2, IPA + step.page * PAGE, DATA + (step.to % PAGES) * PAGE, size, step.rights);
          const address = BigInt(IPA + step.page * PAGE);
          const block = address - (address % BigInt(BLOCK));
          const vmid = VMID * 2n ** 32n;
          bench.commands([0x2an + vmid + 7n * 2n ** 12n + 6n * 2n ** 20n, block + 2n ** 10n], [0x10n + vmid, 0n]);
        }
      }
    }),
    { numRuns: 60 },
  );
});
