/** The walk on tables written by hand: what each bit of the architecture does, and every way in which a walk ends. */
import { describe, expect, test } from "vitest";
import { PhysicalMemory } from "../memory/index.ts";
import { System } from "../runtime/index.ts";
import { type LpaeOptions, lpae } from "./formats/lpae.ts";
import {
  privileged,
  RIGHT_EXECUTE,
  RIGHT_PRIVILEGED_EXECUTE,
  RIGHT_PRIVILEGED_READ,
  RIGHT_PRIVILEGED_WRITE,
  RIGHT_READ,
  RIGHT_WRITE,
} from "./rights.ts";
import { type StageOptions, type TableTranslator, TranslationStage, Walker } from "./walk.ts";
import { highWord, lowWord } from "./words.ts";

const RAM = 2 ** 30;
/** Tables of a 4-level walk to IOVA 0x1000, one in each 64K. */
const [L0, L1, L2, L3] = [0, 1, 2, 3].map((level) => RAM + level * 65536);
const IOVA = 0x1234;
/** AF, inner shareable, unprivileged access, valid page. */
const PAGE = 0x743;
/** The same for stage 2: AF, S2AP read-write, write-back, valid page. */
const PAGE2 = 0x7ff;
const DATA = RIGHT_READ | RIGHT_WRITE;
const ALL_DATA = DATA | privileged(DATA);

/** Bit `bit` of a descriptor's high half. */
function bit(number: number): number {
  return 2 ** number;
}

class Tables {
  readonly memory: PhysicalMemory = new PhysicalMemory(new System(), { ram: [{ base: RAM, size: 2 ** 24 }] });
  readonly walker: Walker = new Walker(this.memory);

  /** Writes a descriptor given as an address or small number, and bits of its upper half as an array of bit numbers. */
  write(address: number, value: number, upperBits: readonly number[] = []): this {
    const high = upperBits.reduce((sum, number) => sum + bit(number - 32), highWord(value));
    this.memory.writeWord(address, lowWord(value));
    this.memory.writeWord(address + 4, high);
    return this;
  }

  /** Four levels to a page at 0x8000_5000. */
  page(attributes: number, upperBits: readonly number[] = [], tableBits: readonly number[] = []): this {
    return this.write(L0, L1 + 3, tableBits)
      .write(L1, L2 + 3)
      .write(L2, L3 + 3)
      .write(L3 + 8, 0x8000_5000 + attributes, upperBits);
  }

  descriptor(address: number): string {
    const words = [this.memory.readWord(address + 4), this.memory.readWord(address)];
    return words.map((word) => word.toString(16).padStart(8, "0")).join("_");
  }
}

function stage(options: Partial<StageOptions> = {}, format: Partial<LpaeOptions> = {}): TranslationStage {
  return new TranslationStage({
    format: lpae({ stage: 1, granule: 4096, inputBits: 48, outputBits: 48, ...format }),
    root: L0,
    ...options,
  });
}

function stage2(options: Partial<StageOptions> = {}): TranslationStage {
  return stage(options, { stage: 2, startLevel: 0 });
}

