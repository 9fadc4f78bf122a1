/** Entries of AMDv1 tables, bit by bit (AMD I/O Virtualization Technology Specification, 2.2.3). */
import { expect, test } from "vitest";
import { PROT_CACHE, PROT_READ, PROT_WRITE } from "../prot.ts";
import { hexEntry, joinWords } from "../words.ts";
import { type Amdv1Format, amdv1 } from "./amdv1.ts";
import { INVALID, LEAF, TABLE } from "./format.ts";

const sizes = (from: number, to: number): number[] =>
  Array.from({ length: to - from + 1 }, (_, index) => 2 ** (from + index));
const hardware = amdv1({ granuleBits: 12, inputBits: 48, pageSizes: sizes(12, 38) });
const small = amdv1({ granuleBits: 11, inputBits: 38, pageSizes: sizes(11, 36) });

function leaf(format: Amdv1Format, level: number, physical: number, entries: number, prot: number): [number, number] {
  const attributes = format.attributes(prot);
  return [
    format.runs.low(level, physical, entries, attributes),
    format.runs.high(level, physical, entries, attributes),
  ];
}

test("a page of 4 KiB is one entry with Next Level 0", () => {
  const [low, high] = leaf(hardware, 3, 0x1_2345_6000, 1, PROT_READ | PROT_WRITE | PROT_CACHE);
  expect(hexEntry(low, high)).toBe("0x7000000123456001");
  expect(hardware.kind(3, low)).toBe(LEAF);
  expect(hardware.runs.count(3, low, high)).toBe(1);
});

test("a larger one has Next Level 7 and ones in its address that tell its size", () => {
  expect(hexEntry(...leaf(hardware, 3, 0x1_2345_0000, 2, PROT_READ))).toBe("0x2000000123450e01");
  expect(hexEntry(...leaf(hardware, 3, 0x1_2345_0000, 16, PROT_READ))).toBe("0x2000000123457e01");
  expect(hexEntry(...leaf(hardware, 2, 0x1_2380_0000, 2, PROT_WRITE))).toBe("0x40000001239ffe01");
  for (const [level, entries] of [
    [3, 2],
    [3, 256],
    [2, 2],
    [2, 128],
    [1, 4],
  ]) {
    const physical = 2 ** 46;
    const [low, high] = leaf(hardware, level, physical, entries, PROT_READ);
    expect(hardware.runs.count(level, low, high)).toBe(entries);
    expect(joinWords(hardware.addressHigh(low, high), hardware.addressLow(low, high))).toBe(physical);
  }
});

test("an entry for a table names the level of that, counted from 1 at the bottom", () => {
  expect(hexEntry(hardware.tableLow(0x4000_1000, 2), hardware.tableHigh(0x4000_1000))).toBe("0x6000000040001201");
  expect(hexEntry(hardware.tableLow(0x4000_1000, 0), hardware.tableHigh(0x4000_1000))).toBe("0x6000000040001601");
  expect(hardware.kind(0, hardware.tableLow(0x4000_1000, 0))).toBe(TABLE);
  expect(hardware.kind(0, 0x600)).toBe(INVALID);
});

test("with a granule of 2 KiB addresses are shifted up by one bit", () => {
  const [low, high] = leaf(small, 2, 0x1_2345_6800, 1, PROT_READ);
  expect(hexEntry(low, high)).toBe("0x20000002468ad001");
  expect(joinWords(small.addressHigh(low, high), small.addressLow(low, high))).toBe(0x1_2345_6800);
  expect(small.outputBits).toBe(51);
  const [wideLow, wideHigh] = leaf(small, 2, 0x1_2345_6000, 2, PROT_READ);
  expect(small.runs.count(2, wideLow, wideHigh)).toBe(2);
  expect(joinWords(small.addressHigh(wideLow, wideHigh), small.addressLow(wideLow, wideHigh))).toBe(0x1_2345_6000);
});

test("rights come back, and the mark of a write is bit 6", () => {
  for (const prot of [PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE | PROT_CACHE]) {
    expect(hardware.prot(...leaf(hardware, 3, 0x1000, 1, prot))).toBe(prot);
  }
  const [low, high] = leaf(hardware, 3, 0x1000, 1, PROT_WRITE);
  expect(hardware.dirty.isSet(low, high)).toBe(false);
  expect(hardware.dirty.set(low)).toBe(low | 0x40);
  expect(hardware.dirty.cleared(low | 0x40)).toBe(low);
});
