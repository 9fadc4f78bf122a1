// Runs in a browser.
/**
 * Page tables as software writes them: one mapper over every {@link Format}.
 *
 * What lives where: the entries are in physical memory and nowhere else, since the hardware reads them there. In
 * software there is only, for each table, how many of its entries are in use.
 *
 * Always true between calls: a table that is reachable is in use or the root; no entry is an empty table; a leaf is as
 * large as alignment and size allowed when it was mapped, or as {@link PageTable.split} made it. `map` is all or
 * nothing. `unmap` and `free` cannot fail and allocate nothing in physical memory.
 *
 * A leaf has one entry or, where the format says so, several side by side; it comes and goes whole.
 *
 * A valid entry is never visible half written. The specification asks for a single-copy atomic store of 64 bits; here it
 * is an order of two stores, since bit 0 of the low word alone makes an entry valid: the high word is written before the
 * low one when an entry becomes valid, the low one first when it ceases to be. A new table is filled before it is linked.
 * A table that unmap unlinks is not freed: the hardware may still walk it, until its owner has invalidated.
 *
 * Design principle: one pass that stops where it cannot go on, and says how far it came. Undoing is then an unmap of just
 * that much, and the only way to remove a table is the one of `unmap`. Its price: a failing map has to unmap again.
 *
 * Nothing here blocks, so no other task sees a table between two stores. Callers lock: one change at a time.
 */
import { type PhysicalMemory, wordIndex } from "../memory/index.ts";
import { assert, EINVAL, ENOENT, Refusal, refuse, type System } from "../runtime/index.ts";
import { type DirtyBit, type Format, INVALID, LEAF, type LeafAttributes, TABLE } from "./formats/format.ts";
import { PROT_READ, PROT_WRITE } from "./prot.ts";
import { beyondInput, beyondOutput, occupied, unaligned, uselessProt } from "./refusals.ts";
import { Tables } from "./tables.ts";
import { bitsFrom, hex, highWord, joinWords } from "./words.ts";

/** What an unmap removed and the hardware may still remember (an UnmapGather of iommu/driver.ts). */
export interface UnmapResult {
  /** The range gathered before this unmap; none while `last < start`. The caller extends it, afterwards. */
  readonly start: bigint;
  readonly last: bigint;
  /** Bytes of each leaf gathered, if all have the same; 0 if not. */
  leafSize: number;
  /** Frames of unlinked tables, each by its number: `memory.free(pfn)` once the hardware forgot them. */
  readonly freedTables: number[];
}

/** What an IOVA translates to. */
export interface Translation {
  readonly physical: number;
  readonly prot: number;
  /** Bytes of the leaf. */
  readonly size: number;
}

/** One leaf of a table. */
export interface Leaf {
  readonly iova: number;
  readonly physical: number;
  readonly size: number;
  readonly prot: number;
}

const NOTHING_REMOVED = -1;

export class PageTable {
  readonly format: Format;
  /** Physical address of the root table, aligned to its size. */
  readonly root: number;
  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly tables: Tables;
  /** The level of the table that {@link enclosing} found. */
  private level = 0;
  /** Why the mapping under way stopped early. */
  private obstacle: Refusal | undefined = undefined;
  /** The size of all leaves that the unmapping under way removed; 0 if they differ. */
  private removedLeaf = NOTHING_REMOVED;

  /** An empty table. Refusal ENOMEM. */
  constructor(system: System, memory: PhysicalMemory, format: Format) {
    this.system = system;
    this.memory = memory;
    this.format = format;
    this.tables = new Tables(system, memory, format);
    this.root = this.tables.allocateRoot();
  }

  /** Frames (of 4 KiB) that its tables take, those unlinked by unmap not counted. */
  get tableFrames(): number {
    return this.tables.size;
  }

