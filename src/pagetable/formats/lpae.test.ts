/** Descriptors and geometry as Arm DDI 0487 gives them, written out by hand. */
import { describe, expect, test } from "vitest";
import { AssertionError } from "../../runtime/index.ts";
import { PROT_CACHE, PROT_MMIO, PROT_NOEXEC, PROT_PRIV, PROT_READ, PROT_WRITE } from "../prot.ts";
import { hexEntry } from "../words.ts";
import { type Granule, type LpaeOptions, lpae, stage2StartIsLegal } from "./lpae.ts";
import { MAIR_LOW } from "./lpae-attributes.ts";

const READ_WRITE = PROT_READ | PROT_WRITE;

function stage1(options: Partial<LpaeOptions> = {}): ReturnType<typeof lpae> {
  return lpae({ stage: 1, granule: 4096, inputBits: 48, outputBits: 48, ...options });
}

function stage2(options: Partial<LpaeOptions> = {}): ReturnType<typeof lpae> {
  return lpae({ stage: 2, granule: 4096, inputBits: 40, outputBits: 48, ...options });
}

function leaf(format: ReturnType<typeof lpae>, level: number, physical: number, prot: number): string {
  const attributes = format.attributes(prot);
  return hexEntry(format.leafLow(level, physical, attributes), format.leafHigh(physical, attributes));
}

describe("a stage-1 leaf", () => {
  test.each([
    // 63:55 software, 54 UXN, 53 PXN, 52 contiguous, 51 DBM, 47:12 address,
    // 11 nG, 10 AF, 9:8 SH, 7 AP[2], 6 AP[1], 4:2 AttrIndx, 1 page, 0 valid
    ["a page, cached, read-write", 3, 0x80001000, READ_WRITE | PROT_CACHE, "0x80001f47"],
    ["read-only: AP[2]", 3, 0x80001000, PROT_READ | PROT_CACHE, "0x80001fc7"],
    ["write-only is read-write: stage 1 has no such thing", 3, 0x80001000, PROT_WRITE | PROT_CACHE, "0x80001f47"],
    ["not cached: AttrIndx 0, outer shareable", 3, 0x80001000, READ_WRITE, "0x80001e43"],
    ["device: AttrIndx 2, outer shareable", 3, 0x9000000, READ_WRITE | PROT_MMIO, "0x9000e4b"],
    ["privileged: no AP[1]", 3, 0x1000, READ_WRITE | PROT_CACHE | PROT_PRIV, "0x1f07"],
    ["not executable: UXN and PXN", 3, 0x1000, READ_WRITE | PROT_CACHE | PROT_NOEXEC, "0x60000000001f47"],
    ["a 2M block: bit 1 is 0", 2, 0x80200000, READ_WRITE | PROT_CACHE, "0x80200f45"],
    ["a 1G block", 1, 0x80000000, PROT_READ | PROT_CACHE, "0x80000fc5"],
    ["bits 47:32 of the address", 3, 0xabcd_1234_5000, READ_WRITE | PROT_CACHE, "0xabcd12345f47"],
  ])("%s", (_, level, physical, prot, expected) => {
    expect(leaf(stage1(), level, physical, prot)).toBe(expected);
  });

  test("has DBM if it may be written and dirty tracking is asked for", () => {
    const format = stage1({ dirty: true });
    expect(leaf(format, 3, 0x1000, READ_WRITE | PROT_CACHE)).toBe("0x8000000001f47");
    expect(leaf(format, 3, 0x1000, PROT_READ | PROT_CACHE)).toBe("0x1fc7");
  });
});

