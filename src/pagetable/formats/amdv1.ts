// Runs in a browser.
/**
 * AMD's I/O page tables, version 1 (AMD I/O Virtualization Technology Specification, 2.2.3; reference 4.3).
 *
 * A table has 512 entries of 8 bytes: each level resolves 9 bits above the granule. An entry says in *Next Level* what it
 * is: 0 a leaf of one entry, 1 to 6 a table of that level, 7 a leaf of several entries, whose size is in the lowest bits
 * of its address: as many ones above the granule as the size has bits above two granules. Hardware that tracks writes
 * sets *Dirty* in the one entry that it used, whatever the leaf.
 *
 * The specification has levels 1, the lowest, to 6 and pages of 4 KiB. Here levels are numbered from 0 at the root
 * downwards, as everywhere in this room, and a granule of less is possible: then an address is stored shifted up, so that
 * the field's 40 bits give out that much less.
 */
import { PAGE_SHIFT } from "../../memory/index.ts";
import { assert } from "../../runtime/index.ts";
import { PROT_CACHE, PROT_READ, PROT_WRITE } from "../prot.ts";
import { highWord, joinWords } from "../words.ts";
import {
  type DirtyBit,
  type EntryKind,
  type Format,
  INVALID,
  LEAF,
  type LeafAttributes,
  type LeafRuns,
  TABLE,
} from "./format.ts";

/** Low word: present; dirty; Next Level in bits 11:9. */
const PRESENT = 1;
const DIRTY = 0x40;
const NEXT_LEVEL_SHIFT = 9;
const NEXT_LEVEL_MASK = 7;
/** Next Level of a leaf of several entries. */
const SEVERAL = 7;
/** High word: force coherent, readable, writable. In an entry for a table the latter two restrict what is below. */
const FORCE_COHERENT = 0x1000_0000;
const READABLE = 0x2000_0000;
const WRITABLE = 0x4000_0000;
/** The address: bits 51:12. */
const FIELD_LOW = -4096;
const FIELD_HIGH = 0xf_ffff;
const FIELD_BITS = 40;

const ENTRIES = 512;
const BITS_PER_LEVEL = 9;
const HIGHEST_LEVEL = 6;

export interface Amdv1Options {
  /** log2 of the bytes of one entry of the lowest table: 12 in hardware, less in emulation. */
  readonly granuleBits: number;
  readonly inputBits: number;
  /** Sizes of leaves in bytes, ascending powers of two. */
  readonly pageSizes: readonly number[];
}

export class Amdv1Format implements Format {
  readonly inputBits: number;
  readonly inputEnd: number;
  readonly outputBits: number;
  readonly outputEnd: number;
  readonly granule: number;
  readonly startLevel = 0;
  readonly lastLevel: number;
  readonly rootEntries: number;
  readonly tableEntries = ENTRIES;
  readonly pageSizes: readonly number[];
  readonly runs: LeafRuns;
  readonly dirty: DirtyBit = {
    isSet: (low) => (low & DIRTY) !== 0,
    set: (low) => low | DIRTY,
    cleared: (low) => low & ~DIRTY,
  };
  private readonly granuleBits: number;
  /** How far an address is shifted up in its field. */
  private readonly lift: number;
  private readonly spans: readonly number[];
  /** By level: how many entries its leaves may have, descending. */
  private readonly counts: readonly (readonly number[])[];

  constructor({ granuleBits, inputBits, pageSizes }: Amdv1Options) {
    const levels = Math.ceil((inputBits - granuleBits) / BITS_PER_LEVEL);
    assert(levels >= 1 && levels <= HIGHEST_LEVEL, () => `${inputBits} bits of input take ${levels} levels`);
    assert(granuleBits <= PAGE_SHIFT, () => `a granule of ${granuleBits} bits is above that of the specification`);
    this.granuleBits = granuleBits;
    this.lift = PAGE_SHIFT - granuleBits;
    this.inputBits = inputBits;
    this.inputEnd = 2 ** inputBits;
    this.outputBits = FIELD_BITS + granuleBits;
    this.outputEnd = 2 ** this.outputBits;
    this.granule = pageSizes[0];
    this.pageSizes = pageSizes;
    this.lastLevel = levels - 1;
    this.spans = Array.from({ length: levels }, (_, level) => 2 ** this.shift(level));
    this.rootEntries = 2 ** (inputBits - this.shift(0));
    this.counts = this.spans.map((span) =>
      pageSizes
        .map((size) => size / span)
        .filter((count) => count >= 1 && count < ENTRIES)
        .reverse(),
    );
    this.runs = {
      counts: (level) => this.counts[level],
      count: (level, low, high) => (nextLevel(low) === SEVERAL ? this.sizeOf(low, high) / this.spans[level] : 1),
      low: (level, physical, count, { low }) => {
        const several = count > 1 ? SEVERAL << NEXT_LEVEL_SHIFT : 0;
        return this.fieldLow(this.sized(level, physical, count)) | several | PRESENT | low;
      },
      high: (level, physical, count, { high }) => this.fieldHigh(this.sized(level, physical, count)) | high,
    };
  }