  /**
   * Maps `size` bytes at `iova` to `physical`, with the largest leaves that fit. All or nothing.
   *
   * Refusals (reference 2.9): EINVAL without a right to read or write, or not made of smallest pages; ERANGE beyond
   * what the format takes in or gives out; EADDRINUSE if a part is mapped; ENOMEM.
   */
  map(iova: number, physical: number, size: number, prot: number): void {
    const { format } = this;
    if ((prot & (PROT_READ | PROT_WRITE)) === 0) throw uselessProt(iova);
    if (((iova | physical | size) & (format.granule - 1)) !== 0 || size <= 0) {
      throw unaligned(format, iova, physical, size);
    }
    if (iova < 0 || iova + size > format.inputEnd) throw beyondInput(format, iova, size);
    if (physical < 0 || physical + size > format.outputEnd) throw beyondOutput(format, physical, size);
    const table = this.enclosing(iova, iova + size - 1);
    const done = this.fill(this.level, table, iova, physical, size, format.attributes(prot));
    if (done < size) this.giveUp(iova, done);
    if (this.system.events.on) {
      this.system.events.emit({ kind: "pagetable.range.map", root: this.root, iova, physical, size, prot });
    }
  }

  /**
   * Removes the leaves from `iova` on, up to `size` bytes; a larger leaf goes whole, and a hole ends it (reference 2.9).
   * Returns the bytes removed: `iova` + result is where it stopped. Tables that became empty are unlinked and their
   * frames added to `gather.freedTables`. Refusal ERANGE beyond what the format takes in.
   */
  unmap(iova: number, size: number, gather: UnmapResult): number {
    if (iova < 0 || iova + size > this.format.inputEnd) throw beyondInput(this.format, iova, size);
    this.removedLeaf = gather.last < gather.start ? NOTHING_REMOVED : gather.leafSize;
    const removed = this.remove(iova, size, gather.freedTables);
    gather.leafSize = this.removedLeaf === NOTHING_REMOVED ? 0 : this.removedLeaf;
    if (removed > 0 && this.system.events.on) {
      this.system.events.emit({ kind: "pagetable.range.unmap", root: this.root, iova, size: removed });
    }
    return removed;
  }

  /** What the table says about `iova`, without the hardware; undefined if it is not mapped. */
  translate(iova: number): Translation | undefined {
    const { format } = this;
    if (iova >= format.inputEnd) return undefined;
    const table = this.enclosing(iova, iova);
    const { level } = this;
    const words = this.tables.words(table);
    const at = this.place(level, table, iova);
    if (format.kind(level, words[at]) !== LEAF) return undefined;
    const entries = this.leafEntries(level, words, at);
    const size = entries * format.span(level);
    const offset = entries === 1 ? offsetIn(iova, format.shift(level)) : iova % size;
    const physical = this.addressAt(words, at) + offset;
    return { physical, prot: format.prot(words[at], words[at + 1]), size };
  }

  /** The lowest address from `iova` up to `end` (exclusive) that is mapped. */
  nextMapped(iova: number, end: number): number | undefined {
    const { format } = this;
    const stop = Math.min(end, format.inputEnd);
    for (let at = iova; at < stop; ) {
      const table = this.enclosing(at, at);
      const { level } = this;
      if (format.kind(level, this.tables.words(table)[this.place(level, table, at)]) === LEAF) return at;
      at += format.span(level) - (at % format.span(level));
    }
    return undefined;
  }

  /**
   * Replaces the leaf at `iova` by smaller ones that translate the same, until the one there has `size` bytes or less.
   * All or nothing. What the hardware remembers of the larger leaf stays right, but its size does not: invalidate.
   *
   * Refusals: ERANGE beyond the input; ENOENT if nothing is mapped there; EINVAL if leaves cannot have that size; ENOMEM.
   */
  split(iova: number, size: number): void {
    const { format } = this;
    if (iova < 0 || iova >= format.inputEnd) throw beyondInput(format, iova, 1);
    if (!format.pageSizes.includes(size))
      refuse(EINVAL, () => `leaves of ${hex(size)} do not exist in ${format.label}`);
    const table = this.enclosing(iova, iova);
    const { level } = this;
    const words = this.tables.words(table);
    const at = this.place(level, table, iova);
    if (format.kind(level, words[at]) !== LEAF) refuse(ENOENT, () => `nothing is mapped at ${hex(iova)}`);
    const span = format.span(level);
    const entries = this.leafEntries(level, words, at);
    if (entries * span <= size) return;
    if (span > size) {
      const table = this.splitLeaf(level, words, at, iova, size);
      if (entries > 1) this.splitRun(level, words, at, span);
      this.link(level, words, at, table);
    } else {
      this.splitRun(level, words, at, size);
    }
    if (this.system.events.on) this.system.events.emit({ kind: "pagetable.leaf.split", root: this.root, iova, size });
  }

