import { describe, expect, it } from "vitest";
import { PhysicalMemory } from "../../memory/index.ts";
import { lpae } from "../../pagetable/index.ts";
import {
  ArmContext,
  contextDescriptorKind,
  type Entry,
  type EntryKind,
  fillEntry,
  newEntry,
  readEntry,
  writeEntry,
} from "../../pasidtable/index.ts";
import { System, type Task } from "../../runtime/index.ts";
import type { Features } from "./features.ts";
import {
  abortEntry,
  bypassEntry,
  contextTableEntry,
  nestedEntry,
  S1DSS_BYPASS,
  S1DSS_SUBSTREAM_0,
  S1DSS_TERMINATE,
  stage2Entry,
} from "./stream-table-entry.ts";
import { streamTableEntryKind } from "./used-bits.ts";

const ADDRESS = 0x10_0000;

/** What the hardware saw of a change: how many times it was told, and whether the entry was ever invalid on the way. */
interface Seen {
  syncs: number;
  gap: boolean;
}

/** Writes `to` over `from` and looks at the entry at each sync, as the hardware might. */
function transition(from: Entry, to: Entry, kind: EntryKind): Seen {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 21 }] });
  fillEntry(memory, ADDRESS, from);
  let syncs = 0;
  let gap = false;
  const harmless = kind.harmless(from, to);
  const looksLike = (seen: Entry, whole: Entry): boolean => {
    const used = kind.used(whole);
    return whole.every((word, i) => ((word ^ seen[i]) & used[i] & ~harmless[i]) === 0);
  };
  system.run(
    "write",
    writeEntry(memory, ADDRESS, to, kind, function* (): Task<void> {
      syncs++;
      const seen = readEntry(memory, ADDRESS);
      const isInvalid = (seen[0] & kind.validBit) === 0;
      if (isInvalid && (from[0] & to[0] & kind.validBit) !== 0) gap = true;
      expect(isInvalid || looksLike(seen, from) || looksLike(seen, to), `torn after ${syncs} syncs`).toBe(true);
    }),
  );
  expect(readEntry(memory, ADDRESS)).toEqual(to);
  return { syncs, gap };
}

const features = { stalls: "possible", attributesOverride: true, forcedWriteBack: true } as Features;
const stage2Format = lpae({ stage: 2, granule: 4096, inputBits: 44, outputBits: 44 });
const s1 = (address: number, s1dss = S1DSS_SUBSTREAM_0): Entry =>
  contextTableEntry(features, { address, log2Entries: 5, isTwoLevel: false }, { s1dss, canStall: false });
const s2 = (vmid: number, canStall = false): Entry =>
  stage2Entry(features, { vmid, root: vmid * 0x10000, format: stage2Format, nestingParent: true }, canStall);

/** A guest's stage 1 above a stage 2, as reference 6.2 makes it. */
function nested(): Entry {
  return nestedEntry(s2(1), s1(0xabc000).subarray(0, 4));
}

const entries = {
  zero: newEntry(),
  abort: abortEntry(),
  bypass: bypassEntry(features),
  s1: s1(0x123000),
  s1bypass: s1(0x123000, S1DSS_BYPASS),
  s1terminate: s1(0x123000, S1DSS_TERMINATE),
  s1other: s1(0x7_4560_0000),
  s2: s2(1),
  s2other: s2(2),
  nested: nested(),
};
type Name = keyof typeof entries;

/**
 * Syncs of each change, worked out by hand. 1: one word, and nothing else, changes. 2: unused bits before it or leftovers
 * after it. 3: both, or through an invalid entry. Those that leave a gap are marked.
 */
const GAP = "through an invalid entry";
const expected: Record<Name, Partial<Record<Name, number | typeof GAP>>> = {
  zero: { zero: 0, abort: 1, bypass: 2, s1: 2, s2: 2, nested: 2 },
  abort: { abort: 0, zero: 1, bypass: 2, s1: 2, s1terminate: 2, s2: 2, nested: 2 },
  bypass: { abort: 2, bypass: 0, s1: 3, s1bypass: 2, s2: 2 },
  s1: { abort: 2, bypass: 3, s1: 0, s1bypass: 2, s1terminate: 1, s1other: 1, s2: GAP, nested: GAP },
  s1bypass: { abort: 2, bypass: 2, s1: 1, s1terminate: 1 },
  s1terminate: { abort: 2, s1: 1 },
  s1other: { s1: 1 },
  s2: { abort: 2, bypass: 2, s1: GAP, s2: 0, s2other: GAP, nested: 2 },
  s2other: { s2: GAP },
  nested: { abort: 3, s2: 3, nested: 0 },
};

describe("changing a stream table entry", () => {
  const names = Object.keys(entries) as Name[];
  const pairs = names.flatMap((from) => names.map((to) => [from, to] as const));

  it.each(pairs)("%s to %s never shows a mixture", (from, to) => {
    const { syncs, gap } = transition(entries[from], entries[to], streamTableEntryKind);
    expect(syncs).toBeLessThanOrEqual(3);
    const want = expected[from][to];
    if (want !== undefined) expect({ syncs, gap }).toEqual({ syncs: want === GAP ? 3 : want, gap: want === GAP });
  });

  it("changes EATS alone, without harm, where nobody splits or stalls", () => {
    const withAts = s2(1);
    withAts[2] |= 1 << 28;
    expect(transition(s2(1), withAts, streamTableEntryKind).syncs).toBe(1);
    const stalling = s2(1, true);
    const stallingWithAts = stalling.slice();
    stallingWithAts[2] |= 1 << 28;
    expect(transition(stalling, stallingWithAts, streamTableEntryKind).syncs).toBe(1);
    // With stalls EATS counts: together with another word it takes an invalid entry in between.
    expect(transition(s2(1), stallingWithAts, streamTableEntryKind).gap).toBe(true);
  });
});

describe("changing a context descriptor", () => {
  const format = lpae({ stage: 1, granule: 4096, inputBits: 48, outputBits: 44 });
  const cd = (asid: number, root: number): Entry =>
    new ArmContext({ label: "table", root, format, dirtyTracking: false }, asid, {
      holder: undefined,
      isShared: false,
      mustStall: false,
    }).descriptor(false);

  it("to another table and ASID goes through an invalid descriptor", () => {
    expect(transition(cd(1, 0x1000), cd(2, 0x2000), contextDescriptorKind).syncs).toBe(3);
  });

  it("of which one word changes is one step", () => {
    expect(transition(cd(1, 0x1000), cd(1, 0x2000), contextDescriptorKind).syncs).toBe(1);
    expect(transition(cd(1, 0x1000), cd(2, 0x1000), contextDescriptorKind).syncs).toBe(1);
  });

  it("that is not valid yet, or not any more, is never half there", () => {
    expect(transition(newEntry(), cd(1, 0x1000), contextDescriptorKind).syncs).toBe(2);
    expect(transition(cd(1, 0x1000), newEntry(), contextDescriptorKind).syncs).toBe(2);
  });

  it("whose walks are turned off may lose its table in the same go", () => {
    const off = cd(1, 0x1000);
    off[0] = (off[0] & ~0x3fff) | (1 << 14);
    off[2] = off[3] = 0;
    expect(transition(cd(1, 0x1000), off, contextDescriptorKind).syncs).toBe(2);
  });
});
