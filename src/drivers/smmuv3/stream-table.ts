// Runs in a browser.
/**
 * The stream table: one STE for each stream id, where the SMMU begins every translation.
 *
 * With two levels the first holds a descriptor for each 256 stream ids, one PCI bus. The table behind it is made when
 * the first of its streams is taken into use, filled with entries that abort, and stays: the SMMU may remember where it
 * is. What was never made aborts as well, with an event.
 *
 * An STE changes in place where one 64-bit word decides between old and new. Where more must change at once and there are
 * two levels, a copy of its second-level table is made in which it is the new one, and the one word that leads there is
 * switched; the table that was left is the next copy's place.
 */
import { PAGE_SIZE, type PhysicalMemory, type RegisterBlock } from "../../memory/index.ts";
import { areEqual, changesInOneStep, type Entry, fillEntry, readEntry, writeEntry } from "../../pasidtable/index.ts";
import { ERANGE, Mutex, refuse, type System, type Task } from "../../runtime/index.ts";
import type { CommandQueue } from "./command-queue.ts";
import { invalidateStreamEntry } from "./commands.ts";
import type { Features } from "./features.ts";
import { baseWords, STRTAB_BASE, STRTAB_BASE_CFG } from "./registers.ts";
import { abortEntry } from "./stream-table-entry.ts";
import { streamTableEntryKind } from "./used-bits.ts";

const ENTRY_BYTES = 64;
const SPLIT = 8;
const ENTRIES_BEHIND_ONE = 2 ** SPLIT;
const FRAMES_BEHIND_ONE = (ENTRIES_BEHIND_ONE * ENTRY_BYTES) / PAGE_SIZE;
const LOG2_FIRST_LEVEL_MAX = 17;
const FORMAT_TWO_LEVEL = 1;

export class StreamTable {
  /** Stream ids are below this. */
  readonly end: number;
  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly twoLevel: boolean;
  private readonly log2Size: number;
  private readonly pfn: number;
  private readonly frames: number;
  /** First frames of second-level tables, by the upper bits of the stream id. */
  private readonly behind = new Map<number, number>();
  /** Held while an entry changes: it may move to another second-level table. */
  private readonly changing: Mutex;
  /** Place for a copy of a second-level table. */
  private spare: number | undefined;

  /** A table in which everything aborts. Refusal ENOMEM. */
  constructor(system: System, memory: PhysicalMemory, features: Features) {
    this.system = system;
    this.memory = memory;
    this.twoLevel = features.twoLevelStreamTable && features.streamIdBits > SPLIT;
    this.log2Size = this.twoLevel
      ? Math.min(features.streamIdBits, LOG2_FIRST_LEVEL_MAX + SPLIT)
      : features.streamIdBits;
    this.end = 2 ** this.log2Size;
    const bytes = this.twoLevel ? (this.end / ENTRIES_BEHIND_ONE) * 8 : this.end * ENTRY_BYTES;
    this.frames = Math.ceil(bytes / PAGE_SIZE);
    this.changing = new Mutex(system, "smmuv3.stream-table");
    this.pfn = memory.allocate(this.frames, this.frames);
    if (!this.twoLevel) this.fillWithAbort(this.pfn, this.end);
    else this.spare = this.allocateSpare();
  }

  program(registers: RegisterBlock): void {
    registers.write64(STRTAB_BASE, ...baseWords(this.pfn * PAGE_SIZE, 0));
    const format = this.twoLevel ? (FORMAT_TWO_LEVEL << 16) | (SPLIT << 6) : 0;
    registers.write32(STRTAB_BASE_CFG, format | this.log2Size);
  }