  // Dirty leaves, of a format that has a mark for them

  /** Marks the one entry that translates `iova`, as hardware does that writes there; false if nothing is mapped. */
  markDirty(iova: number): boolean {
    const { format } = this;
    if (iova >= format.inputEnd) return false;
    const table = this.enclosing(iova, iova);
    const words = this.tables.words(table);
    const at = this.place(this.level, table, iova);
    if (format.kind(this.level, words[at]) !== LEAF) return false;
    words[at] = format.dirty!.set(words[at]);
    return true;
  }

  /**
   * Calls `visit` for each leaf with an address in the `size` bytes from `iova` on that was written through, ascending;
   * with `clean` they are clean afterwards. `entrySize` is what one entry of the leaf spans: the leaf itself, mostly.
   */
  visitDirty(
    iova: number,
    size: number,
    clean: boolean,
    visit: (iova: number, size: number, entrySize: number) => void,
  ): void {
    const end = Math.min(iova + size, this.format.inputEnd);
    if (iova >= end) return;
    const table = this.enclosing(iova, end - 1);
    this.visitDirtyIn(this.level, table, iova, end, clean, visit);
  }

  private visitDirtyIn(
    level: number,
    table: number,
    start: number,
    end: number,
    clean: boolean,
    visit: (iova: number, size: number, entrySize: number) => void,
  ): void {
    const { format } = this;
    const words = this.tables.words(table);
    const span = format.span(level);
    let at = this.place(level, table, start);
    for (let iova = start - (start % span); iova < end; ) {
      const kind = format.kind(level, words[at]);
      if (kind === TABLE) {
        const child = this.addressAt(words, at);
        this.visitDirtyIn(level + 1, child, Math.max(iova, start), Math.min(iova + span, end), clean, visit);
      }
      if (kind !== LEAF) {
        iova += span;
        at += 2;
        continue;
      }
      const entries = this.leafEntries(level, words, at);
      const leafSize = entries * span;
      const leaf = iova - (iova % leafSize);
      const first = this.firstOfRun(at, entries);
      if (takeDirty(format.dirty!, words, first, entries, clean)) visit(leaf, leafSize, span);
      iova = leaf + leafSize;
      at = first + 2 * entries;
    }
  }

  /** All leaves, by ascending IOVA. Not to be continued after a change. */
  leaves(): Generator<Leaf, void, void> {
    return this.leavesOf(this.format.startLevel, this.root, 0);
  }

  /** Frees all tables. Only when the hardware has forgotten them; the PageTable is not to be used afterwards. */
  free(): void {
    this.freeBelow(this.format.startLevel, this.root);
    this.tables.freeRoot(this.root);
    assert(this.tables.size === 0, () => `${this.tables.size} frames of tables are not reachable from the root`);
  }

  /**
   * The lowest table that has the whole range in it; its level is left in `level`. Most changes are of one table: to go
   * straight to it spares most of the work.
   */
  private enclosing(iova: number, last: number): number {
    const { format } = this;
    const differing = highestDifference(iova, last);
    const iovaHigh = highWord(iova);
    const iovaLow = iova | 0;
    let tableHigh = highWord(this.root);
    let tableLow = this.root | 0;
    let mask = format.rootEntries - 1;
    let level = format.startLevel;
    for (let shift = format.shift(level); differing < shift; shift = format.shift(level)) {
      const words = this.tables.wordsAt(tableHigh, tableLow);
      const at = wordIndex(tableLow) + 2 * (bitsFrom(iovaHigh, iovaLow, shift) & mask);
      const low = words[at];
      if (format.kind(level, low) !== TABLE) break;
      tableHigh = format.addressHigh(low, words[at + 1]);
      tableLow = format.addressLow(low, words[at + 1]);
      mask = format.tableEntries - 1;
      level++;
    }
    this.level = level;
    return joinWords(tableHigh, tableLow);
  }

  // Mapping

