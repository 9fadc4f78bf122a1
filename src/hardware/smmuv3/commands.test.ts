import { describe, expect, test } from "vitest";
import { type PageTable, PROT_CACHE, PROT_READ, PROT_WRITE } from "../../pagetable/index.ts";
import * as R from "./registers.ts";
import {
  COMMANDS,
  cdWords,
  NOWHERE,
  newGather,
  RAM_BASE,
  STE_BYPASS,
  STE_STAGE1,
  steWords,
  Workbench,
} from "./workbench.test-support.ts";

type Command = readonly [bigint, bigint];

const RW = PROT_READ | PROT_WRITE | PROT_CACHE;
const PAGE = 4096;
const OLD = RAM_BASE + 0x800_0000;
const NEW = OLD + 0x10_0000;
const IOVA = 0x12_3456_7000;
const SYNC: Command = [0x46n, 0n];

function u64(value: number | bigint, low: number): bigint {
  return BigInt(value) * 2n ** BigInt(low);
}

const sid = (streamId: number): bigint => u64(streamId, 32);
const tags = (vmid: number, asid = 0): bigint => u64(vmid, 32) + u64(asid, 48);

function remap(table: PageTable, iova: number, physical: number): void {
  table.unmap(iova, PAGE, newGather());
  table.map(iova, physical, PAGE, RW);
}

