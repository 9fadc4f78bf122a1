import { type Benchmark, median, type Row } from "../../bench/benchmark.ts";
import { PhysicalMemory } from "../memory/index.ts";
import { System } from "../runtime/index.ts";
import { type LpaeFormat, lpae } from "./formats/lpae.ts";
import { PROT_CACHE, PROT_READ, PROT_WRITE } from "./prot.ts";
import { RIGHT_READ } from "./rights.ts";
import { PageTable, type UnmapResult } from "./table.ts";
import { type TableTranslator, TranslationStage, Walker } from "./walk.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;
const IOVA = 64 * GIB;
/** 2 MiB-aligned, and nothing that the tables take: mapped only, never read. */
const FRAMES = 8 * GIB;
const PROT = PROT_READ | PROT_WRITE | PROT_CACHE;

function newMemory(): PhysicalMemory {
  return new PhysicalMemory(new System(), { ram: [{ base: GIB, size: 256 * MIB }] });
}

function stage1(): LpaeFormat {
  return lpae({ stage: 1, granule: 4096, inputBits: 48, outputBits: 48 });
}

/** What a caller does between two unmaps: frees the tables, begins a new gather. */
class Mapper {
  readonly memory: PhysicalMemory = newMemory();
  readonly table: PageTable = new PageTable(new System(), this.memory, stage1());
  private readonly gather: UnmapResult = { start: 1n, last: 0n, leafSize: 0, freedTables: [] };

  unmap(iova: number, size: number): void {
    this.table.unmap(iova, size, this.gather);
    const { freedTables } = this.gather;
    for (const pfn of freedTables) this.memory.free(pfn);
    freedTables.length = 0;
  }
}

/** Nanoseconds of one map and its unmap. */
function mapAndUnmap(size: number, physical: number, repeats: number, neighbour: boolean): number {
  const mapper = new Mapper();
  if (neighbour) mapper.table.map(IOVA - 4 * KIB, FRAMES, 4 * KIB, PROT);
  if (neighbour) mapper.table.map(IOVA + GIB / 2, FRAMES, 4 * KIB, PROT);
  const at = neighbour && size === 4 * KIB ? IOVA + GIB / 2 + 4 * KIB : IOVA;
  return median((count) => {
    for (let i = 0; i < count; i++) {
      mapper.table.map(at, physical, size, PROT);
      mapper.unmap(at, size);
    }
  }, repeats);
}

/** Nanoseconds of one walk at a random one of 65,536 pages, so spread that they lie in 256 last-level tables. */
function randomWalk(): number {
  const memory = newMemory();
  const format = stage1();
  const table = new PageTable(new System(), memory, format);
  const pages = 65536;
  for (let page = 0; page < pages; page++) {
    const iova = IOVA * (page % 4) + (page >> 2) * 16 * KIB;
    table.map(iova, FRAMES + page * 4 * KIB, 4 * KIB, PROT);
  }
  const addresses = new Float64Array(pages);
  const random = new System({ seed: 7 }).random;
  for (let i = 0; i < pages; i++) {
    const page = random.below(pages);
    addresses[i] = IOVA * (page % 4) + (page >> 2) * 16 * KIB + random.below(4096);
  }
  const walker = new Walker(memory);
  const stage = new TranslationStage({ format, root: table.root });
  return median((count) => {
    let sum = 0;
    for (let i = 0; i < count; i++) {
      if (!walker.walk(stage, addresses[i % pages], RIGHT_READ)) throw new Error(walker.fault);
      sum += walker.output;
    }
    if (sum < count * FRAMES) throw new Error("the walks lead to wrong addresses");
  }, 4 * pages);
}

/** Nanoseconds of one stage-1 walk whose four tables are each found by a stage-2 walk of four levels, and its output too. */
function nestedWalk(): number {
  const memory = newMemory();
  const format = stage1();
  const inner = new PageTable(new System(), memory, format);
  const outer = new PageTable(new System(), memory, lpae({ stage: 2, granule: 4096, inputBits: 44, outputBits: 48 }));
  for (let page = 0; page < 512; page++) inner.map(IOVA + page * 4 * KIB, FRAMES + page * 4 * KIB, 4 * KIB, PROT);
  // IPA = PA, in 4 KiB leaves: nothing but the alignment forbids larger ones.
  for (const base of [GIB, FRAMES]) {
    for (let page = 0; page < 512; page++) outer.map(base + page * 4 * KIB, base + page * 4 * KIB, 4 * KIB, PROT);
  }
  const [walker, below] = [new Walker(memory), new Walker(memory)];
  const stageOne = new TranslationStage({ format, root: inner.root });
  const stageTwo = new TranslationStage({ format: outer.format as LpaeFormat, root: outer.root });
  const tables: TableTranslator = {
    translateTable: (ipa) => (below.walk(stageTwo, ipa, RIGHT_READ) ? below.output : -1),
  };
  return median((count) => {
    for (let i = 0; i < count; i++) {
      const found = walker.walk(stageOne, IOVA + (i % 512) * 4 * KIB, RIGHT_READ, tables);
      if (!found || !below.walk(stageTwo, walker.output, RIGHT_READ)) throw new Error(`${walker.fault} ${below.fault}`);
    }
  }, 20000);
}

/** Bytes of tables for each 4 KiB page of 1 GiB. */
function bytesPerPage(): number {
  const mapper = new Mapper();
  mapper.table.map(IOVA, FRAMES + 4 * KIB, GIB, PROT);
  return (mapper.table.tableFrames * 4096) / (GIB / 4096);
}

function atMost(what: string, nanoseconds: number, unit: "ns" | "µs", limit: number): Row {
  const value = unit === "ns" ? nanoseconds : nanoseconds / 1000;
  return { what, value, unit, goal: `≤ ${limit} ${unit}`, met: value <= limit };
}

const benchmark: Benchmark = {
  name: "pagetable",
  rows: () => {
    const walk = 1000 / randomWalk();
    const bytes = bytesPerPage();
    return [
      atMost("map + unmap 4 KiB beside another page", mapAndUnmap(4 * KIB, FRAMES, 20000, true), "ns", 300),
      {
        what: "map + unmap 4 KiB in an empty table (3 tables made and freed)",
        value: mapAndUnmap(4 * KIB, FRAMES, 5000, false),
        unit: "ns",
      },
      atMost("map + unmap 64 MiB, both 2 MiB-aligned", mapAndUnmap(64 * MIB, FRAMES, 2000, true), "µs", 10),
      atMost("map + unmap 64 MiB in 4 KiB leaves", mapAndUnmap(64 * MIB, FRAMES + 4 * KIB, 20, true), "µs", 300),
      {
        what: "walk of 4 levels, random addresses",
        value: walk,
        unit: "million/s",
        goal: "≥ 10 million/s",
        met: walk >= 10,
      },
      {
        what: "nested walk: 4 levels, each under 4 of stage 2, no TLB",
        value: 1000 / nestedWalk(),
        unit: "million/s",
      },
      { what: "tables for 1 GiB in 4 KiB pages, per page", value: bytes, unit: "bytes", goal: "~8", met: bytes < 8.1 },
    ];
  },
};

export default benchmark;
