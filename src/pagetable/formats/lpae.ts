// Runs in a browser.
/**
 * ARM LPAE tables: VMSAv8-64 (Arm DDI 0487, chapter D8; reference 6.8), stage 1 and stage 2.
 *
 * Three granules: a table has the size of a page, so it resolves 9, 11 or 13 bits, and levels 0 to 3 suffice for 48
 * bits (52 with the 64K granule and `address52`). Stage 1 begins at the level that its input size asks for. Stage 2 may
 * begin one level further down and put up to 16 tables side by side instead; the level is stated in SL0.
 */
import { assert } from "../../runtime/index.ts";
import { highWord } from "../words.ts";
import { type DirtyBit, type EntryKind, type Format, INVALID, LEAF, type LeafAttributes, TABLE } from "./format.ts";
import {
  CONTIGUOUS,
  DIRTY_BIT_MODIFIER,
  READ_ONLY,
  stage1Attributes,
  stage1Prot,
  stage2Attributes,
  stage2Prot,
} from "./lpae-attributes.ts";

export type Granule = 4096 | 16384 | 65536;

/** Bits of an entry, in its low word. */
export const VALID = 1;
/** At levels 0 to 2: a table and not a block. At level 3: must be 1. */
export const TABLE_OR_PAGE = 2;

/** Low word: bits 11:2 of a leaf are attributes with every granule. High word: bits 47:32 of the address. */
const LOW_ATTRIBUTES = 0xffc;
const ADDRESS_HIGH = 0xffff;

const LAST_LEVEL = 3;
const MOST_ROOT_TABLES_BITS = 4;

export interface LpaeOptions {
  readonly stage: 1 | 2;
  readonly granule: Granule;
  /** 64 - T0SZ: VAs (stage 1) or IPAs (stage 2) are below 2^inputBits. */
  readonly inputBits: number;
  /** IPS or S2PS: what comes out, tables included, is below 2^outputBits. 32 to 48, or 52 with `address52`. */
  readonly outputBits: number;
  /** Stage 2: the level that SL0 says. Default: the lowest one possible (tables side by side rather than a further level). */
  readonly startLevel?: number;
  /**
   * The implementation has 52-bit addresses (FEAT_LPA): with the 64K granule bits 15:12 of an entry are bits 51:48 of
   * its address, and level 1 may hold blocks of 4T. Default: if `outputBits` is more than 48.
   */
  readonly address52?: boolean;
  /** Stage 1, for mapping: leaves that may be written carry DBM, so that hardware with HD can tell clean from dirty. */
  readonly dirty?: boolean;
  /** Stage 2, for mapping: STE.S2FWB is set, so MemAttr says what the result is and not what to combine. */
  readonly forceWriteBack?: boolean;
}

/** Bits that a table of this granule resolves. */
function bitsPerLevel(granule: Granule): number {
  return Math.log2(granule) - 3;
}

/** log2 of what an entry at `level` spans. */
function levelShift(granule: Granule, level: number): number {
  return Math.log2(granule) + (LAST_LEVEL - level) * bitsPerLevel(granule);
}

/**
 * May a stage-2 walk of `inputBits` begin at `startLevel`? The first level must resolve at least one bit, with at most
 * 16 tables side by side (DDI 0487 D8.2.2). What PAMax forbids beyond that is for the owner of the STE to check.
 */
export function stage2StartIsLegal(granule: Granule, inputBits: number, startLevel: number): boolean {
  const bits = inputBits - levelShift(granule, startLevel);
  return bits >= 1 && bits <= bitsPerLevel(granule) + MOST_ROOT_TABLES_BITS;
}

/** The level at which stage 1 begins: as far down as one table resolves the input. */
function stage1Start(granule: Granule, inputBits: number): number {
  const levels = Math.ceil((inputBits - Math.log2(granule)) / bitsPerLevel(granule));
  return LAST_LEVEL + 1 - levels;
}

/** As far down as 16 tables resolve the input; with 4K pages not level 3, which SL0 has no value for. */
function stage2Start(granule: Granule, inputBits: number): number {
  const start = stage1Start(granule, inputBits - MOST_ROOT_TABLES_BITS);
  return granule === 4096 ? Math.min(start, 2) : start;
}

/** Where blocks may be, as a set of levels (bit n: level n). Level 3, with its pages, is in all of them. */
function leafLevels(granule: Granule, address52: boolean): number {
  if (granule === 4096) return 0b1110;
  return granule === 65536 && address52 ? 0b1110 : 0b1100;
}

export class LpaeFormat implements Format {
  readonly stage: 1 | 2;
  readonly granule: Granule;
  readonly inputBits: number;
  readonly inputEnd: number;
  readonly outputBits: number;
  readonly outputEnd: number;
  readonly startLevel: number;
  readonly lastLevel = LAST_LEVEL;
  readonly rootEntries: number;
  readonly tableEntries: number;
  readonly bitsPerLevel: number;
  readonly pageSizes: readonly number[];
  private readonly granuleBits: number;
  /** Bits 31:granuleBits, where an entry keeps the lower part of its address. */
  /** Only with {@link LpaeOptions.dirty}. */
  readonly dirty: DirtyBit | undefined;
  private readonly lowMask: number;
  /** Bits 15:12 of an entry are bits 51:48 of its address. */
  private readonly folded: boolean;
  private readonly leafLevels: number;
  private readonly spans: readonly number[];
  /** Of the values that were asked for. */
  private readonly byProt: LeafAttributes[] = [];
  private readonly forceWriteBack: boolean;