describe("a walk that succeeds", () => {
  test("gives the address, the leaf, and all rights", () => {
    const { walker } = new Tables().page(PAGE | (1 << 11) | (3 << 2), [52]);
    expect(walker.walk(stage(), IOVA, RIGHT_READ)).toBe(true);
    expect(walker).toMatchObject({ fault: undefined, output: 0x8000_5234, level: 3, shift: 12, size: 4096 });
    expect(walker).toMatchObject({ table: L3, descriptorAddress: L3 + 8, descriptorPhysical: L3 + 8 });
    expect(walker).toMatchObject({ notGlobal: true, contiguous: true, attributeIndex: 3, shareability: 3 });
    expect(walker.rights).toBe(ALL_DATA | RIGHT_EXECUTE);
  });

  test("forgets the fault of the walk before", () => {
    const { walker } = new Tables().page(PAGE);
    expect(walker.walk(stage(), 0x2000, RIGHT_READ)).toBe(false);
    expect(walker.walk(stage(), IOVA, RIGHT_READ)).toBe(true);
    expect(walker.fault).toBeUndefined();
  });

  test("ignores the bits that hardware has no use for", () => {
    // Tables: bits 11:2 and 58:51. Leaves: software bits 58:55. Blocks: address bits below the block's size.
    const tables = new Tables()
      .write(L0, L1 + 0xfff, [51, 52, 55, 58])
      .write(L1, L2 + 0x7ff)
      .write(L2 + 8, 0x8020_0000 + 0x1f_0000 + (PAGE & ~2), [55, 56, 57, 58]);
    expect(tables.walker.walk(stage(), 0x20_4321, RIGHT_READ)).toBe(true);
    expect([tables.walker.output, tables.walker.size]).toEqual([0x8020_4321, 2 ** 21]);
  });

  test("takes the root's address without the bits below its size", () => {
    const { walker } = new Tables().page(PAGE);
    expect(walker.walk(stage({ root: L0 + 0x10 }), IOVA, RIGHT_READ)).toBe(true);
  });

  test("reads tables of every stage-2 root that lies side by side", () => {
    const tables = new Tables().write(RAM + 15 * 4096 + 8, 0x4000_0000 + (PAGE2 & ~2));
    const concatenated = stage({ root: RAM }, { stage: 2, inputBits: 43, startLevel: 1 });
    expect(tables.walker.walk(concatenated, 15 * 2 ** 39 + 2 ** 30 + 0x77, RIGHT_READ)).toBe(true);
    expect([tables.walker.output, tables.walker.level]).toEqual([0x4000_0077, 1]);
  });

  test("finds 52-bit addresses in 64K tables, and 4T blocks", () => {
    const tables = new Tables().write(L0 + 8, 0xf000 + (PAGE & ~2));
    const wide = stage({}, { granule: 65536, inputBits: 52, outputBits: 52 });
    const input = 2 ** 42 + 0x155_1234_5678;
    expect(tables.walker.walk(wide, input, RIGHT_READ)).toBe(true);
    expect(tables.walker.output).toBe(0xf_0000_0000_0000 + 0x155_1234_5678);
    expect(tables.walker.size).toBe(2 ** 42);
    // Bits 41:16 of the address are below the block's size.
    tables.write(L0 + 8, 0x3ff_ffff_0000 + 0xf000 + (PAGE & ~2));
    expect(tables.walker.walk(wide, input, RIGHT_READ)).toBe(true);
    expect(tables.walker.output).toBe(0xf_0000_0000_0000 + 0x155_1234_5678);
  });

  test("reads stage-2 memory attributes", () => {
    const { walker } = new Tables().page((PAGE2 & ~0x3c) | (1 << 2));
    expect(walker.walk(stage2(), IOVA, RIGHT_READ)).toBe(true);
    expect(walker.memoryAttribute).toBe(1);
  });
});