describe("a stage-2 leaf", () => {
  test.each([
    // 54:53 XN, 52 contiguous, 51 DBM, 47:12 address, 10 AF, 9:8 SH, 7:6 S2AP, 5:2 MemAttr, 1 page, 0 valid
    ["a page, cached, read-write", 3, 0x80001000, READ_WRITE | PROT_CACHE, "0x800017ff"],
    ["read-only", 3, 0x80001000, PROT_READ | PROT_CACHE, "0x8000177f"],
    ["write-only", 3, 0x80001000, PROT_WRITE | PROT_CACHE, "0x800017bf"],
    ["not cached: MemAttr 0b0101, outer shareable", 3, 0x1000, READ_WRITE, "0x16d7"],
    ["device: MemAttr 0b0001, outer shareable", 3, 0x9000000, READ_WRITE | PROT_MMIO, "0x90006c7"],
    ["not executable: XN 0b10", 3, 0x1000, READ_WRITE | PROT_CACHE | PROT_NOEXEC, "0x400000000017ff"],
    ["a 2M block: bit 1 is 0", 2, 0x80200000, READ_WRITE | PROT_CACHE, "0x802007fd"],
  ])("%s", (_, level, physical, prot, expected) => {
    expect(leaf(stage2(), level, physical, prot)).toBe(expected);
  });

  test("says forced write-back, 0b0110, under S2FWB", () => {
    expect(leaf(stage2({ forceWriteBack: true }), 3, 0x1000, READ_WRITE | PROT_CACHE)).toBe("0x17db");
  });
});

test("a table entry is its address and 0b11", () => {
  const format = stage1();
  expect(hexEntry(format.tableLow(0x1_4001_2000), format.tableHigh(0x1_4001_2000))).toBe("0x140012003");
});

test("with 64K pages and 52-bit addresses, bits 51:48 are in bits 15:12 of an entry", () => {
  const format = stage1({ granule: 65536, outputBits: 52, inputBits: 52 });
  expect(leaf(format, 3, 0xf_abcd_1234_0000, PROT_READ | PROT_CACHE)).toBe("0xabcd1234ffc7");
  expect(hexEntry(format.tableLow(0x9_0000_0001_0000), format.tableHigh(0x9_0000_0001_0000))).toBe("0x19003");
  expect([format.addressHigh(0x19003, 0), format.addressLow(0x19003)]).toEqual([0x90000, 0x10000]);
});

test("the memory types that leaves index: non-cacheable, write-back, device, inner non-cacheable", () => {
  expect([0, 8, 16, 24].map((shift) => (MAIR_LOW >>> shift) & 0xff)).toEqual([0x44, 0xff, 0x04, 0xf4]);
});

describe("the prot of a leaf comes back", () => {
  const everyProt = Array.from({ length: 64 }, (_, prot) => prot).filter((prot) => (prot & READ_WRITE) !== 0);
  const back = (format: ReturnType<typeof lpae>, prot: number): number =>
    format.prot(format.attributes(prot).low, format.attributes(prot).high);
  const type = (prot: number): number => ((prot & PROT_MMIO) !== 0 ? prot & ~PROT_CACHE : prot);

  test("from stage 1, where all can be read", () => {
    for (const prot of everyProt) expect(back(stage1(), prot)).toBe(type(prot) | PROT_READ);
  });

  test("from stage 1 when hardware made it writable-clean", () => {
    const { low, high } = stage1({ dirty: true }).attributes(READ_WRITE | PROT_CACHE);
    expect(stage1().prot(low | (1 << 7), high)).toBe(READ_WRITE | PROT_CACHE);
  });

  test("from stage 2, which has no privilege", () => {
    for (const prot of everyProt) expect(back(stage2(), prot)).toBe(type(prot) & ~PROT_PRIV);
  });
});

const K = 1024;
const M = 1024 * K;
const G = 1024 * M;
const T = 1024 * G;

