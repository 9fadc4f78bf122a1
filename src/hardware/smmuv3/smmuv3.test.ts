import { describe, expect, test } from "vitest";
import { PROT_CACHE, PROT_READ, PROT_WRITE } from "../../pagetable/index.ts";
import { ABORTED, IGNORED, STALLED, smmuFeatures, TRANSLATED } from "./index.ts";
import * as R from "./registers.ts";
import {
  cdWords,
  EVENTS,
  NOWHERE,
  newGather,
  RAM_BASE,
  STE_ABORT,
  STE_BYPASS,
  STE_NESTED,
  STE_STAGE1,
  STREAM_TABLE,
  steWords,
  Workbench,
} from "./workbench.test-support.ts";

const RW = PROT_READ | PROT_WRITE | PROT_CACHE;
const PAGE = 4096;
const DATA = RAM_BASE + 0x800_0000;
const IOVA = 0x12_3456_7000;

/** Stream 8 with stage 1: a page that may be written, one that may be read, a block of 2 MiB. */
function stage1(cd: Partial<Parameters<Workbench["stage1Stream"]>[1]> = {}, bench = new Workbench()) {
  const table = bench.stage1Table();
  table.map(IOVA, DATA, PAGE, RW);
  table.map(IOVA + PAGE, DATA + 2 * PAGE, PAGE, PROT_READ);
  table.map(2 ** 40, DATA, 2 ** 21, RW);
  bench.stage1Stream(8, { table, ...cd });
  return { bench: bench.enable(), table };
}

/** Stream 8 nested: stage 2 maps RAM to itself and the page IPA 2^34 to DATA; stage 1 maps IOVA to that page. */
function nested(options: { records?: boolean; protectedTableWalk?: boolean } = {}, bench = new Workbench()) {
  const stage2 = bench.stage2Table();
  stage2.map(RAM_BASE, RAM_BASE, 2 ** 26, RW);
  stage2.map(2 ** 34, DATA, PAGE, RW);
  const table = bench.stage1Table();
  table.map(IOVA, 2 ** 34, PAGE, RW);
  bench.nestedStream(8, { table }, { table: stage2, vmid: 3, ...options });
  return { bench: bench.enable(), table, stage2 };
}