  /**
   * Maps into one table. Returns the bytes mapped; if these are fewer than `size`, `obstacle` says why. A new table is
   * linked once it holds something, and given back if it does not come to that.
   */
  private fill(
    level: number,
    table: number,
    iova: number,
    physical: number,
    size: number,
    attributes: LeafAttributes,
  ): number {
    const { format } = this;
    const words = this.tables.words(table);
    const shift = format.shift(level);
    const span = format.span(level);
    const leaves = format.hasLeaves(level);
    let at = this.place(level, table, iova);
    let added = 0;
    let done = 0;
    while (done < size) {
      const offset = offsetIn(iova + done, shift);
      if (leaves && offset === 0 && size - done >= span && offsetIn(physical + done, shift) === 0) {
        const fitting = Math.floor((size - done) / span);
        const count =
          format.runs === undefined
            ? this.fillLeaves(level, words, at, physical + done, fitting, attributes)
            : this.fillRuns(level, words, at, physical + done, fitting, attributes);
        added += count;
        done += count * span;
        at += 2 * count;
        if (count === fitting) continue;
        this.obstacle = occupied(iova + done, span);
        break;
      }
      const kind = format.kind(level, words[at]);
      if (kind === LEAF) {
        this.obstacle = occupied(iova + done - offset, span);
        break;
      }
      const child = kind === TABLE ? this.addressAt(words, at) : this.tryAllocate();
      if (child === undefined) break;
      const wanted = Math.min(size - done, span - offset);
      const part = this.fill(level + 1, child, iova + done, physical + done, wanted, attributes);
      if (kind === INVALID && part > 0) {
        this.link(level, words, at, child);
        added++;
      } else if (kind === INVALID) {
        this.tables.free(child);
      }
      done += part;
      at += 2;
      if (part < wanted) break;
    }
    if (added > 0) this.tables.countUsed(table, added);
    return done;
  }

  /** Up to `count` leaves side by side; returns how many were free to take. */
  private fillLeaves(
    level: number,
    words: Uint32Array,
    first: number,
    physical: number,
    count: number,
    attributes: LeafAttributes,
  ): number {
    const { format } = this;
    const span = format.span(level);
    let output = physical;
    for (let done = 0, at = first; done < count; done++, at += 2, output += span) {
      if (format.kind(level, words[at]) !== INVALID) return done;
      words[at + 1] = format.leafHigh(output, attributes);
      words[at] = format.leafLow(level, output, attributes);
    }
    return count;
  }

  /**
   * The same where leaves may have several entries: each as many as its place, its address, what is left and `most` allow.
   * Returns how many entries were free to take; a leaf is made of free ones only.
   */
  private fillRuns(
    level: number,
    words: Uint32Array,
    first: number,
    physical: number,
    count: number,
    attributes: LeafAttributes,
    most: number = this.format.tableEntries,
  ): number {
    const { format } = this;
    const runs = format.runs!;
    const span = format.span(level);
    const place = (first / 2) % format.tableEntries;
    for (let done = 0; done < count; ) {
      const output = physical + done * span;
      const frame = output / span;
      const entries = runs
        .counts(level)
        .find((n) => n <= most && n <= count - done && (place + done) % n === 0 && frame % n === 0);
      assert(entries !== undefined, () => `${hex(output)} fits no leaf at level ${level} of ${format.label}`);
      const low = runs.low(level, output, entries, attributes);
      const high = runs.high(level, output, entries, attributes);
      const at = first + 2 * done;
      const end = at + 2 * entries;
      for (let free = at; free < end; free += 2) if (format.kind(level, words[free]) !== INVALID) return done;
      for (let entry = at; entry < end; entry += 2) {
        words[entry + 1] = high;
        words[entry] = low;
      }
      done += entries;
    }
    return count;
  }

  /** How many entries the leaf has that the one at `at` belongs to. */
  private leafEntries(level: number, words: Uint32Array, at: number): number {
    const { runs } = this.format;
    return runs === undefined ? 1 : runs.count(level, words[at], words[at + 1]);
  }

  /** Takes back what was mapped before the obstacle, and says what that was. */
  private giveUp(iova: number, mapped: number): never {
    const freedTables: number[] = [];
    this.remove(iova, mapped, freedTables);
    // No walk can have seen them: nothing ran since they were linked.
    for (const pfn of freedTables) this.memory.free(pfn);
    const { obstacle } = this;
    this.obstacle = undefined;
    assert(obstacle !== undefined, "a mapping stopped early without an obstacle");
    throw obstacle;
  }

  private tryAllocate(): number | undefined {
    try {
      return this.tables.allocate();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.obstacle = error;
      return undefined;
    }
  }

