// Runs in a browser.
import { CHUNK_SIZE, PAGE_SHIFT, type PhysicalMemory } from "../memory/index.ts";

const FRAMES_PER_CHUNK = 512;

/**
 * How many entries of each table are in use, by the table's physical address. Counting in software spares a scan of the
 * whole table to learn that it became empty.
 *
 * Counts of tables in the same 2 MiB share an array, and the last array is remembered: a table's neighbours are mostly
 * tables, so looking up costs a comparison.
 */
export class EntryCounts {
  private readonly chunks = new Map<number, Uint32Array>();
  private lastIndex = -1;
  private last: Uint32Array = new Uint32Array(0);

  get(table: number): number {
    return this.chunk(table)[slotOf(table)];
  }

  /** Adds `change`, which may be negative. */
  add(table: number, change: number): void {
    this.chunk(table)[slotOf(table)] += change;
  }

  clear(table: number): void {
    this.chunk(table)[slotOf(table)] = 0;
  }

  private chunk(table: number): Uint32Array {
    const index = Math.floor(table / CHUNK_SIZE);
    if (index === this.lastIndex) return this.last;
    let chunk = this.chunks.get(index);
    if (chunk === undefined) {
      chunk = new Uint32Array(FRAMES_PER_CHUNK);
      this.chunks.set(index, chunk);
    }
    this.lastIndex = index;
    this.last = chunk;
    return chunk;
  }
}

const countsOf = new WeakMap<PhysicalMemory, EntryCounts>();

/** The counts of all tables in a memory: a frame is a table of one page table at most, and new ones need no room of theirs. */
export function entryCounts(memory: PhysicalMemory): EntryCounts {
  let counts = countsOf.get(memory);
  if (counts === undefined) countsOf.set(memory, (counts = new EntryCounts()));
  return counts;
}

function slotOf(table: number): number {
  return (table >>> PAGE_SHIFT) & (FRAMES_PER_CHUNK - 1);
}
