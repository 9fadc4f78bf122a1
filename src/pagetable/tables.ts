// Runs in a browser.
import { PAGE_SIZE, type PhysicalMemory, wordIndex } from "../memory/index.ts";
import type { System } from "../runtime/index.ts";
import { type EntryCounts, entryCounts } from "./counts.ts";
import type { Format } from "./formats/format.ts";

/** The tables of one page table as pieces of physical memory: made, freed, and how many entries of each are in use. */
export class Tables {
  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly used: EntryCounts;
  private readonly framesPerTable: number;
  private readonly framesOfRoot: number;
  private frames = 0;

  constructor(system: System, memory: PhysicalMemory, format: Format) {
    this.system = system;
    this.memory = memory;
    this.used = entryCounts(memory);
    this.framesPerTable = (format.tableEntries * 8) / PAGE_SIZE;
    this.framesOfRoot = Math.ceil((format.rootEntries * 8) / PAGE_SIZE);
  }

  /** Frames that all tables take. */
  get size(): number {
    return this.frames;
  }

  /** The words around `table`; its first one is at `wordIndex(table)`. Stays right until the table is freed. */
  words(table: number): Uint32Array {
    return this.memory.words(table)!;
  }

  /** The same for a table whose address is given as words. */
  wordsAt(tableHigh: number, tableLow: number): Uint32Array {
    return this.memory.chunk((tableHigh << 11) | (tableLow >>> 21))!;
  }

  /** A root: physical address of zeroed frames, aligned to their size. Refusal ENOMEM. */
  allocateRoot(): number {
    return this.allocateFrames(this.framesOfRoot);
  }

  /** The same for any other table. */
  allocate(): number {
    return this.allocateFrames(this.framesPerTable);
  }

  freeRoot(table: number): void {
    this.freeFrames(table, this.framesOfRoot);
  }

  free(table: number): void {
    this.freeFrames(table, this.framesPerTable);
  }

  /** Gives a table away without freeing it: the numbers of its frames go to `frames`. */
  release(table: number, frames: number[]): void {
    const first = table / PAGE_SIZE;
    for (let pfn = first; pfn < first + this.framesPerTable; pfn++) frames.push(pfn);
    this.forget(table, this.framesPerTable);
  }

  /** Entries of `table` in use. */
  usedEntries(table: number): number {
    return this.used.get(table);
  }

  /** So many more entries of `table` are in use now, or fewer. */
  countUsed(table: number, change: number): void {
    this.used.add(table, change);
  }

  private allocateFrames(count: number): number {
    this.system.failures.point("pagetable.table.allocate");
    const table = this.memory.allocate(count, count) * PAGE_SIZE;
    this.frames += count;
    if (this.memory.words(table) === undefined) this.touch(table);
    return table;
  }

  /** RAM comes into being when something other than 0 is written: then `words` has it. */
  private touch(table: number): void {
    this.memory.writeWord(table, 1);
    this.memory.words(table)![wordIndex(table)] = 0;
  }

  private freeFrames(table: number, count: number): void {
    this.forget(table, count);
    this.memory.free(table / PAGE_SIZE, count);
  }

  private forget(table: number, count: number): void {
    this.used.clear(table);
    this.frames -= count;
  }
}