  // Unmapping

  /** Removes leaves and empty tables; returns the bytes from `iova` to where it stopped. */
  private remove(iova: number, size: number, freedTables: number[]): number {
    if (size === 0) return 0;
    const table = this.enclosing(iova, iova + size - 1);
    const removed = this.clear(this.level, table, iova, size, freedTables);
    // That emptied the table itself: once more from the root, with nothing to remove but empty tables on the way.
    const emptied = table !== this.root && this.tables.usedEntries(table) === 0;
    if (emptied) this.clear(this.format.startLevel, this.root, iova, 1, freedTables);
    return removed;
  }

  /** Removes leaves of one table, and the tables below it that this empties. Returns the bytes from `iova` to where it stopped. */
  private clear(level: number, table: number, iova: number, size: number, freedTables: number[]): number {
    const { format } = this;
    const words = this.tables.words(table);
    const shift = format.shift(level);
    const hasRuns = format.runs !== undefined;
    const span = format.span(level);
    let at = this.place(level, table, iova);
    let offset = offsetIn(iova, shift);
    let leaves = 0;
    let removedEntries = 0;
    let done = 0;
    for (; done < size; at += 2, offset = 0) {
      const kind = format.kind(level, words[at]);
      if (kind === INVALID) break;
      if (kind === LEAF && hasRuns) {
        const entries = this.clearRun(level, words, at);
        const size = entries * span;
        this.noteRemoved(size);
        removedEntries += entries;
        const skipped = size - ((iova + done) % size);
        done += skipped;
        at += 2 * Math.ceil(skipped / span) - 2;
        continue;
      }
      if (kind === LEAF) {
        words[at] = 0;
        words[at + 1] = 0;
        leaves++;
        done += span - offset;
        continue;
      }
      const child = this.addressAt(words, at);
      const wanted = Math.min(size - done, span - offset);
      const part = this.clear(level + 1, child, iova + done, wanted, freedTables);
      if (this.tables.usedEntries(child) === 0) {
        words[at] = 0;
        words[at + 1] = 0;
        removedEntries++;
        this.tables.release(child, freedTables);
      }
      done += part;
      if (part < wanted) break;
    }
    if (leaves > 0) this.noteRemoved(span);
    this.tables.countUsed(table, -leaves - removedEntries);
    return done;
  }

  /** Removes the leaf that the entry at `at` belongs to; returns how many entries it had. */
  private clearRun(level: number, words: Uint32Array, at: number): number {
    const entries = this.leafEntries(level, words, at);
    const first = this.firstOfRun(at, entries);
    words.fill(0, first, first + 2 * entries);
    return entries;
  }

  /** Where the first entry of a leaf is that has `entries`, one of them at `at`. A run is aligned to its size. */
  private firstOfRun(at: number, entries: number): number {
    return at - (at % (2 * entries));
  }

  private noteRemoved(size: number): void {
    if (this.removedLeaf !== size) this.removedLeaf = this.removedLeaf === NOTHING_REMOVED ? size : 0;
  }

  // Splitting, freeing, looking

  /**
   * A table of the next level that translates as the leaf's entry at `at` does, with a leaf of at most `size` at `iova`;
   * not linked yet.
   */
  private splitLeaf(level: number, from: Uint32Array, at: number, iova: number, size: number): number {
    const { format } = this;
    const table = this.tables.allocate();
    const words = this.tables.words(table);
    const below = level + 1;
    const span = format.span(below);
    const entry = iova - (iova % format.span(level));
    const physical = this.addressAt(from, at) + (entry % (this.leafEntries(level, from, at) * format.span(level)));
    const attributes = this.attributesToSplit(level, from, at);
    const first = wordIndex(table);
    if (format.runs === undefined) this.fillLeaves(below, words, first, physical, format.tableEntries, attributes);
    else this.fillRuns(below, words, first, physical, format.tableEntries, attributes, Math.max(1, size / span));
    this.tables.countUsed(table, format.tableEntries);
    if (span > size) {
      const at = this.place(below, table, iova);
      try {
        this.link(below, words, at, this.splitLeaf(below, words, at, iova, size));
      } catch (error) {
        this.tables.free(table);
        throw error;
      }
    }
    return table;
  }