  constructor(options: LpaeOptions) {
    const { stage, granule, inputBits, outputBits } = options;
    const address52 = options.address52 ?? outputBits > 48;
    const start =
      stage === 1 ? stage1Start(granule, inputBits) : (options.startLevel ?? stage2Start(granule, inputBits));
    assert(
      outputBits >= 32 && (outputBits <= 48 || (outputBits === 52 && granule === 65536 && address52)),
      () => `${outputBits} bits of output with a granule of ${granule}`,
    );
    assert(
      stage === 1
        ? inputBits > Math.log2(granule) && start >= 0 && inputBits <= (granule === 65536 ? 52 : 48)
        : stage2StartIsLegal(granule, inputBits, start) && start >= 0 && start <= LAST_LEVEL && inputBits <= 52,
      () =>
        `stage ${stage} with a granule of ${granule} cannot begin at level ${start} with ${inputBits} bits of input`,
    );
    this.stage = stage;
    this.granule = granule;
    this.granuleBits = Math.log2(granule);
    this.bitsPerLevel = bitsPerLevel(granule);
    this.inputBits = inputBits;
    this.inputEnd = 2 ** inputBits;
    this.outputBits = outputBits;
    this.outputEnd = 2 ** outputBits;
    this.startLevel = start;
    this.rootEntries = 2 ** (inputBits - levelShift(granule, start));
    this.tableEntries = granule / 8;
    this.lowMask = -granule;
    this.folded = address52 && granule === 65536;
    this.leafLevels = leafLevels(granule, address52);
    this.spans = [0, 1, 2, 3].map((level) => 2 ** levelShift(granule, level));
    this.pageSizes = [3, 2, 1, 0]
      .filter((level) => level >= start && this.hasLeaves(level))
      .map((level) => this.spans[level]);
    this.dirty = options.dirty ? writableDirty : undefined;
    this.forceWriteBack = options.forceWriteBack ?? false;
  }

  get label(): string {
    return `LPAE stage ${this.stage}, ${this.granule / 1024}K granule, ${this.inputBits}-bit input, ${this.outputBits}-bit output`;
  }

  /** T0SZ of the CD, S2T0SZ of the STE. */
  get t0sz(): number {
    return 64 - this.inputBits;
  }

  /** S2SL0 of the STE: how it says `startLevel` for this granule. */
  get sl0(): number {
    if (this.granule !== 4096) return 3 - this.startLevel;
    return this.startLevel === 3 ? 3 : 2 - this.startLevel;
  }

  /** Tables side by side at the root (stage 2). */
  get startTables(): number {
    return Math.max(1, this.rootEntries / this.tableEntries);
  }

  shift(level: number): number {
    return this.granuleBits + (LAST_LEVEL - level) * this.bitsPerLevel;
  }

  span(level: number): number {
    return this.spans[level];
  }

  hasLeaves(level: number): boolean {
    return ((this.leafLevels >> level) & 1) !== 0;
  }

  kind(level: number, low: number): EntryKind {
    if ((low & VALID) === 0) return INVALID;
    if (level === LAST_LEVEL) return (low & TABLE_OR_PAGE) !== 0 ? LEAF : INVALID;
    if ((low & TABLE_OR_PAGE) !== 0) return TABLE;
    return this.hasLeaves(level) ? LEAF : INVALID;
  }

  addressHigh(low: number, high: number): number {
    return this.folded ? (high & ADDRESS_HIGH) | ((low & 0xf000) << 4) : high & ADDRESS_HIGH;
  }

  addressLow(low: number): number {
    return low & this.lowMask;
  }

  leafLow(level: number, physical: number, attributes: LeafAttributes): number {
    return this.addressBits(physical) | attributes.low | (level === LAST_LEVEL ? VALID | TABLE_OR_PAGE : VALID);
  }

  leafHigh(physical: number, attributes: LeafAttributes): number {
    return (highWord(physical) & ADDRESS_HIGH) | attributes.high;
  }

  tableLow(physical: number): number {
    return this.addressBits(physical) | VALID | TABLE_OR_PAGE;
  }

  tableHigh(physical: number): number {
    return highWord(physical) & ADDRESS_HIGH;
  }

  attributes(prot: number): LeafAttributes {
    return (this.byProt[prot] ??=
      this.stage === 1
        ? stage1Attributes(prot, this.dirty !== undefined)
        : stage2Attributes(prot, this.forceWriteBack));
  }

  prot(low: number, high: number): number {
    return this.stage === 1 ? stage1Prot(low, high) : stage2Prot(low, high);
  }

  /** The contiguous hint is about neighbours, so it does not pass on. */
  splitAttributes(low: number, high: number): LeafAttributes {
    return { low: low & LOW_ATTRIBUTES, high: high & ~(CONTIGUOUS | ADDRESS_HIGH) };
  }

  private addressBits(physical: number): number {
    const low = physical | 0;
    return this.folded ? low | ((highWord(physical) >>> 4) & 0xf000) : low;
  }
}

/**
 * Stage 1 with DBM: a leaf that may be written is dirty while AP[2] says writable, which is how it begins; hardware with HD
 * takes AP[2] away again at the first write to a clean one (DDI 0487, hardware management of the dirty state).
 */
const writableDirty: DirtyBit = {
  isSet: (low, high) => (high & DIRTY_BIT_MODIFIER) !== 0 && (low & READ_ONLY) === 0,
  set: (low) => low & ~READ_ONLY,
  cleared: (low) => low | READ_ONLY,
};

/** The format of LPAE tables with these parameters. Impossible ones are an assertion: who decodes a CD or STE checks first. */
export function lpae(options: LpaeOptions): LpaeFormat {
  return new LpaeFormat(options);
}
