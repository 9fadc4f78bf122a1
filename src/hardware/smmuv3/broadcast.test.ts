import { expect, test } from "vitest";
import { PROT_CACHE, PROT_READ } from "../../pagetable/index.ts";
import * as R from "./registers.ts";
import { RAM_BASE, Workbench } from "./workbench.test-support.ts";

const PAGE = 4096;
const ADDRESS = 0x12_3456_7000;
const [OLD, NEW] = [RAM_BASE + 2 ** 27, RAM_BASE + 2 ** 27 + PAGE];

/** A stream with ASID 5 whose page is in the TLB and has moved since; what it translates to after the CPU's maintenance. */
function after(invalidation: [number, number, number], broadcastTlb: boolean, controls: number): unknown {
  const bench = new Workbench({ features: { broadcastTlb } });
  bench.smmu.write32(R.CR2, controls);
  const table = bench.stage1Table();
  table.map(ADDRESS, OLD, PAGE, PROT_READ | PROT_CACHE);
  bench.stage1Stream(8, { table, asid: 5 });
  bench.enable();
  expect(bench.translate(8, ADDRESS)).toBe(OLD);
  table.unmap(ADDRESS, PAGE, { start: 1n, last: 0n, leafSize: 0, freedTables: [] });
  table.map(ADDRESS, NEW, PAGE, PROT_READ | PROT_CACHE);
  bench.smmu.hearTlbInvalidation(...invalidation);
  return bench.translate(8, ADDRESS);
}

test("translations of an ASID go when a CPU broadcasts that they do, unless the SMMU does not hear it", () => {
  expect(after([5, ADDRESS, PAGE], true, 0)).toBe(NEW);
  expect(after([5, 0, 2 ** 48], true, 0)).toBe(NEW);
  expect(after([5, ADDRESS - 7 * PAGE, 7 * PAGE], true, 0)).toBe(OLD);
  expect(after([6, ADDRESS, PAGE], true, 0)).toBe(OLD);
  expect(after([5, ADDRESS, PAGE], true, R.CR2_PTM)).toBe(OLD);
  expect(after([5, ADDRESS, PAGE], false, 0)).toBe(OLD);
});