  /** Makes of the leaf of several entries at `at` leaves of `size` each. */
  private splitRun(level: number, words: Uint32Array, at: number, size: number): void {
    const entries = this.leafEntries(level, words, at);
    const physical = this.addressAt(words, at);
    const attributes = this.attributesToSplit(level, words, at);
    const first = this.firstOfRun(at, entries);
    words.fill(0, first, first + 2 * entries);
    this.fillRuns(level, words, first, physical, entries, attributes, size / this.format.span(level));
  }

  /** What all parts of the leaf at `at` have in common: each counts as written to if one entry of the leaf does. */
  private attributesToSplit(level: number, words: Uint32Array, at: number): LeafAttributes {
    const { format } = this;
    const attributes = format.splitAttributes(words[at], words[at + 1]);
    const entries = this.leafEntries(level, words, at);
    if (entries === 1 || format.dirty === undefined) return attributes;
    const dirty = takeDirty(format.dirty, words, this.firstOfRun(at, entries), entries, false);
    return dirty ? { low: format.dirty.set(attributes.low), high: attributes.high } : attributes;
  }

  private freeBelow(level: number, table: number): void {
    if (level === this.format.lastLevel) return;
    const words = this.tables.words(table);
    const first = wordIndex(table);
    for (let at = first, left = this.tables.usedEntries(table); left > 0; at += 2) {
      const kind = this.format.kind(level, words[at]);
      if (kind !== INVALID) left--;
      if (kind !== TABLE) continue;
      const child = this.addressAt(words, at);
      this.freeBelow(level + 1, child);
      this.tables.free(child);
    }
  }

  private *leavesOf(level: number, table: number, start: number): Generator<Leaf, void, void> {
    const { format } = this;
    const words = this.tables.words(table);
    const first = wordIndex(table);
    const span = format.span(level);
    for (let index = 0, entries = 1; index < this.entriesAt(level); index += entries) {
      const at = first + 2 * index;
      const iova = start + index * span;
      entries = 1;
      const kind = format.kind(level, words[at]);
      if (kind === TABLE) yield* this.leavesOf(level + 1, this.addressAt(words, at), iova);
      if (kind === LEAF) {
        const prot = format.prot(words[at], words[at + 1]);
        entries = this.leafEntries(level, words, at);
        yield { iova, physical: this.addressAt(words, at), size: entries * span, prot };
      }
    }
  }

  private entriesAt(level: number): number {
    return level === this.format.startLevel ? this.format.rootEntries : this.format.tableEntries;
  }

  /** Where the entry for `iova` is in the words of `table`. */
  private place(level: number, table: number, iova: number): number {
    const index = bitsFrom(highWord(iova), iova | 0, this.format.shift(level)) & (this.entriesAt(level) - 1);
    return wordIndex(table) + 2 * index;
  }

  /** Makes the entry point to a table; whatever it was before, it is invalid in between. */
  private link(level: number, words: Uint32Array, at: number, table: number): void {
    words[at] = 0;
    words[at + 1] = this.format.tableHigh(table);
    words[at] = this.format.tableLow(table, level);
  }

  /** The address in a valid entry. */
  private addressAt(words: Uint32Array, at: number): number {
    const low = words[at];
    const high = words[at + 1];
    return joinWords(this.format.addressHigh(low, high), this.format.addressLow(low, high));
  }
}

/** Was one of `entries` marked? With `clean` none is afterwards. */
function takeDirty(mark: DirtyBit, words: Uint32Array, first: number, entries: number, clean: boolean): boolean {
  let dirty = false;
  for (let at = first; at < first + 2 * entries; at += 2) {
    if (!mark.isSet(words[at], words[at + 1])) continue;
    dirty = true;
    if (!clean) return true;
    words[at] = mark.cleared(words[at]);
  }
  return dirty;
}

/** The highest bit in which two addresses differ; -1 if they are the same. */
function highestDifference(a: number, b: number): number {
  const high = highWord(a) ^ highWord(b);
  return high !== 0 ? 63 - Math.clz32(high) : 31 - Math.clz32((a | 0) ^ (b | 0));
}

/** `address` modulo 2^shift. */
function offsetIn(address: number, shift: number): number {
  if (shift < 32) return (address & ((1 << shift) - 1)) >>> 0;
  return joinWords(highWord(address) & ((1 << (shift - 32)) - 1), address | 0);
}