describe("a translation fault", () => {
  test.each([
    ["level 0", L0, 0],
    ["level 1", L1, 1],
    ["level 2", L2, 2],
    ["level 3", L3 + 8, 3],
  ])("of an invalid entry at %s", (_, address, level) => {
    const { walker } = new Tables().page(PAGE).write(address, 0x8000_5742);
    expect(walker.walk(stage(), IOVA, RIGHT_READ)).toBe(false);
    expect(walker).toMatchObject({ fault: "translation", level, descriptorAddress: address, faultOnFetch: false });
    expect(walker.table).toBe(address - (address % 4096));
  });

  test("of 0b01 at level 3, which is reserved", () => {
    const { walker } = new Tables().page(PAGE & ~2);
    expect(walker.walk(stage(), IOVA, RIGHT_READ)).toBe(false);
    expect(walker).toMatchObject({ fault: "translation", level: 3 });
  });

  test.each([
    ["4K, level 0", { granule: 4096, inputBits: 48 }, 0],
    ["16K, level 0", { granule: 16384, inputBits: 48 }, 0],
    ["16K, level 1", { granule: 16384, inputBits: 47 }, 1],
    ["64K, level 1 without 52-bit addresses", { granule: 65536, inputBits: 48 }, 1],
  ] as const)("of a block where there are none: %s", (_, format, level) => {
    const { walker } = new Tables().write(L0, PAGE & ~2);
    expect(walker.walk(stage({}, format), IOVA, RIGHT_READ)).toBe(false);
    expect(walker).toMatchObject({ fault: "translation", level });
  });

  test("of an input beyond the input size, before any table is read", () => {
    const { walker } = new Tables();
    expect(walker.walk(stage({ root: 0 }, { inputBits: 39 }), 2 ** 39, RIGHT_READ)).toBe(false);
    expect(walker).toMatchObject({ fault: "translation", level: 1, descriptorAddress: -1, descriptorPhysical: -1 });
  });

  test("of RAM that nobody wrote, which reads as 0", () => {
    const { walker } = new Tables();
    expect(walker.walk(stage({ root: RAM + 2 ** 23 }), IOVA, RIGHT_READ)).toBe(false);
    expect(walker.fault).toBe("translation");
  });
});

describe("an address size fault", () => {
  test("of a leaf", () => {
    const { walker } = new Tables().page(PAGE, [44]);
    expect(walker.walk(stage({}, { outputBits: 44 }), IOVA, RIGHT_READ)).toBe(false);
    expect(walker).toMatchObject({ fault: "address-size", level: 3, descriptorAddress: L3 + 8 });
    expect(walker.walk(stage(), IOVA, RIGHT_READ)).toBe(true);
  });

  test("of a table, which is not read then", () => {
    const { walker } = new Tables().page(PAGE).write(L1, 2 ** 40 + 3);
    expect(walker.walk(stage({}, { outputBits: 40 }), IOVA, RIGHT_READ)).toBe(false);
    expect(walker).toMatchObject({ fault: "address-size", level: 1, descriptorAddress: L1, faultOnFetch: false });
  });

  test("of the root", () => {
    const { walker } = new Tables();
    expect(walker.walk(stage({ root: 2 ** 32 }, { outputBits: 32 }), IOVA, RIGHT_READ)).toBe(false);
    expect(walker).toMatchObject({ fault: "address-size", level: 0, table: 2 ** 32, descriptorAddress: -1 });
  });

  test("of bits 51:48 in a 64K entry, if the output has fewer", () => {
    const { walker } = new Tables().write(L0, L1 + 0x1003);
    const narrow = stage({}, { granule: 65536, outputBits: 48, address52: true });
    expect(walker.walk(narrow, IOVA, RIGHT_READ)).toBe(false);
    expect(walker.fault).toBe("address-size");
    const none = stage({}, { granule: 65536, outputBits: 48 });
    expect(walker.walk(none, IOVA, RIGHT_READ)).toBe(false);
    expect(walker.fault).toBe("translation");
  });

  test("comes before the access flag, and that before permissions", () => {
    const { walker } = new Tables().page(PAGE & ~0x440, [47]);
    expect(walker.walk(stage({}, { outputBits: 40 }), IOVA, RIGHT_READ)).toBe(false);
    expect(walker.fault).toBe("address-size");
    expect(walker.walk(stage(), IOVA, RIGHT_READ)).toBe(false);
    expect(walker.fault).toBe("access-flag");
    expect(walker.walk(stage({ accessFlagFaults: false }), IOVA, RIGHT_READ)).toBe(false);
    expect(walker.fault).toBe("permission");
  });
});

test("an external abort of a table where nothing is", () => {
  const { walker } = new Tables().page(PAGE).write(L1, 0x1000 + 3);
  expect(walker.walk(stage(), IOVA, RIGHT_READ)).toBe(false);
  expect(walker).toMatchObject({
    fault: "external-abort",
    level: 2,
    table: 0x1000,
    descriptorAddress: 0x1000,
    descriptorPhysical: 0x1000,
    faultOnFetch: true,
  });
});