  get label(): string {
    return `AMDv1, granule of ${2 ** this.granuleBits}, ${this.inputBits}-bit input`;
  }

  shift(level: number): number {
    return this.granuleBits + (this.lastLevel - level) * BITS_PER_LEVEL;
  }

  span(level: number): number {
    return this.spans[level];
  }

  hasLeaves(level: number): boolean {
    return this.counts[level].length > 0;
  }

  kind(_level: number, low: number): EntryKind {
    if ((low & PRESENT) === 0) return INVALID;
    const next = nextLevel(low);
    return next === 0 || next === SEVERAL ? LEAF : TABLE;
  }

  addressHigh(low: number, high: number): number {
    const field = (high & FIELD_HIGH) >>> this.lift;
    if (nextLevel(low) !== SEVERAL) return field;
    return highWord(this.startOf(low, high));
  }

  addressLow(low: number, high: number): number {
    if (nextLevel(low) === SEVERAL) return this.startOf(low, high) | 0;
    return this.lift === 0 ? low & FIELD_LOW : ((low & FIELD_LOW) >>> this.lift) | (high << (32 - this.lift));
  }

  leafLow(_level: number, physical: number, { low }: LeafAttributes): number {
    return this.fieldLow(physical) | PRESENT | low;
  }

  leafHigh(physical: number, { high }: LeafAttributes): number {
    return this.fieldHigh(physical) | high;
  }

  tableLow(physical: number, level: number): number {
    return this.fieldLow(physical) | ((this.lastLevel - level) << NEXT_LEVEL_SHIFT) | PRESENT;
  }

  tableHigh(physical: number): number {
    return this.fieldHigh(physical) | READABLE | WRITABLE;
  }

  attributes(prot: number): LeafAttributes {
    const readable = (prot & PROT_READ) !== 0 ? READABLE : 0;
    const writable = (prot & PROT_WRITE) !== 0 ? WRITABLE : 0;
    const coherent = (prot & PROT_CACHE) !== 0 ? FORCE_COHERENT : 0;
    return { low: 0, high: readable | writable | coherent };
  }

  prot(_low: number, high: number): number {
    const readable = (high & READABLE) !== 0 ? PROT_READ : 0;
    const writable = (high & WRITABLE) !== 0 ? PROT_WRITE : 0;
    return readable | writable | ((high & FORCE_COHERENT) !== 0 ? PROT_CACHE : 0);
  }

  splitAttributes(low: number, high: number): LeafAttributes {
    return { low: low & DIRTY, high: high & (FORCE_COHERENT | READABLE | WRITABLE) };
  }

  /** What the address field of a leaf holds: above its start, ones that tell its size. */
  private sized(level: number, physical: number, count: number): number {
    return count === 1 ? physical : physical + (count * this.spans[level]) / 2 - 2 ** this.granuleBits;
  }

  /** Bytes of a leaf of several entries: by the lowest zero of its address field. */
  private sizeOf(low: number, high: number): number {
    const zerosLow = ~low & FIELD_LOW;
    const zero = zerosLow !== 0 ? lowestBit(zerosLow) : 32 + lowestBit(~high & FIELD_HIGH);
    return 2 ** (zero + 1 - this.lift);
  }

  private startOf(low: number, high: number): number {
    const address = joinWords(high & FIELD_HIGH, low & FIELD_LOW) / 2 ** this.lift;
    return address - (this.sizeOf(low, high) / 2 - 2 ** this.granuleBits);
  }

  private fieldLow(physical: number): number {
    return (physical | 0) << this.lift;
  }

  private fieldHigh(physical: number): number {
    return highWord(physical * 2 ** this.lift) & FIELD_HIGH;
  }
}

function nextLevel(low: number): number {
  return (low >>> NEXT_LEVEL_SHIFT) & NEXT_LEVEL_MASK;
}

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

/** The format of AMDv1 tables with these parameters. */
export function amdv1(options: Amdv1Options): Amdv1Format {
  return new Amdv1Format(options);
}