describe("TLB invalidation", () => {
  /** Stream 8: stage 1 alone, ASID 5, VMID 0. Stream 9: nested, ASID 5, VMID 7. Stream 10: stage 2 alone, VMID 7. */
  function streams() {
    const bench = new Workbench();
    const stage2 = bench.stage2Table();
    stage2.map(RAM_BASE, RAM_BASE, 2 ** 28, RW);
    stage2.map(IOVA, OLD, PAGE, RW);
    const plain = bench.stage1Table();
    plain.map(IOVA, OLD, PAGE, RW);
    const nested = bench.stage1Table();
    nested.map(IOVA, OLD, PAGE, RW);
    bench.stage1Stream(8, { table: plain, asid: 5 });
    bench.nestedStream(9, { table: nested, asid: 5 }, { table: stage2, vmid: 7 });
    bench.stage2Stream(10, { table: stage2, vmid: 7 });
    bench.enable();
    for (const streamId of [8, 9, 10]) expect(bench.translate(streamId, IOVA)).toBe(OLD);
    for (const table of [plain, nested, stage2]) remap(table, IOVA, NEW);
    for (const streamId of [8, 9, 10]) expect(bench.translate(streamId, IOVA), "cached").toBe(OLD);
    return bench;
  }

  const page = BigInt(IOVA);
  test.each<[string, Command, number[]]>([
    ["NH_ALL, VMID 0", [0x10n, 0n], [8]],
    ["NH_ALL, VMID 7", [0x10n + tags(7), 0n], [9]],
    ["NH_ASID", [0x11n + tags(0, 5), 0n], [8]],
    ["NH_ASID, another ASID", [0x11n + tags(0, 4), 0n], []],
    ["NH_VA", [0x12n + tags(7, 5), page], [9]],
    ["NH_VA, leaf", [0x12n + tags(0, 5), page + 1n], [8]],
    ["NH_VA, another page", [0x12n + tags(0, 5), page + 4096n], []],
    ["NH_VA, another ASID", [0x12n + tags(0, 6), page], []],
    ["NH_VAA", [0x13n + tags(7), page], [9]],
    ["NH_VA, one page and its level", [0x12n + tags(0, 5), page + u64(1, 10) + u64(3, 8)], [8]],
    ["NH_VA, the largest range", [0x12n + tags(0, 5) + u64(31, 12) + u64(39, 20), u64(1, 10)], [8]],
    ["NH_VAA, global and other ASIDs", [0x13n + tags(0), page], [8]],
    ["NH_VA, a range that holds it", [0x12n + tags(0, 5) + u64(7, 12), page - 7n * 4096n + u64(1, 10)], [8]],
    ["NH_VA, a range that ends before", [0x12n + tags(0, 5) + u64(6, 12), page - 7n * 4096n + u64(1, 10)], []],
    ["NH_VA, a scaled range", [0x12n + tags(0, 5) + u64(2, 12) + u64(6, 20), page - 191n * 4096n + u64(1, 10)], [8]],
    ["EL2_ALL", [0x20n, 0n], []],
    ["S12_VMALL", [0x28n + tags(7), 0n], [9, 10]],
    ["S2_IPA", [0x2an + tags(7), page], [10]],
    ["S2_IPA, another VMID", [0x2an + tags(6), page], []],
    ["NSNH_ALL", [0x30n, 0n], [8, 9, 10]],
  ])("%s", (_, command, renewed) => {
    const bench = streams();
    bench.commands(command, SYNC);
    const seen = [8, 9, 10].filter((streamId) => bench.translate(streamId, IOVA) === NEW);
    expect(seen).toEqual(renewed);
    expect(bench.smmu.read32(R.GERROR)).toBe(0);
  });

  test("an address anywhere in a block invalidates it, also where stage 2 cut it into pages", () => {
    const bench = new Workbench();
    const stage2 = bench.stage2Table();
    for (let at = RAM_BASE; at < RAM_BASE + 2 ** 28; at += PAGE) stage2.map(at, at, PAGE, RW);
    const table = bench.stage1Table();
    const block = RAM_BASE + 2 ** 27;
    table.map(2 ** 40, block, 2 ** 21, RW);
    bench.nestedStream(9, { table, asid: 5 }, { table: stage2, vmid: 7 });
    bench.enable();
    expect(bench.translate(9, 2 ** 40 + 9 * PAGE)).toBe(block + 9 * PAGE);
    table.unmap(2 ** 40, 2 ** 21, newGather());
    bench.commands([0x12n + tags(7, 5), 2n ** 40n + 77n * 4096n], SYNC);
    expect(bench.translate(9, 2 ** 40 + 9 * PAGE)).toMatch(/F_TRANSLATION/);
  });

  test("global entries serve every ASID; by address they go, by ASID they stay", () => {
    const bench = new Workbench();
    const tables = [1, 2].map((asid) => {
      const table = bench.stage1Table();
      table.map(IOVA, asid === 1 ? OLD : NEW, PAGE, RW);
      bench.stage1Stream(8 + asid, { table, asid });
      return table;
    });
    const leaf = [...tables[0].leaves()][0];
    expect(leaf.iova).toBe(IOVA);
    // Clears nG of the first table's leaf.
    const address = leafAddress(bench, tables[0], IOVA);
    bench.memory.writeWord(address, bench.memory.readWord(address) & ~(1 << 11));
    bench.enable();
    expect(bench.translate(9, IOVA)).toBe(OLD);
    expect(bench.translate(10, IOVA)).toBe(OLD);
    bench.commands([0x11n + tags(0, 2), 0n], [0x11n + tags(0, 1), 0n], SYNC);
    expect(bench.translate(10, IOVA)).toBe(OLD);
    bench.commands([0x12n + tags(0, 2), page], SYNC);
    expect(bench.translate(10, IOVA)).toBe(NEW);
  });

  test("a global entry of a shared ASID does not serve private ones, and the other way round", () => {
    const bench = new Workbench();
    [OLD, NEW].forEach((physical, index) => {
      const table = bench.stage1Table();
      table.map(IOVA, physical, PAGE, RW);
      const address = leafAddress(bench, table, IOVA);
      bench.memory.writeWord(address, bench.memory.readWord(address) & ~(1 << 11));
      bench.stage1Stream(9 + index, { table, asid: 1 + index, flip: BigInt(index) * 2n ** 47n });
    });
    bench.enable();
    for (let round = 0; round < 2; round++) {
      expect([9, 10].map((streamId) => bench.translate(streamId, IOVA))).toEqual([OLD, NEW]);
    }
    expect(bench.smmu.occupancy.stage1).toBe(2);
    bench.commands([0x12n + tags(0, 7), page], SYNC);
    expect(bench.smmu.occupancy.stage1).toBe(0);
  });

  /** The address of the level 3 entry, by hand. */
  function leafAddress(bench: Workbench, table: PageTable, iova: number): number {
    let at = table.root;
    for (const shift of [39, 30, 21]) {
      const entry = bench.read(at + (Math.floor(iova / 2 ** shift) % 512) * 8);
      at = Number((entry / 4096n) % 2n ** 36n) * PAGE;
    }
    return at + (Math.floor(iova / PAGE) % 512) * 8;
  }

  test("EL2 translations have no VMID, and no ASID without E2H", () => {
    const bench = new Workbench();
    const table = bench.stage1Table();
    table.map(IOVA, OLD, PAGE, RW);
    bench.writeSte(
      8,
      steWords(STE_STAGE1, { contexts: bench.writeCds(cdWords({ table, asid: 5 })), word1: 2n ** 31n }),
    );
    bench.enable();
    bench.translate(8, IOVA);
    remap(table, IOVA, NEW);
    bench.commands([0x30n, 0n], [0x10n, 0n], SYNC);
    expect(bench.translate(8, IOVA)).toBe(OLD);
    bench.commands([0x22n + tags(3, 9), page], SYNC);
    expect(bench.translate(8, IOVA)).toBe(NEW);
  });
});

