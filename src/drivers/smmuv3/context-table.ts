// Runs in a browser.
import { PAGE_SIZE, type PhysicalMemory } from "../../memory/index.ts";

const ENTRY_BYTES = 64;
/** A linear table takes at most 64 KiB (reference 6.3); wider substream ids need two levels. */
export const LOG2_LINEAR_ENTRIES_MAX = 10;

/** The context descriptors of one device, by substream id; 0 is that of traffic without one. Linear. */
export class ContextTable {
  readonly address: number;
  readonly log2Entries: number;
  private readonly memory: PhysicalMemory;
  private readonly frames: number;

  /** All descriptors invalid. Refusal ENOMEM. */
  constructor(memory: PhysicalMemory, log2Entries: number) {
    this.memory = memory;
    this.log2Entries = log2Entries;
    this.frames = Math.ceil((2 ** log2Entries * ENTRY_BYTES) / PAGE_SIZE);
    this.address = memory.allocate(this.frames, this.frames) * PAGE_SIZE;
  }

  entryAddress(substreamId: number): number {
    return this.address + substreamId * ENTRY_BYTES;
  }

  free(): void {
    this.memory.free(this.address / PAGE_SIZE, this.frames);
  }
}