describe("the access flag", () => {
  test("0 faults, unless that is off", () => {
    const { walker } = new Tables().page(PAGE & ~0x400);
    expect(walker.walk(stage(), IOVA, RIGHT_READ)).toBe(false);
    expect(walker).toMatchObject({ fault: "access-flag", level: 3, shift: 12 });
    expect(walker.walk(stage({ accessFlagFaults: false }), IOVA, RIGHT_READ)).toBe(true);
  });

  test("is set in memory by the walk under HA", () => {
    const tables = new Tables().page(PAGE & ~0x400);
    expect(tables.walker.walk(stage({ setAccessFlag: true }), IOVA, RIGHT_READ)).toBe(true);
    expect(tables.descriptor(L3 + 8)).toBe("00000000_80005743");
  });

  test("is not set for an access that permissions refuse, nor for who only looks", () => {
    const tables = new Tables().page((PAGE & ~0x400) | 0x80);
    expect(tables.walker.walk(stage({ setAccessFlag: true }), IOVA, RIGHT_WRITE)).toBe(false);
    tables.walker.updatesTables = false;
    expect(tables.walker.walk(stage({ setAccessFlag: true }), IOVA, RIGHT_READ)).toBe(true);
    expect(tables.descriptor(L3 + 8)).toBe("00000000_800053c3");
  });
});

describe("dirty state under HD", () => {
  const dirty = { setAccessFlag: true, setDirty: true };

  test("a write makes a clean stage-1 leaf writable: AP[2] becomes 0", () => {
    const tables = new Tables().page(PAGE | 0x80, [51]);
    expect(tables.walker.walk(stage(dirty), IOVA, RIGHT_READ)).toBe(true);
    expect(tables.walker.rights & RIGHT_WRITE).toBe(0);
    expect(tables.descriptor(L3 + 8)).toBe("00080000_800057c3");
    expect(tables.walker.walk(stage(dirty), IOVA, RIGHT_WRITE)).toBe(true);
    expect(tables.walker.rights & RIGHT_WRITE).toBe(RIGHT_WRITE);
    expect(tables.descriptor(L3 + 8)).toBe("00080000_80005743");
  });

  test("a write makes a clean stage-2 leaf writable: S2AP[1] becomes 1", () => {
    const tables = new Tables().page(PAGE2 & ~0x80, [51]);
    expect(tables.walker.walk(stage2(dirty), IOVA, RIGHT_WRITE)).toBe(true);
    expect(tables.descriptor(L3 + 8)).toBe("00080000_800057ff");
  });

  test("not without DBM, without HD, or where a table says read-only", () => {
    expect(new Tables().page(PAGE | 0x80).walker.walk(stage(dirty), IOVA, RIGHT_WRITE)).toBe(false);
    expect(new Tables().page(PAGE | 0x80, [51]).walker.walk(stage(), IOVA, RIGHT_WRITE)).toBe(false);
    const tables = new Tables().page(PAGE | 0x80, [51], [62]);
    expect(tables.walker.walk(stage(dirty), IOVA, RIGHT_WRITE)).toBe(false);
    expect(tables.walker.fault).toBe("permission");
    expect(tables.descriptor(L3 + 8)).toBe("00080000_800057c3");
  });
});

/** All that a walk of any kind would be granted. */
function rights(tables: Tables, how: TranslationStage): number {
  let granted = 0;
  for (let right = 1; right <= RIGHT_PRIVILEGED_EXECUTE; right *= 2) {
    const allowed = tables.walker.walk(how, IOVA, right);
    if (allowed) granted |= right;
    else expect(tables.walker.fault).toBe("permission");
    expect((tables.walker.rights & right) !== 0).toBe(allowed);
  }
  return granted;
}

const EXECUTE = RIGHT_EXECUTE | RIGHT_PRIVILEGED_EXECUTE;
const READ = RIGHT_READ | RIGHT_PRIVILEGED_READ;

