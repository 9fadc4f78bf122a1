import { type Benchmark, median, type Row } from "../../../bench/benchmark.ts";
import { type PageTable, PROT_CACHE, PROT_READ, PROT_WRITE } from "../../pagetable/index.ts";
import { TRANSLATED } from "./index.ts";
import { CMDQ_PROD } from "./registers.ts";
import { cdWords, RAM_BASE, RAM_SIZE, STE_STAGE1, steWords, Workbench } from "./workbench.test-support.ts";

const PAGE = 4096;
const PROT = PROT_READ | PROT_WRITE | PROT_CACHE;
const STREAM = 8;
const IOVA = 2 ** 40;
/** Sixteen times what the TLB holds: in random order hardly one of these is there. */
const PAGES = 65536;
const REPEATS = 100_000;
/** One less than a power of two. */
const PASID = 7;
const PASID_STREAM = 9;

/** Page numbers 0 … PAGES - 1 in a scattered order. */
const order = Uint32Array.from({ length: PAGES }, (_, i) => Math.imul(i, 0x9e3779b1) & (PAGES - 1));

/** A stream without PASIDs and one with them, through the same tables. */
function stage1Bench(): Workbench {
  const bench = new Workbench();
  const table = filledTable(bench);
  bench.stage1Stream(STREAM, { table });
  const contexts = bench.writeCds(
    ...Array.from({ length: PASID + 1 }, (_, pasid) => cdWords({ table, asid: 2 + pasid })),
  );
  bench.writeSte(PASID_STREAM, steWords(STE_STAGE1, { contexts, contextBits: Math.log2(PASID + 1) }));
  return bench.enable();
}

function filledTable(bench: Workbench): PageTable {
  const table = bench.stage1Table();
  for (let page = 0; page < PAGES; page++) {
    table.map(IOVA + page * PAGE, RAM_BASE + ((page * PAGE) % RAM_SIZE), PAGE, PROT);
  }
  return table;
}

/** Stage 1 as above, under a stage 2 of 4 KiB pages that maps RAM to itself. */
function nestedBench(): Workbench {
  const bench = new Workbench();
  const table = filledTable(bench);
  const stage2 = bench.stage2Table();
  for (let at = RAM_BASE; at < RAM_BASE + RAM_SIZE; at += PAGE) stage2.map(at, at, PAGE, PROT);
  bench.nestedStream(STREAM, { table }, { table: stage2 });
  return bench.enable();
}

const HIGH = IOVA / 2 ** 32;

/** Nanoseconds of one translation; `pages` are visited in a scattered order. */
function translation(bench: Workbench, pages: number, streamId = STREAM, substreamId = -1): number {
  const { smmu } = bench;
  let at = 0;
  let sum = 0;
  const result = median((repeats) => {
    for (let i = 0; i < repeats; i++) {
      const low = (order[at++ & (PAGES - 1)] % pages) * PAGE;
      if (smmu.translate(streamId, substreamId, HIGH, low, false) === TRANSLATED) sum += smmu.physical;
    }
  }, REPEATS);
  if (!(sum > 0)) throw new Error("nothing was translated");
  return result;
}

function perSecond(nanoseconds: number): number {
  return 1000 / nanoseconds;
}

function row(what: string, nanoseconds: number, goal: number): Row {
  const value = perSecond(nanoseconds);
  return { what, value, unit: "million/s", goal: `≥ ${goal} million/s`, met: value >= goal };
}

/** One TLBI by address with its CMD_SYNC, written to the queue and consumed. */
function invalidation(): number {
  const bench = stage1Bench();
  for (let page = 0; page < 1024; page++) bench.translate(STREAM, IOVA + page * PAGE);
  const commands: [bigint, bigint][] = [
    [0x12n + 2n ** 48n, BigInt(IOVA + 5 * PAGE) + 1n],
    [0x46n, 0n],
  ];
  for (let i = 0; i < 32; i++) bench.commands(...commands);
  let producer = bench.smmu.read32(CMDQ_PROD);
  return median((repeats) => {
    for (let i = 0; i < repeats; i++) {
      producer = (producer + 2) % 128;
      bench.smmu.write32(CMDQ_PROD, producer);
    }
  }, 10_000);
}

const benchmark: Benchmark = {
  name: "smmuv3",
  rows: () => {
    const stage1 = stage1Bench();
    const nested = nestedBench();
    return [
      row("stream id to physical address, TLB hit", translation(stage1, 512), 20),
      row("the same, with a PASID", translation(stage1, 512, PASID_STREAM, PASID), 20),
      row("without, 4-level miss", translation(stage1, PAGES), 4),
      row("without, nested miss (4 levels under 3)", translation(nested, PAGES), 1),
      { what: "TLBI by address and CMD_SYNC", value: invalidation(), unit: "ns" },
    ];
  },
};
export default benchmark;
