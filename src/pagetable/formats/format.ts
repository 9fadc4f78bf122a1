// Runs in a browser.
/**
 * A format says how one kind of page table looks: how many levels, what each spans, what the bits of an entry mean. It
 * is data and small functions without state; the mapper ({@link ../table.ts}) and the walker ({@link ../walk.ts}) are
 * written once, over it.
 *
 * An entry is a pair of 32-bit words, `low` and `high`. Levels are numbered as the format's specification numbers
 * them: they ascend from `startLevel` at the root to `lastLevel`, whose entries are leaves only.
 */
export const INVALID = 0;
export const TABLE = 1;
export const LEAF = 2;
/** What an entry is, to the hardware. */
export type EntryKind = typeof INVALID | typeof TABLE | typeof LEAF;

/** The bits of a leaf besides its address. */
export interface LeafAttributes {
  readonly low: number;
  readonly high: number;
}

export interface Format {
  /** For people: `"LPAE stage 1, 4K granule, 48-bit input"`. */
  readonly label: string;
  /** Addresses to translate are below `inputEnd` = 2^`inputBits`. */
  readonly inputBits: number;
  readonly inputEnd: number;
  /** Addresses that come out are below `outputEnd` = 2^`outputBits`. */
  readonly outputBits: number;
  readonly outputEnd: number;
  /** Bytes of the smallest leaf. */
  readonly granule: number;
  readonly startLevel: number;
  readonly lastLevel: number;
  /** Entries of the root and of every other table. */
  readonly rootEntries: number;
  readonly tableEntries: number;
  /** Sizes of leaves in bytes, ascending. */
  readonly pageSizes: readonly number[];

  /** Bytes that one entry at `level` spans, and log2 of them. */
  span(level: number): number;
  shift(level: number): number;
  /** May an entry at `level` be a leaf? */
  hasLeaves(level: number): boolean;
  kind(level: number, low: number): EntryKind;
  /** The address in a valid entry, as words. */
  addressHigh(low: number, high: number): number;
  addressLow(low: number, high: number): number;

  leafLow(level: number, physical: number, attributes: LeafAttributes): number;
  leafHigh(physical: number, attributes: LeafAttributes): number;
  /** The words of an entry at `level` for the next level's table at `physical`. */
  tableLow(physical: number, level: number): number;
  tableHigh(physical: number): number;

  /** PROT_* to bits, and back. */
  attributes(prot: number): LeafAttributes;
  prot(low: number, high: number): number;
  /** All bits of a leaf that the smaller leaves have too into which it can be split. */
  splitAttributes(low: number, high: number): LeafAttributes;

  /** Where a leaf may take several entries. Absent: every leaf is one entry. */
  readonly runs?: LeafRuns;
  /** Where hardware marks the leaves that it wrote through. Absent: it does not. */
  readonly dirty?: DirtyBit | undefined;
}

/**
 * Leaves of several entries: 2^n of them side by side, aligned to their number, all of the same bits, which also say how
 * many they are. The address in an entry is that of the whole leaf. The functions above are about leaves of one entry.
 */
export interface LeafRuns {
  /** How many entries a leaf at `level` may have, descending; 1 is among them if one is enough. */
  counts(level: number): readonly number[];
  /** How many entries the leaf has that this entry at `level` belongs to. */
  count(level: number, low: number, high: number): number;
  low(level: number, physical: number, count: number, attributes: LeafAttributes): number;
  high(level: number, physical: number, count: number, attributes: LeafAttributes): number;
}

/** The mark of an entry that was written through. It is in the low word. */
export interface DirtyBit {
  isSet(low: number, high: number): boolean;
  /** The low word with the mark, and without. */
  set(low: number): number;
  cleared(low: number): number;
}