describe("translation", () => {
  test("SMMUEN 0: GBPA lets everything through, or aborts it without an event", () => {
    const bench = new Workbench();
    expect(bench.translate(8, DATA + 4)).toBe(DATA + 4);
    bench.smmu.write32(R.GBPA, R.GBPA_UPDATE + R.GBPA_ABORT);
    expect(bench.translate(8, DATA)).toMatch(/aborted: CR0.SMMUEN is 0 and GBPA.ABORT is 1/);
    expect(bench.faults[0]).toMatchObject({ record: undefined, recorded: false });
  });

  test("STE bypass and abort; an abort is silent", () => {
    const bench = new Workbench().enable();
    bench.writeSte(1, steWords(STE_BYPASS));
    bench.writeSte(2, steWords(STE_ABORT));
    expect(bench.translate(1, DATA + 12)).toBe(DATA + 12);
    expect(bench.translate(2, DATA)).toMatch(/Config \(bits 3:1\) is abort/);
    expect(bench.takeEvents()).toEqual([]);
    expect(bench.translate(1, 2n ** 60n)).toMatch(/F_ADDR_SIZE: stage 1 is bypassed.*48 bits of IDR5.OAS/);
  });

  test("stage 1 maps pages and blocks, again and again", () => {
    const { bench } = stage1();
    for (let i = 0; i < 3; i++) {
      expect(bench.translate(8, IOVA + 0x123, true)).toBe(DATA + 0x123);
      expect(bench.translate(8, IOVA + PAGE + 8)).toBe(DATA + 2 * PAGE + 8);
      expect(bench.translate(8, 2 ** 40 + 0x12345)).toBe(DATA + 0x12345);
    }
    expect(bench.smmu.occupancy.stage1).toBe(3);
  });

  test("the result says how far the leaf reaches", () => {
    const { bench } = stage1();
    bench.translate(8, 2 ** 40 + 0x1000);
    expect(bench.smmu.reach).toBe(2 ** 21 - 0x1000);
    bench.translate(8, 2 ** 40 + 0x1000);
    expect(bench.smmu.reach).toBe(2 ** 21 - 0x1000);
  });

  test.each([4096, 16384, 65536] as const)("stage 1 with a granule of %i", (granule) => {
    const bench = new Workbench();
    const table = bench.stage1Table({ granule, inputBits: 42 });
    table.map(65536 * 5, DATA, 65536, RW);
    bench.stage1Stream(8, { table });
    bench.enable();
    expect(bench.translate(8, 65536 * 5 + 0xabc0, true)).toBe(DATA + 0xabc0);
  });

  test("top byte ignored: the address translates whatever is in it, also from the TLB", () => {
    const { bench } = stage1({ flip: 2n ** 38n });
    expect(bench.translate(8, BigInt(IOVA) + 0xab00_0000_0000_0000n)).toBe(DATA);
    expect(bench.translate(8, IOVA)).toBe(DATA);
    expect(bench.smmu.occupancy.stage1).toBe(1);
    const { bench: without } = stage1();
    expect(without.translate(8, BigInt(IOVA) + 0xab00_0000_0000_0000n)).toMatch(/F_TRANSLATION/);
  });

  test("stage 2 alone, with its tables side by side at the root", () => {
    const bench = new Workbench();
    const table = bench.stage2Table();
    table.map(2 ** 39 + PAGE, DATA, PAGE, RW);
    bench.stage2Stream(8, { table });
    bench.enable();
    expect(bench.translate(8, 2 ** 39 + PAGE + 4)).toBe(DATA + 4);
    expect(bench.translate(8, 2 ** 39 + PAGE + 4, true)).toBe(DATA + 4);
    expect(bench.translate(8, 2 ** 41)).toMatch(/stage 2 of 0x20000000000: .*40 bits of input \(S2T0SZ 24\)/);
  });

  test("nested: CD, tables and output go through stage 2; the TLB keeps the smaller size", () => {
    const { bench, table } = nested();
    table.map(2 ** 40, 2 ** 34 - (2 ** 34 % 2 ** 21), 2 ** 21, RW);
    expect(bench.translate(8, IOVA + 5)).toBe(DATA + 5);
    expect(bench.translate(8, 2 ** 40 + 7, true)).toBe(DATA + 7);
    expect(bench.smmu.reach).toBe(PAGE - 7);
    expect(bench.translate(8, 2 ** 40 + PAGE)).toMatch(
      /stage 2 of 0x400001000: level 3 entry at 0x[0-9a-f]+ = 0x0: invalid/,
    );
  });
});