describe("stage-1 permissions", () => {
  test.each([
    ["AP 00: privileged read-write", 0b00, [], privileged(DATA) | EXECUTE],
    ["AP 01: read-write, and so not run with privilege", 0b01, [], ALL_DATA | RIGHT_EXECUTE],
    ["AP 10: privileged read-only", 0b10, [], RIGHT_PRIVILEGED_READ | EXECUTE],
    ["AP 11: read-only", 0b11, [], READ | EXECUTE],
    ["PXN", 0b11, [53], READ | RIGHT_EXECUTE],
    ["UXN", 0b11, [54], READ | RIGHT_PRIVILEGED_EXECUTE],
  ])("%s", (_, ap, upperBits, expected) => {
    expect(rights(new Tables().page((PAGE & ~0xc0) | (ap << 6), upperBits), stage())).toBe(expected);
  });

  test.each([
    ["APTable 01: none unprivileged", PAGE, [61], privileged(DATA) | EXECUTE],
    ["APTable 10: read-only", PAGE, [62], READ | EXECUTE],
    ["APTable 11: both", PAGE, [61, 62], RIGHT_PRIVILEGED_READ | EXECUTE],
    ["PXNTable", PAGE | 0x80, [59], READ | RIGHT_EXECUTE],
    ["UXNTable", PAGE | 0x80, [60], READ | RIGHT_PRIVILEGED_EXECUTE],
  ])("tables take rights away: %s", (_, attributes, tableBits, expected) => {
    const tables = new Tables().page(attributes, [], tableBits);
    expect(rights(tables, stage())).toBe(expected);
    const without = rights(new Tables().page(attributes), stage());
    expect(rights(tables, stage({ hierarchicalPermissions: false }))).toBe(without);
  });

  test("what several tables take adds up", () => {
    const tables = new Tables()
      .page(PAGE)
      .write(L0, L1 + 3, [62])
      .write(L2, L3 + 3, [59, 60]);
    expect(rights(tables, stage())).toBe(READ);
  });

  test("WXN: what is writable is not executable", () => {
    const wxn = stage({ writeImpliesNoExecute: true });
    expect(rights(new Tables().page(PAGE), wxn)).toBe(ALL_DATA);
    expect(rights(new Tables().page(PAGE & ~0x40), wxn)).toBe(privileged(DATA) | RIGHT_EXECUTE);
    expect(rights(new Tables().page(PAGE | 0x80), wxn)).toBe(READ | EXECUTE);
  });

  test("PAN: privileged accesses may not use what unprivileged ones can", () => {
    const pan = stage({ privilegedAccessNever: true });
    expect(rights(new Tables().page(PAGE), pan)).toBe(DATA | RIGHT_EXECUTE);
    expect(rights(new Tables().page(PAGE & ~0x40), pan)).toBe(privileged(DATA) | EXECUTE);
  });

  test("a regime with one privilege knows no AP[1] and no PXN", () => {
    const one = stage({ onePrivilege: true });
    expect(rights(new Tables().page(PAGE & ~0x40, [53]), one)).toBe(ALL_DATA | EXECUTE);
    expect(rights(new Tables().page(PAGE | 0x80, [54]), one)).toBe(READ);
  });
});

describe("stage-2 permissions", () => {
  test.each([
    ["S2AP 00", 0b00, [], EXECUTE],
    ["S2AP 01: read", 0b01, [], READ | EXECUTE],
    ["S2AP 10: write", 0b10, [], RIGHT_WRITE | RIGHT_PRIVILEGED_WRITE | EXECUTE],
    ["S2AP 11: both", 0b11, [], ALL_DATA | EXECUTE],
    ["XN 01: not with privilege", 0b01, [53], READ | RIGHT_EXECUTE],
    ["XN 10: not at all", 0b01, [54], READ],
    ["XN 11: only with privilege", 0b01, [53, 54], READ | RIGHT_PRIVILEGED_EXECUTE],
  ])("%s", (_, s2ap, upperBits, expected) => {
    expect(rights(new Tables().page((PAGE2 & ~0xc0) | (s2ap << 6), upperBits), stage2())).toBe(expected);
  });

  test("without XNX only bit 54 counts", () => {
    const old = stage2({ executePerPrivilege: false });
    expect(rights(new Tables().page(PAGE2, [53]), old)).toBe(ALL_DATA | EXECUTE);
    expect(rights(new Tables().page(PAGE2, [53, 54]), old)).toBe(ALL_DATA);
  });

  test("tables take nothing away: their upper bits are ignored", () => {
    expect(rights(new Tables().page(PAGE2, [], [59, 60, 61, 62]), stage2())).toBe(ALL_DATA | EXECUTE);
  });
});