describe("configuration invalidation", () => {
  function bypassed(...streamIds: number[]) {
    const bench = new Workbench().enable();
    for (const streamId of streamIds) {
      expect(bench.translate(streamId, OLD)).toMatch(/C_BAD_STE/);
      bench.writeSte(streamId, steWords(STE_BYPASS));
      expect(bench.translate(streamId, OLD), "an invalid STE is cached too").toMatch(/C_BAD_STE/);
    }
    return bench;
  }

  test.each<[string, Command, number[]]>([
    ["CFGI_STE", [3n + sid(9), 1n], [9]],
    ["CFGI_STE_RANGE of 4", [4n + sid(9), 1n], [8, 9]],
    ["CFGI_STE_RANGE of 64", [4n + sid(9), 5n], [8, 9, 40]],
    ["CFGI_ALL", [4n, 31n], [8, 9, 40, 200]],
    ["CFGI_CD_ALL", [6n + sid(9), 0n], []],
  ])("%s", (_, command, renewed) => {
    const bench = bypassed(8, 9, 40, 200);
    bench.commands(command, SYNC);
    expect([8, 9, 40, 200].filter((streamId) => bench.translate(streamId, OLD) === OLD)).toEqual(renewed);
  });

  /** Stream 8 with two substreams whose CDs are then made invalid; which of the three ways in notice? */
  function contexts(command: Command) {
    const bench = new Workbench();
    const table = bench.stage1Table();
    table.map(IOVA, OLD, PAGE, RW);
    const address = bench.writeCds(cdWords({ table }), cdWords({ table, asid: 2 }));
    bench.writeSte(8, steWords(STE_STAGE1, { contexts: address, contextBits: 4, s1dss: 2 }));
    bench.enable();
    const ways = [-1, 1];
    for (const way of ways) expect(bench.translate(8, IOVA, false, way)).toBe(OLD);
    bench.write(address, 0n);
    bench.write(address + 64, 0n);
    for (const way of ways) expect(bench.translate(8, IOVA, false, way), "cached").toBe(OLD);
    bench.commands(command, SYNC);
    return ways.filter((way) => bench.translate(8, IOVA, false, way) !== OLD);
  }

  test("CFGI_CD renews one substream; substream 0 is also the one of transactions without", () => {
    expect(contexts([5n + sid(8), 1n])).toEqual([-1]);
    expect(contexts([5n + sid(8) + u64(1, 12), 1n])).toEqual([1]);
    expect(contexts([5n + sid(7) + u64(1, 12), 1n])).toEqual([]);
  });

  test("CFGI_CD_ALL and CFGI_STE renew all of a stream", () => {
    expect(contexts([6n + sid(8), 0n])).toEqual([-1, 1]);
    expect(contexts([3n + sid(8), 1n])).toEqual([-1, 1]);
  });

  test("a CD that became invalid faults although its translation is still in the TLB", () => {
    expect(contexts([6n + sid(8), 0n])).toHaveLength(2);
  });

  test("a new second level of a stream table is seen after CFGI_STE that is not leaf-only", () => {
    const bench = new Workbench();
    const [first, second] = [0, 1].map(() => bench.memory.allocate(4, 4) * PAGE);
    bench.smmu.write32(R.STRTAB_BASE_CFG, (1 << 16) | (8 << 6) | 10);
    bench.write(RAM_BASE, BigInt(first) + 9n);
    bench.write(second + 8 * 64, ...steWords(STE_BYPASS));
    bench.enable();
    expect(bench.translate(8, OLD)).toMatch(/C_BAD_STE/);
    bench.write(RAM_BASE, BigInt(second) + 9n);
    bench.commands([3n + sid(8), 1n], SYNC);
    expect(bench.translate(8, OLD)).toMatch(/C_BAD_STE/);
    bench.commands([3n + sid(8), 0n], SYNC);
    expect(bench.translate(8, OLD)).toBe(OLD);
  });
});