  /** Makes room for the entry of a stream. Refusals: ERANGE beyond the table, ENOMEM. */
  reserve(streamId: number): void {
    if (streamId >= this.end) {
      refuse(
        ERANGE,
        () => `stream id 0x${streamId.toString(16)} is beyond the stream table's 0x${this.end.toString(16)}`,
      );
    }
    const index = Math.floor(streamId / ENTRIES_BEHIND_ONE);
    if (!this.twoLevel || this.behind.has(index)) return;
    this.system.failures.point("smmuv3.stream-table.allocate");
    const pfn = this.memory.allocate(FRAMES_BEHIND_ONE, FRAMES_BEHIND_ONE);
    this.fillWithAbort(pfn, ENTRIES_BEHIND_ONE);
    this.behind.set(index, pfn);
    this.lead(index, pfn);
  }

  /**
   * Makes the STE of a reserved stream `target`. When it returns the SMMU has forgotten what was there before; false if it
   * was the same. Cannot fail.
   */
  *change(streamId: number, target: Entry, commands: CommandQueue): Task<boolean> {
    yield* this.changing.take();
    try {
      const address = this.entryAddress(streamId);
      const current = readEntry(this.memory, address);
      // Most moves of a master change its CD and not its STE.
      if (areEqual(current, target)) return false;
      if (this.spare !== undefined && !changesInOneStep(current, target, streamTableEntryKind)) {
        this.spare = this.exchange(streamId, target, this.spare);
        invalidateStreamEntry(commands, streamId, false);
        yield* commands.sync();
        return true;
      }
      return yield* writeEntry(this.memory, address, target, streamTableEntryKind, () => {
        invalidateStreamEntry(commands, streamId, true);
        return commands.sync();
      });
    } finally {
      this.changing.release();
    }
  }

  /** Physical address of the STE of a reserved stream. */
  entryAddress(streamId: number): number {
    if (!this.twoLevel) return this.pfn * PAGE_SIZE + streamId * ENTRY_BYTES;
    const pfn = this.behind.get(Math.floor(streamId / ENTRIES_BEHIND_ONE))!;
    return pfn * PAGE_SIZE + (streamId % ENTRIES_BEHIND_ONE) * ENTRY_BYTES;
  }

  free(): void {
    for (const pfn of this.behind.values()) this.memory.free(pfn, FRAMES_BEHIND_ONE);
    if (this.spare !== undefined) this.memory.free(this.spare, FRAMES_BEHIND_ONE);
    this.memory.free(this.pfn, this.frames);
  }

  /** Refusal ENOMEM; then nothing of the table is left. */
  private allocateSpare(): number {
    try {
      return this.memory.allocate(FRAMES_BEHIND_ONE, FRAMES_BEHIND_ONE);
    } catch (error) {
      this.memory.free(this.pfn, this.frames);
      throw error;
    }
  }

  /** Lets `fresh`, with this entry and all others as they are, take the place of a second-level table; returns that one. */
  private exchange(streamId: number, entry: Entry, fresh: number): number {
    const index = Math.floor(streamId / ENTRIES_BEHIND_ONE);
    const old = this.behind.get(index)!;
    for (let frame = 0; frame < FRAMES_BEHIND_ONE; frame++) this.memory.copyFrame(old + frame, fresh + frame);
    fillEntry(this.memory, fresh * PAGE_SIZE + (streamId % ENTRIES_BEHIND_ONE) * ENTRY_BYTES, entry);
    this.lead(index, fresh);
    return old;
  }

  /** Lets the first level lead to a second-level table, by one 64-bit word. */
  private lead(index: number, pfn: number): void {
    this.behind.set(index, pfn);
    const address = pfn * PAGE_SIZE;
    const descriptor = this.pfn * PAGE_SIZE + index * 8;
    this.memory.writeDoubleword(descriptor, ((address % 2 ** 32) | (SPLIT + 1)) >>> 0, Math.floor(address / 2 ** 32));
  }

  private fillWithAbort(pfn: number, entries: number): void {
    const abort = abortEntry();
    for (let index = 0; index < entries; index++) fillEntry(this.memory, pfn * PAGE_SIZE + index * ENTRY_BYTES, abort);
  }
}