describe("under a stage 2", () => {
  /** IPA = PA + 0x10_0000_0000, but for what is refused. */
  class Shifted implements TableTranslator {
    static readonly offset = 0x10_0000_0000;
    readonly asked: [number, boolean][] = [];
    refuseAt: ((ipa: number, write: boolean) => boolean) | undefined;

    translateTable(ipa: number, write: boolean): number {
      this.asked.push([ipa, write]);
      return this.refuseAt?.(ipa, write) ? -1 : ipa - Shifted.offset;
    }
  }

  function nested(leaf: number, upperBits: readonly number[] = []): Tables {
    const { offset } = Shifted;
    return new Tables()
      .write(L0, L1 + offset + 3)
      .write(L1, L2 + offset + 3)
      .write(L2, L3 + offset + 3)
      .write(L3 + 8, 0x8000_5000 + leaf, upperBits);
  }
  const root = L0 + Shifted.offset;

  test("every descriptor's address is an IPA", () => {
    const { walker } = nested(PAGE);
    const shifted = new Shifted();
    expect(walker.walk(stage({ root }), IOVA, RIGHT_READ, shifted)).toBe(true);
    expect(walker.output).toBe(0x8000_5234);
    expect(shifted.asked).toEqual([L0, L1, L2, L3 + 8].map((pa) => [pa + Shifted.offset, false]));
    expect([walker.descriptorAddress, walker.descriptorPhysical]).toEqual([L3 + 8 + Shifted.offset, L3 + 8]);
  });

  test("a table that stage 2 refuses ends the walk there", () => {
    const { walker } = nested(PAGE);
    const shifted = new Shifted();
    shifted.refuseAt = (ipa) => ipa === L2 + Shifted.offset;
    expect(walker.walk(stage({ root }), IOVA, RIGHT_READ, shifted)).toBe(false);
    expect(walker).toMatchObject({
      fault: "table",
      level: 2,
      table: L2 + Shifted.offset,
      descriptorAddress: L2 + Shifted.offset,
      descriptorPhysical: -1,
      faultOnFetch: true,
    });
  });

  test("an abort tells both addresses", () => {
    const { walker } = nested(PAGE).write(L1, Shifted.offset + 0x3003);
    expect(walker.walk(stage({ root }), IOVA, RIGHT_READ, new Shifted())).toBe(false);
    expect(walker).toMatchObject({
      fault: "external-abort",
      descriptorAddress: Shifted.offset + 0x3000,
      descriptorPhysical: 0x3000,
    });
  });

  test("setting the access flag needs stage 2's leave to write", () => {
    const tables = nested(PAGE & ~0x400);
    const shifted = new Shifted();
    shifted.refuseAt = (_, write) => write;
    expect(tables.walker.walk(stage({ root, setAccessFlag: true }), IOVA, RIGHT_READ, shifted)).toBe(false);
    expect(tables.walker.fault).toBe("table");
    expect(tables.descriptor(L3 + 8)).toBe("00000000_80005343");
    shifted.refuseAt = undefined;
    expect(tables.walker.walk(stage({ root, setAccessFlag: true }), IOVA, RIGHT_READ, shifted)).toBe(true);
    expect(tables.descriptor(L3 + 8)).toBe("00000000_80005743");
  });
});