describe("the queue", () => {
  test.each<[string, Command, object]>([
    ["an unknown opcode", [0xffn, 0n], {}],
    ["opcode 0", [0n, 0n], {}],
    ["SSec", [3n + u64(1, 10), 0n], {}],
    ["a SYNC with a reserved signal", [0x46n + u64(3, 12), 0n], {}],
    ["ATC_INV without ATS", [0x40n, 0n], {}],
    ["PRI_RESP without PRI", [0x41n, 0n], {}],
    ["VMS_PIDM without MPAM", [7n, 0n], {}],
    ["RESUME without stalls", [0x44n, 0n], { stalls: "terminate" }],
    ["STALL_TERM without stalls", [0x45n, 0n], { stalls: "terminate" }],
    ["EL2 invalidation without EL2", [0x20n, 0n], { hypervisor: false }],
    ["S2_IPA without stage 2", [0x2an, 0n], { stage2: false }],
    ["NH_ALL without stage 1", [0x10n, 0n], { stage1: false }],
    ["CFGI_CD without stage 1", [5n, 0n], { stage1: false }],
    ["CFGI_CD_ALL without stage 1", [6n, 0n], { stage1: false }],
    ["S12_VMALL without stage 2", [0x28n, 0n], { stage2: false }],
    ["SSec of RESUME", [0x44n + u64(1, 10), 0n], {}],
    ["PRI_RESP with a reserved response", [0x41n, u64(3, 12)], { ats: true, pri: true }],
    ["ATC_INV of more than everything", [0x40n, 53n], { ats: true }],
    ["a level 1 that 16 KiB tables do not have", [0x12n, u64(2, 10) + u64(1, 8)], {}],
    ...[0x12n, 0x13n, 0x22n, 0x23n, 0x2an].map((opcode): [string, Command, object] => [
      `a granule of no range and no level, ${opcode}`,
      [opcode, u64(1, 10)],
      {},
    ]),
  ])("CERROR_ILL: %s", (_, command, features) => {
    const bench = new Workbench({ features }).enable();
    bench.commands(SYNC, command, SYNC);
    expect(bench.smmu.read32(R.CMDQ_CONS)).toBe(0x01000001);
    expect(bench.smmu.read32(R.GERROR)).toBe(R.CMDQ_ERR);
  });

  test("of all opcodes it takes those of the Non-secure queue, and no other", () => {
    const taken = Array.from({ length: 256 }, (_, opcode) => opcode).filter((opcode) => {
      const { smmu, ...bench } = new Workbench({ features: { ats: true, pri: true } }).enable();
      bench.memory.writeWord(COMMANDS, opcode);
      smmu.write32(R.CMDQ_PROD, 1);
      return smmu.read32(R.GERROR) === 0;
    });
    const configuration = [1, 2, 3, 4, 5, 6];
    const translations = [0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x28, 0x2a, 0x30];
    expect(taken).toEqual([...configuration, ...translations, 0x40, 0x41, 0x44, 0x45, 0x46]);
  });

  test("without range invalidation TG, NUM and SCALE are not looked at", () => {
    const bench = new Workbench({ features: { rangeInvalidation: false } }).enable();
    bench.commands([0x12n, u64(1, 10)], SYNC);
    expect([bench.smmu.read32(R.CMDQ_CONS), bench.smmu.read32(R.GERROR)]).toEqual([2, 0]);
  });

  test("an error stops it; the repaired entry is taken once the error is acknowledged", () => {
    const bench = new Workbench().enable();
    bench.commands(SYNC, [0xffn, 0n], SYNC);
    bench.commands(SYNC);
    expect(bench.smmu.read32(R.CMDQ_CONS) & 0xffff).toBe(1);
    bench.write(COMMANDS + 16, ...SYNC);
    expect(bench.smmu.read32(R.CMDQ_CONS) & 0xffff).toBe(1);
    bench.smmu.write32(R.GERRORN, R.CMDQ_ERR);
    expect(bench.smmu.read32(R.CMDQ_CONS) & 0xffff).toBe(4);
  });

  test("commands that cannot be read are CERROR_ABT", () => {
    const bench = new Workbench();
    bench.writeRegister64(R.CMDQ_BASE, NOWHERE + 4);
    bench.enable();
    bench.smmu.write32(R.CMDQ_PROD, 2);
    expect(bench.smmu.read32(R.CMDQ_CONS)).toBe(0x02000000);
    expect(bench.smmu.read32(R.GERROR)).toBe(R.CMDQ_ERR);
  });

  test("commands wait for CMDQEN, and go round", () => {
    const bench = new Workbench({ queueLog2: 1 });
    bench.commands(SYNC, SYNC);
    expect(bench.smmu.read32(R.CMDQ_CONS)).toBe(0);
    bench.enable();
    expect(bench.smmu.read32(R.CMDQ_CONS)).toBe(2);
    for (const consumer of [3, 0, 1, 2]) {
      bench.commands(SYNC);
      expect(bench.smmu.read32(R.CMDQ_CONS)).toBe(consumer);
    }
  });
});

