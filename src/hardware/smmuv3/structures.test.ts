import { describe, expect, test } from "vitest";
import { ContextDescriptor } from "./cd.ts";
import { decodeFeatures, type FeatureChoices, smmuFeatures } from "./features.ts";
import { REGIME_EL1, REGIME_EL2, REGIME_EL2_E2H, StreamTableEntry } from "./ste.ts";
import {
  cdWords,
  RAM_BASE,
  STE_ABORT,
  STE_BYPASS,
  STE_NESTED,
  STE_STAGE1,
  STE_STAGE2,
  steWords,
  Workbench,
} from "./workbench.test-support.ts";

const bench = new Workbench();
const stage2 = { table: bench.stage2Table() };
const table = bench.stage1Table();

function halves(words: readonly bigint[]): Uint32Array {
  return Uint32Array.from(words.flatMap((word) => [Number(word % 2n ** 32n), Number(word / 2n ** 32n)]));
}

function ste(words: readonly bigint[], choices: FeatureChoices = {}, el2Host = false): StreamTableEntry {
  return new StreamTableEntry(8, RAM_BASE, halves(words), decodeFeatures(smmuFeatures(choices)), el2Host);
}

function cd(words: readonly bigint[], choices: FeatureChoices = {}, of = ste(steWords(STE_STAGE1))): ContextDescriptor {
  return new ContextDescriptor(RAM_BASE, halves(words), of, decodeFeatures(smmuFeatures(choices)));
}

/** The words with bits set in one of them. */
function withBits(words: readonly bigint[], index: number, low: number, value: bigint): bigint[] {
  return words.map((word, i) => (i === index ? word | (value * 2n ** BigInt(low)) : word));
}

function without(words: readonly bigint[], index: number, low: number, width = 1): bigint[] {
  const unit = 2n ** BigInt(low);
  const mask = (2n ** BigInt(width) - 1n) * unit;
  return words.map((word, i) => (i === index ? word - (word & mask) : word));
}