describe("substreams", () => {
  function substreams(s1dss: number, format = 0) {
    const bench = new Workbench();
    const tables = [0, 1, 2].map((i) => {
      const table = bench.stage1Table();
      table.map(IOVA, DATA + i * PAGE, PAGE, RW);
      return table;
    });
    const contexts = bench.writeCds(...tables.map((table, i) => cdWords({ table, asid: i + 1 })));
    let pointer = contexts;
    if (format !== 0) {
      pointer = bench.memory.allocate() * PAGE;
      bench.write(pointer, BigInt(contexts) + 1n, 0n);
    }
    bench.writeSte(8, steWords(STE_STAGE1, { contexts: pointer, contextBits: 8, s1dss, format }));
    return { bench: bench.enable(), pointer };
  }

  test("each has its own tables, linear or in two levels", () => {
    for (const format of [0, 1, 2]) {
      const { bench } = substreams(2, format);
      expect(bench.translate(8, IOVA, false, 1)).toBe(DATA + PAGE);
      expect(bench.translate(8, IOVA, false, 2)).toBe(DATA + 2 * PAGE);
      expect(bench.translate(8, IOVA)).toBe(DATA);
      expect(bench.translate(8, IOVA, false, 3)).toMatch(
        /substream 0x3: C_BAD_CD: CD at 0x[0-9a-f]+: V \(bit 31\) is 0/,
      );
    }
  });

  test("S1DSS: terminate, bypass, substream 0", () => {
    expect(substreams(0).bench.translate(8, IOVA)).toMatch(/F_STREAM_DISABLED.*S1DSS/);
    expect(substreams(1).bench.translate(8, DATA)).toBe(DATA);
    expect(substreams(2).bench.translate(8, IOVA, false, 0)).toMatch(/F_STREAM_DISABLED.*SubstreamID 0/);
    expect(substreams(3).bench.translate(8, IOVA)).toMatch(/F_STREAM_DISABLED/);
    expect(substreams(1).bench.translate(8, IOVA, false, 0)).toBe(DATA);
  });

  test("a SubstreamID that cannot be is C_BAD_SUBSTREAMID, with the SSID in the record, which has no SSV then", () => {
    const { bench } = substreams(2);
    expect(bench.translate(8, IOVA, false, 256)).toMatch(/C_BAD_SUBSTREAMID.*256 CDs/);
    bench.writeSte(9, steWords(STE_BYPASS));
    expect(bench.translate(9, IOVA, false, 1)).toMatch(/has no stage 1/);
    expect(bench.takeEvents()).toEqual([
      [0x8_0010_0008n, 0n, 0n, 0n],
      [0x9_0000_1008n, 0n, 0n, 0n],
    ]);
  });

  test("a first-level CD descriptor that leads out of the world is one without V", () => {
    const { bench, pointer } = substreams(2, 1);
    bench.write(pointer, 2n ** 50n + 1n);
    expect(bench.translate(8, IOVA, false, 1)).toMatch(/C_BAD_SUBSTREAMID: level 1.*L2Ptr is beyond the 48 bits/);
    expect(bench.translate(8, IOVA)).toMatch(/C_BAD_SUBSTREAMID/);
    expect(bench.takeEvents().map(([word0]) => word0)).toEqual([0x8_0000_1008n, 0x8_0000_0008n]);
  });

  test("a first-level CD descriptor without V leads nowhere", () => {
    const { bench, pointer } = substreams(2, 1);
    expect(bench.translate(8, IOVA, false, 64)).toMatch(
      new RegExp(`level 1 CD descriptor at 0x${(pointer + 8).toString(16)}: V`),
    );
  });
});

