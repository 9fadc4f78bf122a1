/**
 * Files whose pages several may name: a client that mapped them shared, its child, somebody with a descriptor. A page of
 * such a file has one frame, whoever pins it.
 *
 * Always true: a file is here exactly while one of its pages is pinned, and then held open; so its pages stay, whatever
 * clients unmap or close.
 */
import { closeSync, fstatSync, readSync, writeSync } from "node:fs";
import { type FrameBacking, type FrameRun, PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";
import { PinnedPages } from "./pinned-pages.ts";

export class SharedFiles {
  private readonly memory: PhysicalMemory;
  private readonly files = new Map<string, SharedFile>();

  constructor(memory: PhysicalMemory) {
    this.memory = memory;
  }

  /** Pins pages of the file named `key`, which `open` opens if it is not here; undefined if that cannot be done. */
  pin(key: string, page: number, count: number, open: () => number | undefined): FrameRun[] | undefined {
    let file = this.files.get(key);
    if (file === undefined) {
      const descriptor = open();
      if (descriptor === undefined) return undefined;
      file = new SharedFile(this.memory, descriptor, () => this.files.delete(key));
      this.files.set(key, file);
    }
    return file.pin(page, count);
  }
}

/** `"major:minor:inode"`, as /proc/PID/maps writes the first two. */
export function keyOfFile(descriptor: number): string {
  const { dev, ino } = fstatSync(descriptor);
  const major = Math.floor(dev / 256) % 4096;
  const minor = (dev % 256) + Math.floor(dev / 2 ** 20) * 256;
  const hex = (number: number): string => number.toString(16).padStart(2, "0");
  return `${hex(major)}:${hex(minor)}:${ino}`;
}

class SharedFile implements FrameBacking {
  private readonly memory: PhysicalMemory;
  private readonly descriptor: number;
  private readonly pinned = new PinnedPages();
  private readonly onUnused: () => void;
  private isClosed = false;

  constructor(memory: PhysicalMemory, descriptor: number, onUnused: () => void) {
    this.memory = memory;
    this.descriptor = descriptor;
    this.onUnused = onUnused;
  }

  pin(page: number, count: number): FrameRun[] {
    try {
      return this.pinned.pin(this.memory, page, count, (first, length) => this.adopt(first, length));
    } catch (error) {
      this.closeIfUnused();
      throw error;
    }
  }

  read(page: number, offset: number, into: Uint8Array): void {
    const size = readSync(this.descriptor, into, 0, into.length, page * PAGE_SIZE + offset);
    // What lies behind the end is zeros.
    if (size < into.length) into.fill(0, size);
  }

  write(page: number, offset: number, from: Uint8Array): void {
    try {
      writeSync(this.descriptor, from, 0, from.length, page * PAGE_SIZE + offset);
    } catch {
      // Opened for reading only, or sealed: the write is lost, as a bus drops it.
    }
  }

  unpinned(page: number, count: number): void {
    const held = [...this.pinned.heldRuns(page, count)];
    this.pinned.clear(page, count);
    for (const { pfn, length } of held) this.memory.drop(pfn, length);
    this.closeIfUnused();
  }

  private adopt(page: number, count: number): number {
    const pfn = this.memory.adopt(this, count, page);
    this.memory.rebind(pfn, count, this, page);
    this.pinned.set(page, count, pfn);
    return pfn;
  }

  private closeIfUnused(): void {
    if (this.pinned.size > 0 || this.isClosed) return;
    this.isClosed = true;
    this.onUnused();
    closeSync(this.descriptor);
  }
}