describe("stream table entries", () => {
  const stage2Ste = steWords(STE_STAGE2, { stage2 });

  test("what a driver writes is legal", () => {
    for (const words of [
      steWords(STE_ABORT),
      steWords(STE_BYPASS),
      steWords(STE_STAGE1, { contexts: RAM_BASE, contextBits: 10, s1dss: 2, format: 2 }),
      stage2Ste,
      steWords(STE_NESTED, { contexts: RAM_BASE, stage2 }),
    ]) {
      expect(ste(words).illegal).toBeUndefined();
    }
  });

  test.each<[string, readonly bigint[], FeatureChoices, RegExp]>([
    ["V 0", steWords(STE_BYPASS).map(() => 0n), {}, /^V \(bit 0\) is 0/],
    ["no stage 1", steWords(STE_STAGE1), { stage1: false }, /IDR0.S1P/],
    ["no stage 2", stage2Ste, { stage2: false }, /IDR0.S2P/],
    ["too many CDs", steWords(STE_STAGE1, { contextBits: 9 }), { substreamIdBits: 8 }, /S1CDMax.*9.*8 bits/],
    ["two levels of CDs", steWords(STE_STAGE1, { contextBits: 1, format: 2 }), { twoLevelContextTable: false }, /CD2L/],
    ["S1ContextPtr", steWords(STE_STAGE1, { contexts: 2 ** 44 }), { outputBits: 44 }, /S1ContextPtr.*44 bits/],
    ["STRW 1", steWords(STE_STAGE1, { word1: 2n ** 30n }), {}, /STRW.*reserved/],
    ["STRW 3", steWords(STE_STAGE1, { word1: 3n * 2n ** 30n }), {}, /STRW.*reserved/],
    ["S2VMID with stage 1", withBits(steWords(STE_STAGE1), 2, 8, 1n), { vmidBits: 8 }, /S2VMID.*0x100.*8 bits/],
    ["S2VMID with stage 2", withBits(stage2Ste, 2, 15, 1n), { vmidBits: 8 }, /S2VMID.*8 bits/],
    ["S1STALLD", steWords(STE_STAGE1, { word1: 2n ** 27n }), { stalls: "terminate" }, /S1STALLD.*STALL_MODEL is 1/],
    ["S2AA64 0", without(stage2Ste, 2, 51), {}, /S2AA64/],
    ["S2TG 3", withBits(stage2Ste, 2, 46, 3n), {}, /S2TG.*reserved/],
    ["S2TG of another granule", withBits(stage2Ste, 2, 46, 1n), { granules: [4096] }, /granule of 65536/],
    ["S2T0SZ small", without(stage2Ste, 2, 32, 6), {}, /S2T0SZ.*64 bits of input/],
    ["S2T0SZ of small granules", withBits(without(stage2Ste, 2, 32, 6), 2, 32, 12n), { outputBits: 52 }, /48 of its/],
    ["S2T0SZ large", withBits(stage2Ste, 2, 32, 63n), {}, /S2T0SZ.*more than 39/],
    ["S2SL0 3", withBits(stage2Ste, 2, 38, 3n), {}, /S2SL0.*reserved/],
    ["S2SL0 0", without(stage2Ste, 2, 38, 2), {}, /S2SL0.*level 2.*does not fit 40 bits/],
    ["S2ENDI", withBits(stage2Ste, 2, 52, 1n), {}, /S2ENDI/],
    ["S2HA", withBits(stage2Ste, 2, 56, 1n), {}, /S2HA/],
    ["S2HD", withBits(stage2Ste, 2, 55, 1n), {}, /S2HD/],
    ["S2S", withBits(stage2Ste, 2, 57, 1n), { stalls: "terminate" }, /S2S/],
    ["no S2S", stage2Ste, { stalls: "stall" }, /S2S.*forces stalls/],
    ["S2TTB", withBits(stage2Ste, 3, 48, 1n), {}, /S2TTB.*beyond the 48 bits/],
    ["S2TTB of small granules", withBits(withBits(stage2Ste, 2, 48, 6n), 3, 48, 1n), { outputBits: 52 }, /the 48 bits/],
    ["EATS with S2S", withBits(withBits(stage2Ste, 1, 28, 1n), 2, 57, 1n), { ats: true }, /EATS.*S2S/],
    ["split EATS, one stage", withBits(stage2Ste, 1, 28, 2n), { ats: true }, /EATS.*without both stages/],
  ])("ILLEGAL: %s", (_, words, choices, reason) => {
    expect(ste(words, choices).illegal).toMatch(reason);
  });

  const el2 = steWords(STE_STAGE1, { word1: 2n ** 31n });
  test.each<[string, readonly bigint[], FeatureChoices]>([
    ["S1Fmt and S1DSS of one CD", steWords(STE_STAGE1, { format: 2, s1dss: 3 }), { twoLevelContextTable: false }],
    ["S1Fmt without SubstreamIDs", steWords(STE_STAGE1, { format: 2 }), { substreamIdBits: 0 }],
    ["fields of stage 2 without it", withBits(steWords(STE_STAGE1), 2, 46, 3n), {}],
    ["all fields of a bypass", withBits(withBits(steWords(STE_BYPASS), 2, 46, 3n), 1, 30, 1n), {}],
    ["all fields of an abort", steWords(STE_ABORT).map((word, i) => (i === 0 ? word + 2n ** 59n : 2n ** 64n - 1n)), {}],
    ["STRW under stage 2", steWords(STE_NESTED, { stage2, word1: 2n ** 30n }), {}],
    ["STRW without EL2", steWords(STE_STAGE1, { word1: 3n * 2n ** 30n }), { hypervisor: false }],
    ["S2VMID of EL2", withBits(el2, 2, 8, 1n), { vmidBits: 8 }],
    ["S2VMID without stage 2", withBits(steWords(STE_STAGE1), 2, 8, 1n), { vmidBits: 8, stage2: false }],
    ["S1ContextPtr under stage 2", steWords(STE_NESTED, { stage2, contexts: 2 ** 49 }), {}],
    ["EATS without ATS", withBits(stage2Ste, 1, 28, 2n), {}],
    ["a reserved EATS", withBits(stage2Ste, 1, 28, 3n), { ats: true }],
    ["EATS of a bypass", withBits(steWords(STE_BYPASS), 1, 28, 2n), { ats: true }],
    ["S2HD without S2HA, which is as neither", withBits(stage2Ste, 2, 55, 1n), { dirtyTracking: true }],
  ])("does not matter: %s", (_, words, choices) => {
    expect(ste(words, choices).illegal).toBeUndefined();
  });

  test("reserved values of S1Fmt and S1DSS are as 0: a linear table, terminate", () => {
    const entry = ste(steWords(STE_STAGE1, { contextBits: 1, format: 3, s1dss: 3 }));
    expect([entry.illegal, entry.contextFormat, entry.defaultSubstream]).toEqual([undefined, 0, 0]);
  });

  test("STRW chooses the regime; under stage 2 it is NS-EL1 whatever STRW says", () => {
    expect(ste(steWords(STE_STAGE1)).regime).toBe(REGIME_EL1);
    expect(ste(steWords(STE_STAGE1, { word1: 2n ** 31n })).regime).toBe(REGIME_EL2);
    expect(ste(steWords(STE_STAGE1, { word1: 2n ** 31n }), {}, true).regime).toBe(REGIME_EL2_E2H);
    expect(ste(steWords(STE_NESTED, { stage2, word1: 2n ** 31n })).regime).toBe(REGIME_EL1);
  });
});