describe("CMD_SYNC", () => {
  test("SIG_IRQ pulses the line, and writes its message if it has one; SIG_SEV and none are silent", () => {
    const bench = new Workbench().enable();
    bench.commands(SYNC, [0x46n + u64(2, 12), 0n]);
    expect(bench.interrupts).toEqual([]);
    bench.commands([0x46n + u64(1, 12), 0n]);
    expect(bench.interrupts).toEqual(["sync"]);
    bench.commands([0x46n + u64(1, 12) + u64(0xabcd, 32), BigInt(OLD)]);
    expect(bench.memory.readWord(OLD)).toBe(0xabcd);
    expect(bench.interrupts).toEqual(["sync", "sync"]);
    bench.commands([0x46n + u64(2, 12) + u64(0xef01, 32), BigInt(OLD)], [0x46n + u64(0xef01, 32), BigInt(OLD)]);
    expect([bench.memory.readWord(OLD), bench.interrupts.length]).toEqual([0xabcd, 2]);
  });

  test("a message that is aborted is a global error, and the queue goes on", () => {
    const bench = new Workbench().enable();
    bench.smmu.write32(R.IRQ_CTRL, R.IRQ_GERROR);
    bench.commands([0x46n + u64(1, 12), BigInt(NOWHERE)], SYNC);
    expect(bench.smmu.read32(R.GERROR)).toBe(R.MSI_CMDQ_ABT_ERR);
    expect(bench.interrupts).toEqual(["sync", "gerror"]);
    expect(bench.smmu.read32(R.CMDQ_CONS)).toBe(2);
  });

  test("without MSIs there is the line alone", () => {
    const bench = new Workbench({ features: { msi: false } }).enable();
    bench.commands([0x46n + u64(1, 12) + u64(0xabcd, 32), BigInt(OLD)]);
    expect([bench.memory.readWord(OLD), bench.interrupts]).toEqual([0, ["sync"]]);
  });

  test("whoever hears it may queue the next command at once", () => {
    let bench: Workbench | undefined;
    let heard = 0;
    const interrupt = (): void => {
      if (heard++ === 0) bench!.commands([0x46n + u64(1, 12), 0n]);
    };
    bench = new Workbench({ smmu: { interrupt } }).enable();
    bench.commands([0x46n + u64(1, 12), 0n]);
    expect(heard).toBe(2);
    expect(bench.smmu.read32(R.CMDQ_CONS)).toBe(2);
  });
});