describe("leaves have the sizes that the architecture allows", () => {
  test.each<[string, Granule, number, number[]]>([
    ["4K: pages, 2M, 1G", 4096, 48, [4 * K, 2 * M, G]],
    ["16K: pages, 32M", 16384, 48, [16 * K, 32 * M]],
    ["64K: pages, 512M", 65536, 48, [64 * K, 512 * M]],
    ["64K with 52 bits: also 4T", 65536, 52, [64 * K, 512 * M, 4 * T]],
  ])("%s", (_, granule, outputBits, sizes) => {
    expect(stage1({ granule, outputBits }).pageSizes).toEqual(sizes);
  });

  test("but none above the level where the walk begins", () => {
    expect(stage1({ inputBits: 30 }).pageSizes).toEqual([4 * K, 2 * M]);
    expect(stage1({ granule: 16384, inputBits: 25 }).pageSizes).toEqual([16 * K]);
  });
});

describe("stage 1 begins where its input size says", () => {
  test.each<[Granule, number, number, number]>([
    // granule, input bits (64 - T0SZ), level, entries of the root
    [4096, 48, 0, 512],
    [4096, 40, 0, 2],
    [4096, 39, 1, 512],
    [4096, 31, 1, 2],
    [4096, 30, 2, 512],
    [4096, 25, 2, 16],
    [16384, 48, 0, 2],
    [16384, 47, 1, 2048],
    [16384, 36, 2, 2048],
    [16384, 25, 3, 2048],
    [65536, 52, 1, 1024],
    [65536, 48, 1, 64],
    [65536, 42, 2, 8192],
    [65536, 29, 3, 8192],
  ])("granule %i, %i bits: level %i, %i entries", (granule, inputBits, level, entries) => {
    const format = stage1({ granule, inputBits, outputBits: granule === 65536 ? 52 : 48 });
    expect([format.startLevel, format.rootEntries, format.t0sz]).toEqual([level, entries, 64 - inputBits]);
  });
});

describe("stage 2 begins as far down as up to 16 tables side by side allow", () => {
  test.each<[Granule, number, number, number, number]>([
    // granule, input bits (64 - S2T0SZ), level, tables, SL0
    [4096, 48, 0, 1, 2],
    [4096, 44, 0, 1, 2],
    [4096, 43, 1, 16, 1],
    [4096, 40, 1, 2, 1],
    [4096, 39, 1, 1, 1],
    [4096, 34, 2, 16, 0],
    [4096, 25, 2, 1, 0],
    [16384, 48, 1, 2, 2],
    [16384, 40, 2, 16, 1],
    [16384, 29, 3, 16, 0],
    [65536, 48, 1, 1, 2],
    [65536, 46, 2, 16, 1],
    [65536, 42, 2, 1, 1],
    [65536, 33, 3, 16, 0],
  ])("granule %i, %i bits: level %i, %i tables, SL0 %i", (granule, inputBits, level, tables, sl0) => {
    const format = stage2({ granule, inputBits });
    expect([format.startLevel, format.startTables, format.sl0]).toEqual([level, tables, sl0]);
  });

  test("unless the STE says another level", () => {
    const format = stage2({ inputBits: 40, startLevel: 0 });
    expect([format.startTables, format.rootEntries, format.sl0]).toEqual([1, 2, 2]);
  });

  test("and not with more tables, or none of the input resolved at the first level", () => {
    expect(stage2StartIsLegal(4096, 44, 1)).toBe(false);
    expect(stage2StartIsLegal(4096, 43, 1)).toBe(true);
    expect(stage2StartIsLegal(4096, 31, 1)).toBe(true);
    expect(stage2StartIsLegal(4096, 30, 1)).toBe(false);
    expect(() => stage2({ inputBits: 44, startLevel: 1 })).toThrow(AssertionError);
  });
});

test("impossible formats are our own mistake", () => {
  expect(() => stage1({ inputBits: 52 })).toThrow(AssertionError);
  expect(() => stage1({ outputBits: 52 })).toThrow(AssertionError);
  expect(() => stage1({ granule: 65536, inputBits: 53, outputBits: 52 })).toThrow(AssertionError);
});