describe("context descriptors", () => {
  const good = cdWords({ table });

  test("what a driver writes is legal; after an address space died, too", () => {
    expect(cd(good).illegal).toBeUndefined();
    const dead = [2n ** 31n + 2n ** 30n + 2n ** 14n + 2n ** 41n + 2n ** 45n + 2n ** 46n, ...good.slice(1)];
    expect(cd(dead).illegal).toBeUndefined();
  });

  const both = withBits(withBits(good, 0, 14, 1n), 0, 15, 1n);
  const unusable = withBits(withBits(without(good, 0, 30), 0, 14, 1n), 0, 6, 3n);
  const el2 = ste(steWords(STE_STAGE1, { word1: 2n ** 31n }));
  test.each<[string, readonly bigint[], FeatureChoices, StreamTableEntry]>([
    ["ENDI with both halves disabled", both, {}, ste(steWords(STE_STAGE1))],
    [
      "TG0 with EPD0",
      withBits(unusable, 0, 22, 2n).map((word, i) => (i === 0 ? word + 16n * 2n ** 16n : word)),
      {},
      ste(steWords(STE_STAGE1)),
    ],
    ["the ASID of EL2", withBits(good, 0, 56, 1n), { asidBits: 8 }, el2],
    ["the upper half of EL2", without(good, 0, 30), {}, el2],
    [
      "HD without HA, which is as neither",
      withBits(good, 0, 42, 1n),
      { dirtyTracking: true },
      ste(steWords(STE_STAGE1)),
    ],
  ])("does not matter: %s", (_, words, choices, of) => {
    expect(cd(words, choices, of).illegal).toBeUndefined();
  });

  test("EL2 has one half, whatever EPD0 and EPD1 say", () => {
    const { lower, upper } = cd(withBits(without(good, 0, 30), 0, 14, 1n), {}, el2);
    expect([lower !== undefined, upper]).toEqual([true, undefined]);
  });

  test("HD without HA updates nothing", () => {
    const { lower } = cd(withBits(good, 0, 42, 1n), { dirtyTracking: true });
    expect([lower!.stage.setAccessFlag, lower!.stage.setDirty]).toEqual([false, false]);
  });

  test.each<[string, readonly bigint[], FeatureChoices, RegExp]>([
    ["V 0", without(good, 0, 31), {}, /^V \(bit 31\) is 0/],
    ["AA64 0", without(good, 0, 41), {}, /AA64/],
    ["ENDI", withBits(good, 0, 15, 1n), {}, /ENDI/],
    ["HA", withBits(good, 0, 43, 1n), {}, /HA \(bit 43\)/],
    ["HD", withBits(good, 0, 42, 1n), {}, /HD \(bit 42\)/],
    ["S", withBits(good, 0, 44, 1n), { stalls: "terminate" }, /S \(bit 44\) is 1/],
    ["no S", good, { stalls: "stall" }, /S \(bit 44\) is 0/],
    ["ASID", withBits(good, 0, 56, 1n), { asidBits: 8 }, /ASID.*8 bits/],
    ["T0SZ small", without(good, 0, 0, 6), {}, /T0SZ.*is 0, outside 16 … 39/],
    ["T0SZ large", withBits(good, 0, 0, 40n), {}, /T0SZ.*outside/],
    ["TG0 3", withBits(good, 0, 6, 3n), {}, /TG0.*reserved/],
    ["TG1 0", without(good, 0, 30), {}, /TG1.*reserved/],
    ["TTB0", withBits(good, 1, 48, 1n), {}, /TTB0.*beyond the 48 bits/],
    ["TTB0, small IPS", withBits(without(good, 0, 32, 3), 1, 32, 1n), {}, /TTB0.*beyond the 32 bits/],
    ["TTB0 of small granules", withBits(withBits(good, 0, 32, 7n), 1, 48, 1n), { outputBits: 52 }, /TTB0.*the 48 bits/],
  ])("ILLEGAL: %s", (_, words, choices, reason) => {
    expect(cd(words, choices).illegal).toMatch(reason);
  });

  test("S is ILLEGAL where the STE forbids stalls", () => {
    const words = withBits(good, 0, 44, 1n);
    expect(cd(words).illegal).toBeUndefined();
    expect(cd(words, {}, ste(steWords(STE_STAGE1, { word1: 2n ** 27n }))).illegal).toMatch(/S1STALLD/);
  });

  test("A 0 is ILLEGAL where terminations are always aborts", () => {
    const features = { ...decodeFeatures(smmuFeatures()), abortsOnly: true };
    const of = ste(steWords(STE_STAGE1));
    expect(new ContextDescriptor(0, halves(without(good, 0, 46)), of, features).illegal).toMatch(/A \(bit 46\)/);
  });
});
