// Runs in a browser.
import { type FrameBacking, PAGE_SIZE } from "./types.ts";

/** A file whose content is an array, as memfd_create() makes one. */
export class MemoryFile implements FrameBacking {
  readonly kind = "memory" as const;
  readonly label: string;
  /** In bytes. */
  readonly size: number;
  /** The content, up to the end of its last page. */
  readonly bytes: Uint8Array;

  constructor(size: number, label = "memfd") {
    this.size = size;
    this.label = label;
    this.bytes = new Uint8Array(Math.ceil(size / PAGE_SIZE) * PAGE_SIZE);
  }

  get backing(): FrameBacking {
    return this;
  }

  read(page: number, offset: number, into: Uint8Array): void {
    const start = page * PAGE_SIZE + offset;
    into.set(this.bytes.subarray(start, start + into.length));
  }

  write(page: number, offset: number, from: Uint8Array): void {
    this.bytes.set(from, page * PAGE_SIZE + offset);
  }
}
