import { closeSync, readSync, writeSync } from "node:fs";
import { type FrameBacking, PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";

/** Pages that a client gave up while they were pinned: a copy, until the last pin goes. */
export class SavedPages implements FrameBacking {
  private readonly content: Uint8Array;
  private readonly memory: PhysicalMemory;
  private readonly pfn: number;

  constructor(content: Uint8Array, memory: PhysicalMemory, pfn: number) {
    this.content = content;
    this.memory = memory;
    this.pfn = pfn;
  }

  read(page: number, offset: number, into: Uint8Array): void {
    const start = page * PAGE_SIZE + offset;
    into.set(this.content.subarray(start, start + into.length));
  }

  write(page: number, offset: number, from: Uint8Array): void {
    this.content.set(from, page * PAGE_SIZE + offset);
  }

  unpinned(page: number, count: number): void {
    this.memory.drop(this.pfn + page, count);
  }
}

/** A file of a client that it named by descriptor. Closed when nobody knows it any more. */
export class DescriptorBacking implements FrameBacking {
  readonly file: number;

  constructor(file: number) {
    this.file = file;
    forgotten.register(this, file);
  }

  read(page: number, offset: number, into: Uint8Array): void {
    readFully(this.file, page * PAGE_SIZE + offset, into);
  }

  write(page: number, offset: number, from: Uint8Array): void {
    try {
      writeSync(this.file, from, 0, from.length, page * PAGE_SIZE + offset);
    } catch {
      // Opened for reading only, or sealed: the write is lost, as a bus drops it.
    }
  }
}

const forgotten = new FinalizationRegistry<number>((file) => closeSync(file));

/** Reads from a file; what lies behind its end is zeros. */
function readFully(file: number, position: number, into: Uint8Array): void {
  const size = readSync(file, into, 0, into.length, position);
  if (size < into.length) into.fill(0, size);
}