describe("faults", () => {
  test("say in words which entry and which bit, and in the record what the architecture says", () => {
    const { bench, table } = stage1();
    const [leaf] = [...table.leaves()].filter(({ iova }) => iova === IOVA + PAGE);
    expect(leaf).toBeDefined();
    expect(bench.translate(8, IOVA + PAGE + 4, true)).toMatch(
      /^write to 0x1234568004 by stream 0x8: F_PERMISSION: level 3 entry at 0x[0-9a-f]+ = 0x[0-9a-f]+: AP\[2\] \(bit 7\) makes it read-only$/,
    );
    expect(bench.translate(8, 0x5000)).toMatch(
      /F_TRANSLATION: level \d entry at 0x[0-9a-f]+ = 0x0: invalid \(bit 0 is 0\)/,
    );
    expect(bench.takeEvents()).toEqual([
      [0x8_0000_0013n, 0x200_0000_0000n, 0x12_3456_8004n, 0n],
      [0x8_0000_0010n, 0x208_0000_0000n, 0x5000n, 0n],
    ]);
    expect(bench.faults.map(({ recorded }) => recorded)).toEqual([true, true]);
  });

  test("stage 2 faults carry S2, CLASS and the IPA: of the CD, of a table, of the output", () => {
    const { bench, table, stage2 } = nested();
    const gather = newGather();
    table.map(IOVA + PAGE, 2 ** 35, PAGE, RW);
    bench.translate(8, IOVA + PAGE, true);
    const invalidate: [bigint, bigint] = [0x30n, 0n];
    bench.commands(invalidate);
    stage2.unmap(table.root - (table.root % 2 ** 21), 2 ** 21, gather);
    bench.translate(8, IOVA);
    bench.commands(invalidate, [4n, 31n]);
    stage2.unmap(RAM_BASE, 2 ** 21, gather);
    bench.translate(8, IOVA);
    const [input, tableWalk, contextFetch] = bench.takeEvents();
    expect(input).toEqual([0x8_0000_0010n, 0x280_0000_0000n, BigInt(IOVA + PAGE), 2n ** 35n]);
    expect(tableWalk[1]).toBe(0x188_0000_0000n);
    expect(contextFetch.slice(1)).toEqual([0x88_0000_0000n, BigInt(IOVA), BigInt(RAM_BASE + 0x30000)]);
    expect(bench.faults[2].text()).toMatch(/stage 2 of the CD's address/);
  });

  test("S2PTW: stage 1 tables in Device memory are a permission fault", () => {
    const bench = new Workbench();
    const stage2 = bench.stage2Table();
    stage2.map(RAM_BASE, RAM_BASE, 2 ** 20, RW);
    const table = bench.stage1Table();
    stage2.map(RAM_BASE + 2 ** 20, RAM_BASE + 2 ** 20, 2 ** 24, PROT_READ | PROT_WRITE | 16);
    bench.nestedStream(8, { table }, { table: stage2, protectedTableWalk: true });
    bench.enable();
    expect(bench.translate(8, IOVA)).toMatch(
      /F_PERMISSION: stage 2 of the stage 1 entry's address .*Device memory, and S2PTW is 1/,
    );
  });

  test.each([
    ["read", 0, 0x1188_0000_0000n],
    ["written: the access flag", 2n ** 43n, 0x188_0000_0000n],
  ])("a stage 1 table that stage 2 does not let be %s", (how, flip, word1) => {
    const bench = new Workbench({ features: { dirtyTracking: true } });
    const stage2 = bench.stage2Table();
    stage2.map(RAM_BASE, RAM_BASE, 2 ** 20, RW);
    const table = bench.stage1Table();
    const tables = RAM_BASE + 2 ** 20;
    stage2.map(tables, tables, 2 ** 24, how === "read" ? PROT_WRITE : PROT_READ);
    table.map(IOVA, DATA, PAGE, RW);
    for (const { address } of leaves(bench, table.root)) {
      bench.memory.writeWord(address, bench.memory.readWord(address) & ~(1 << 10));
    }
    bench.nestedStream(8, { table, flip: BigInt(flip) }, { table: stage2 });
    bench.enable();
    expect(bench.translate(8, IOVA)).toMatch(
      new RegExp(`F_PERMISSION: stage 2 of the stage 1 entry.*no ${how === "read" ? "reads" : "writes"}`),
    );
    expect(bench.takeEvents()[0][1]).toBe(word1);
  });

  /** Leaves of a table with 4 KiB pages, by hand. */
  function* leaves(bench: Workbench, root: number, level = 0): Iterable<{ address: number }> {
    for (let address = root; address < root + PAGE; address += 8) {
      const entry = bench.read(address);
      if (entry % 2n === 0n) continue;
      if (level === 3) yield { address };
      else yield* leaves(bench, Number((entry / 4096n) % 2n ** 36n) * PAGE, level + 1);
    }
  }

  test("R and S2R hide translation faults, and nothing else", () => {
    const { bench } = stage1({ records: false });
    expect(bench.translate(8, 0x5000)).toMatch(/F_TRANSLATION/);
    expect(bench.faults[0].recorded).toBe(false);
    const { bench: under } = nested({ records: false });
    under.translate(8, IOVA + PAGE);
    expect(under.takeEvents()).toHaveLength(1);
    const hidden = new Workbench();
    hidden.stage2Stream(8, { table: hidden.stage2Table(), records: false });
    hidden.enable().translate(8, IOVA);
    expect(hidden.takeEvents()).toEqual([]);
  });

  test("A 0: the device sees success, reads zero, and its writes go nowhere", () => {
    const { bench } = stage1({ aborts: false });
    const bytes = new Uint8Array([1, 2, 3, 4]);
    expect(bench.smmu.translate(8, -1, 0, 0x5000, false)).toBe(IGNORED);
    expect(bench.access(8, 0x5000, bytes, false)).toBe(true);
    expect([...bytes]).toEqual([0, 0, 0, 0]);
    expect(bench.access(8, 0x5000, new Uint8Array([9]), true)).toBe(true);
    expect(bench.takeEvents()).toHaveLength(3);
  });

  test("fetches from where nobody is: F_STE_FETCH, F_CD_FETCH, F_WALK_EABT with the address", () => {
    const { bench, table } = stage1();
    bench.writeSte(9, steWords(STE_STAGE1, { contexts: NOWHERE }));
    bench.translate(9, IOVA);
    bench.write(table.root, BigInt(NOWHERE) + 3n);
    bench.translate(8, 0x7000);
    const lost = new Workbench();
    lost.writeRegister64(R.STRTAB_BASE, NOWHERE);
    lost.enable().translate(3, IOVA);
    expect([...bench.takeEvents(), ...lost.takeEvents()]).toEqual([
      [0x9_0000_0009n, 0n, 0n, BigInt(NOWHERE)],
      [0x8_0000_000bn, 0x108_0000_0000n, 0x7000n, BigInt(NOWHERE)],
      [0x3_0000_0003n, 0n, 0n, BigInt(NOWHERE + 3 * 64)],
    ]);
  });

  test("C_BAD_STREAMID is recorded only with RECINVSID", () => {
    const bench = new Workbench().enable();
    expect(bench.translate(256, IOVA)).toMatch(/C_BAD_STREAMID: the stream table has 256 entries/);
    expect(bench.takeEvents()).toEqual([[0x100_0000_0002n, 0n, 0n, 0n]]);
    const quiet = new Workbench();
    quiet.smmu.write32(R.CR2, 0);
    quiet.enable().translate(256, IOVA);
    expect(quiet.takeEvents()).toEqual([]);
  });

  test("C_BAD_STE names the entry and the bit", () => {
    const bench = new Workbench().enable();
    const address = (STREAM_TABLE + 0x18 * 64).toString(16);
    expect(bench.translate(0x18, IOVA)).toBe(
      `read from 0x1234567000 by stream 0x18: C_BAD_STE: STE at 0x${address}: V (bit 0) is 0`,
    );
  });
});

describe("two-level stream tables", () => {
  function twoLevel(split: number, span: number, streamId: number) {
    const bench = new Workbench();
    const level2 = bench.memory.allocate(16, 16) * PAGE;
    bench.smmu.write32(R.STRTAB_BASE_CFG, (1 << 16) | (split << 6) | 16);
    bench.write(STREAM_TABLE + Math.floor(streamId / 2 ** split) * 8, BigInt(level2 + span));
    bench.write(level2 + (streamId % 2 ** split) * 64, ...steWords(STE_BYPASS));
    return bench.enable();
  }

  test.each([6, 8, 10])("SPLIT %i", (split) => {
    expect(twoLevel(split, split + 1, 0x3a2d).translate(0x3a2d, DATA)).toBe(DATA);
  });

  test("Span says how many STEs there are; 0 and reserved values mean none", () => {
    expect(twoLevel(8, 4, 0x107).translate(0x107, DATA)).toBe(DATA);
    expect(twoLevel(8, 3, 0x107).translate(0x107, DATA)).toMatch(
      /C_BAD_STREAMID: level 1 descriptor .* Span gives 4 STEs, wanted is 7/,
    );
    expect(twoLevel(8, 0, 0x107).translate(0x107, DATA)).toMatch(/C_BAD_STREAMID/);
    expect(twoLevel(8, 11, 0x107).translate(0x107, DATA)).toMatch(/C_BAD_STREAMID/);
  });
});

describe("DMA", () => {
  test("crosses pages that lie apart, both ways", () => {
    const { bench } = stage1();
    const bytes = Uint8Array.from({ length: 100 }, (_, i) => i + 1);
    bench.memory.write(DATA + PAGE - 50, bytes.subarray(0, 50));
    bench.memory.write(DATA + 2 * PAGE, bytes.subarray(50));
    const read = new Uint8Array(100);
    expect(bench.access(8, IOVA + PAGE - 50, read, false)).toBe(true);
    expect(read).toEqual(bytes);
    expect(bench.access(8, IOVA + PAGE - 4, new Uint8Array(8), true)).toBe(false);
    const written = new Uint8Array(4);
    bench.memory.read(DATA + PAGE - 4, written);
    expect([...written]).toEqual([0, 0, 0, 0]);
  });

  test("is aborted, without an event, where nothing answers at the physical address", () => {
    const { bench, table } = stage1();
    table.map(0x10000, NOWHERE, PAGE, RW);
    expect(bench.access(8, 0x10000, new Uint8Array(4), false)).toBe(false);
    expect(bench.takeEvents()).toEqual([]);
  });

  test("stream ids begin where the machine says; PASIDs are substreams", () => {
    const bench = new Workbench({ smmu: { streamIdBase: 0x40 } });
    bench.writeSte(0x48, steWords(STE_BYPASS));
    bench.enable();
    expect(bench.access(8, DATA, new Uint8Array(4), false)).toBe(true);
    expect(bench.access(8, DATA, new Uint8Array(4), false, 5)).toBe(false);
    expect(bench.takeEvents()).toEqual([[0x48_0000_5008n, 0n, 0n, 0n]]);
  });
});

describe("the event queue", () => {
  test("full: the record is lost and OVFLG tells, once until acknowledged", () => {
    const { bench } = stage1({}, new Workbench({ queueLog2: 2 }));
    for (let i = 0; i < 6; i++) bench.translate(8, 0x5000);
    expect(bench.faults.map(({ recorded }) => recorded)).toEqual([true, true, true, true, false, false]);
    expect(bench.smmu.read32(R.PAGE1 + R.EVENTQ_PROD)).toBe(0x80000004);
    expect(bench.smmu.read32(R.GERROR)).toBe(0);
    bench.smmu.write32(R.PAGE1 + R.EVENTQ_CONS, 0x80000004);
    bench.translate(8, 0x5000);
    expect(bench.smmu.read32(R.PAGE1 + R.EVENTQ_PROD)).toBe(0x80000005);
  });

  test("where nobody is: GERROR.EVENTQ_ABT_ERR, and nothing more is tried until it is acknowledged", () => {
    const { bench } = stage1();
    bench.smmu.write32(R.CR0, 0);
    bench.writeRegister64(R.EVENTQ_BASE, NOWHERE + 4);
    bench.smmu.write32(R.CR0, 0xd);
    bench.translate(8, 0x5000);
    bench.translate(8, 0x5000);
    expect(bench.smmu.read32(R.GERROR)).toBe(R.EVENTQ_ABT_ERR);
    expect(bench.smmu.read32(R.PAGE1 + R.EVENTQ_PROD)).toBe(0);
    bench.smmu.write32(R.GERRORN, R.EVENTQ_ABT_ERR);
    bench.translate(8, 0x5000);
    expect(bench.smmu.read32(R.GERROR)).toBe(0);
  });

  test("off: nothing is recorded", () => {
    const { bench } = stage1();
    bench.smmu.write32(R.CR0, 9);
    bench.translate(8, 0x5000);
    expect(bench.faults[0].recorded).toBe(false);
    expect(bench.smmu.read32(R.PAGE1 + R.EVENTQ_PROD)).toBe(0);
  });
});

describe("interrupts", () => {
  test("the event line pulses when the queue becomes non-empty, if IRQ_CTRL lets it", () => {
    const { bench } = stage1();
    bench.translate(8, 0x5000);
    expect(bench.interrupts).toEqual([]);
    bench.takeEvents();
    bench.smmu.write32(R.IRQ_CTRL, R.IRQ_EVENTQ);
    bench.translate(8, 0x5000);
    bench.translate(8, 0x5000);
    expect(bench.interrupts).toEqual(["event"]);
  });

  test("with an address configured they are messages to memory; one that is aborted is a global error", () => {
    const { bench } = stage1();
    bench.writeRegister64(R.EVENTQ_IRQ_CFG0, DATA + 0x100);
    bench.smmu.write32(R.EVENTQ_IRQ_CFG1, 0x1234);
    bench.smmu.write32(R.IRQ_CTRL, R.IRQ_EVENTQ | R.IRQ_GERROR);
    bench.translate(8, 0x5000);
    expect(bench.memory.readWord(DATA + 0x100)).toBe(0x1234);
    expect(bench.interrupts).toEqual(["event"]);
    bench.takeEvents();
    bench.smmu.write32(R.IRQ_CTRL, 0);
    bench.writeRegister64(R.EVENTQ_IRQ_CFG0, NOWHERE);
    bench.smmu.write32(R.IRQ_CTRL, R.IRQ_EVENTQ | R.IRQ_GERROR);
    bench.translate(8, 0x5000);
    expect(bench.smmu.read32(R.GERROR)).toBe(R.MSI_EVENTQ_ABT_ERR);
    expect(bench.interrupts).toEqual(["event", "event", "gerror"]);
  });

  test("that a message of a global error was aborted is told by no other message", () => {
    const { bench } = stage1();
    bench.writeRegister64(R.GERROR_IRQ_CFG0, NOWHERE);
    bench.smmu.write32(R.IRQ_CTRL, R.IRQ_GERROR);
    bench.commands([0xffn, 0n]);
    expect(bench.smmu.read32(R.GERROR)).toBe(R.CMDQ_ERR | R.MSI_GERROR_ABT_ERR);
    expect(bench.interrupts).toEqual(["gerror"]);
  });

  test("an overflow is no reason for one: the queue was told of when it became non-empty", () => {
    const { bench } = stage1({}, new Workbench({ queueLog2: 0 }));
    bench.smmu.write32(R.IRQ_CTRL, R.IRQ_EVENTQ);
    for (let i = 0; i < 3; i++) bench.translate(8, 0x5000);
    expect(bench.smmu.read32(R.PAGE1 + R.EVENTQ_PROD)).toBe(0x80000001);
    expect(bench.interrupts).toEqual(["event"]);
  });
});

describe("stalls", () => {
  function stalled(bench = stage1({ stalls: true }).bench) {
    const bytes = new Uint8Array(4);
    const handle = bench.system.tasks.spawn("dma", bench.smmu.access(8, undefined, 0x5000n, bytes, false));
    bench.system.tasks.drain();
    return { bench, handle, bytes };
  }
  const resume = (response: bigint, tag: bigint): [bigint, bigint] => [
    0x44n + response * 2n ** 12n + 8n * 2n ** 32n,
    tag,
  ];

  test("the access waits, its event has STALL and a tag; a retry sees what was mapped meanwhile", () => {
    const { bench, table } = stage1({ stalls: true });
    const { handle, bytes } = stalled(bench);
    expect(handle.outcome).toBeUndefined();
    expect(bench.takeEvents()).toEqual([[0x8_0000_0010n, 0x208_8000_0000n, 0x5000n, 0n]]);
    table.map(0x5000, DATA, PAGE, RW);
    bench.memory.writeWord(DATA, 0x04030201);
    bench.commands(resume(1n, 0n));
    bench.system.tasks.drain();
    expect(handle.outcome).toEqual({ ok: true, value: true });
    expect([...bytes]).toEqual([1, 2, 3, 4]);
    expect(bench.smmu.occupancy.stalled).toBe(0);
  });

  test("CMD_RESUME with another tag or stream does nothing; abort and CMD_STALL_TERM end it", () => {
    const { bench, handle } = stalled();
    bench.commands(resume(2n, 7n));
    bench.system.tasks.drain();
    expect(handle.outcome).toBeUndefined();
    bench.commands(resume(2n, 0n));
    bench.system.tasks.drain();
    expect(handle.outcome).toEqual({ ok: true, value: false });
    const second = stalled(bench);
    bench.commands([0x45n + 8n * 2n ** 32n, 0n]);
    bench.system.tasks.drain();
    expect(second.handle.outcome).toEqual({ ok: true, value: false });
    expect(bench.takeEvents().map(([, word1]) => word1 % 2n ** 16n)).toEqual([0n, 1n]);
  });

  const ABORT = 2n;
  const RETRY = 1n;
  test.each([
    [0n, true, "ignored"],
    [0n, false, "ignored"],
    [ABORT, true, "aborted"],
    [ABORT, false, "aborted"],
    [RETRY, true, "stalled again"],
    [RETRY + ABORT, true, "stalled again"],
  ])("CMD_RESUME with Ac and Ab %i, CD.A %s: %s", (response, aborts, result) => {
    const { bench, handle, bytes } = stalled(stage1({ stalls: true, aborts }).bench);
    bytes.fill(7);
    bench.commands(resume(response, 0n));
    bench.system.tasks.drain();
    const { outcome } = handle;
    const ignored = outcome?.ok === true && outcome.value === true && bytes[0] === 0;
    expect(outcome === undefined ? "stalled again" : ignored ? "ignored" : "aborted").toBe(result);
    expect(bench.takeEvents()).toHaveLength(outcome === undefined ? 2 : 1);
  });

  test("CMD_RESUME can only abort where terminations are always aborts", () => {
    const { bench } = stage1({ stalls: true }, new Workbench({ smmu: { idr0: smmuFeatures().idr0 + 2 ** 26 } }));
    const { handle } = stalled(bench);
    bench.commands(resume(0n, 0n));
    bench.system.tasks.drain();
    expect(handle.outcome).toEqual({ ok: true, value: false });
  });

  test("what could not be told before an invalidation is not told after its CMD_SYNC: the access is tried again", () => {
    const { bench, table } = stage1({ stalls: true }, new Workbench({ queueLog2: 0 }));
    stalled(bench);
    const second = stalled(bench);
    table.map(0x5000, DATA, PAGE, RW);
    bench.commands([0x46n, 0n]);
    bench.system.tasks.drain();
    expect(second.handle.outcome, "nothing was invalidated").toBeUndefined();
    bench.commands([0x30n, 0n]);
    bench.commands([0x46n, 0n]);
    bench.system.tasks.drain();
    expect(second.handle.outcome).toEqual({ ok: true, value: true });
    bench.smmu.write32(R.PAGE1 + R.EVENTQ_CONS, 1);
    expect(bench.smmu.read32(R.PAGE1 + R.EVENTQ_PROD)).toBe(1);
    expect(bench.smmu.occupancy.stalled).toBe(1);
  });

  test("its event is late rather than lost when the queue is full", () => {
    const { bench } = stage1({ stalls: true }, new Workbench({ queueLog2: 0 }));
    stalled(bench);
    const second = stalled(bench);
    expect(bench.smmu.read32(R.PAGE1 + R.EVENTQ_PROD)).toBe(1);
    bench.smmu.write32(R.PAGE1 + R.EVENTQ_CONS, 1);
    expect(bench.smmu.read32(R.PAGE1 + R.EVENTQ_PROD)).toBe(0);
    expect(bench.read(EVENTS + 8) % 2n ** 16n).toBe(1n);
    expect(second.handle.outcome).toBeUndefined();
  });

  test("disabling the SMMU aborts what is stalled", () => {
    const { bench, handle } = stalled();
    bench.smmu.write32(R.CR0, 0xc);
    bench.system.tasks.drain();
    expect(handle.outcome).toEqual({ ok: true, value: false });
  });

  test("without a free tag the access waits for one, and is told nothing of", () => {
    const { bench } = stage1({ stalls: true }, new Workbench({ smmu: { idr5: 0x1_0075 } }));
    const first = stalled(bench);
    const second = stalled(bench);
    expect(bench.takeEvents()).toHaveLength(1);
    bench.commands(resume(2n, 0n));
    bench.system.tasks.drain();
    expect(first.handle.outcome).toEqual({ ok: true, value: false });
    expect(second.handle.outcome).toBeUndefined();
    expect(bench.takeEvents()).toHaveLength(1);
  });

  test("translate() says STALLED, and ABORTED or TRANSLATED otherwise", () => {
    const { bench } = stage1({ stalls: true });
    expect(bench.smmu.translate(8, -1, 0, 0x5000, false)).toBe(STALLED);
    expect(bench.smmu.stallTag).toBe(0);
    expect(bench.smmu.translate(7, -1, 0, 0x5000, false)).toBe(ABORTED);
    expect(bench.smmu.translate(8, -1, IOVA / 2 ** 32, IOVA % 2 ** 32, false)).toBe(TRANSLATED);
  });
});

test("what happens is told to the event stream", () => {
  const bench = new Workbench();
  const kinds: string[] = [];
  bench.system.events.listen(({ kind }) => kinds.push(kind));
  bench.writeSte(8, steWords(STE_BYPASS));
  bench.enable();
  bench.commands([0x46n, 0n]);
  bench.access(8, DATA, new Uint8Array(4), true);
  bench.translate(9, DATA);
  expect(kinds).toEqual([
    "smmuv3.register.write",
    "smmuv3.command.consume",
    "smmuv3.register.write",
    "smmuv3.access.transfer",
    "smmuv3.translation.fault",
  ]);
});

test("a nested stream whose STE has no stage 2 any more is seen only after its invalidation", () => {
  const { bench } = nested();
  bench.translate(8, IOVA);
  bench.writeSte(
    8,
    steWords(STE_NESTED).map(() => 0n),
  );
  expect(bench.translate(8, IOVA)).toBe(DATA);
  bench.commands([3n + 8n * 2n ** 32n, 1n]);
  expect(bench.translate(8, IOVA)).toMatch(/C_BAD_STE/);
});
