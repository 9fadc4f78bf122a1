// Runs in a browser.
/**
 * Changing a stream table entry or a context descriptor that the hardware may read at any moment.
 *
 * The hardware reads an entry in 64-bit words, one at a time, and remembers it until it is told to forget. So a change
 * must never show it a mixture: at every sync the entry is, in the bits that the hardware looks at, the old one, the new
 * one, or invalid (invariant 29; reference 6.7, "Entry writer"). Which bits it looks at depends on the entry: see
 * the {@link EntryKind}.
 *
 * Bits that neither configuration looks at change first. If then a single word differs, it is written alone, and the
 * hardware goes from old to new in one step. If more differ the entry is invalid in between, and a transaction that meets
 * it then fails: who must not let that happen makes a new table and changes the one word that leads to it, as
 * `context-table.ts` does.
 */
import type { PhysicalMemory } from "../../../memory/index.ts";
import type { Task } from "../../../runtime/index.ts";

/** STEs and CDs alike: eight words of 64 bits, each as two of 32, low one first. The first holds the valid bit. */
export const ENTRY_WORDS = 16;
export type Entry = Uint32Array;

export function newEntry(): Entry {
  return new Uint32Array(ENTRY_WORDS);
}

/** How the hardware reads entries of one kind. */
export interface EntryKind {
  /** V, in the first 32 bits. */
  readonly validBit: number;
  /** The bits that it looks at in this entry. */
  used(entry: Entry): Entry;
  /** Among them, those that may change at any moment between these two entries without harm. */
  harmless(from: Entry, to: Entry): Entry;
}

export function readEntry(memory: PhysicalMemory, address: number): Entry {
  const entry = newEntry();
  for (let word = 0; word < ENTRY_WORDS; word++) entry[word] = memory.readWord(address + word * 4);
  return entry;
}

export function areEqual(a: Entry, b: Entry): boolean {
  return a.every((word, i) => word === b[i]);
}

/** Writes a whole entry that the hardware cannot reach yet. */
export function fillEntry(memory: PhysicalMemory, address: number, entry: Entry): void {
  for (let word = 0; word < ENTRY_WORDS; word++) memory.writeWord(address + word * 4, entry[word]);
}

/**
 * Makes the entry at `address` equal to `target`. `sync` returns when the hardware has forgotten what it knew of the
 * entry. Cannot fail. False if nothing had to be written.
 */
export function* writeEntry(
  memory: PhysicalMemory,
  address: number,
  target: Entry,
  kind: EntryKind,
  sync: () => Task<void>,
): Task<boolean> {
  const current = readEntry(memory, address);
  let written = false;
  for (const step of stepsBetween(current, target, kind)) {
    if (!writeDoublewords(memory, address, step)) continue;
    written = true;
    yield* sync();
  }
  return written;
}

/** What the entry is after each sync. */
function stepsBetween(current: Entry, target: Entry, kind: EntryKind): Entry[] {
  const { prepared, critical } = planChange(current, target, kind);
  if (critical.length === 0) return [target];
  if (critical.length === 1) return [prepared, withDoubleword(prepared, target, critical[0]), target];
  const invalid = current.slice();
  invalid[0] &= ~kind.validBit;
  return [invalid, withDoubleword(target, invalid, 0), target];
}

/** True if {@link writeEntry} can go from one to the other without an invalid entry in between. */
export function changesInOneStep(current: Entry, target: Entry, kind: EntryKind): boolean {
  return planChange(current, target, kind).critical.length <= 1;
}

/**
 * `prepared` is the current entry with the target's values where the hardware does not look; `critical` are the 64-bit
 * words that must still change and that it will look at.
 */
function planChange(
  current: Entry,
  target: Entry,
  kind: EntryKind,
): { readonly prepared: Entry; readonly critical: readonly number[] } {
  const harmless = kind.harmless(current, target);
  const usedNow = without(kind.used(current), harmless);
  const usedThen = without(kind.used(target), harmless);
  const prepared = newEntry();
  for (let word = 0; word < ENTRY_WORDS; word++) {
    prepared[word] = (current[word] & usedNow[word]) | (target[word] & ~usedNow[word]);
  }
  return { prepared, critical: doublewords.filter((i) => differs(prepared, target, usedThen, i)) };
}

/** The eight 64-bit words, by the index of their low halves. */
const doublewords: readonly number[] = [0, 2, 4, 6, 8, 10, 12, 14];

function without(mask: Entry, excepted: Entry): Entry {
  const rest = newEntry();
  for (let word = 0; word < ENTRY_WORDS; word++) rest[word] = mask[word] & ~excepted[word];
  return rest;
}

function differs(a: Entry, b: Entry, mask: Entry, i: number): boolean {
  return (((a[i] ^ b[i]) & mask[i]) | ((a[i + 1] ^ b[i + 1]) & mask[i + 1])) !== 0;
}

function withDoubleword(entry: Entry, source: Entry, i: number): Entry {
  const changed = entry.slice();
  changed[i] = source[i];
  changed[i + 1] = source[i + 1];
  return changed;
}

/** Writes the 64-bit words that differ from memory, each in one piece; false if there were none. */
function writeDoublewords(memory: PhysicalMemory, address: number, entry: Entry): boolean {
  let changed = false;
  for (const i of doublewords) {
    const at = address + i * 4;
    if (memory.readWord(at) === entry[i] && memory.readWord(at + 4) === entry[i + 1]) continue;
    memory.writeDoubleword(at, entry[i], entry[i + 1]);
    changed = true;
  }
  return changed;
}
