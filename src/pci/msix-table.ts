// Runs in a browser.
import { MSIX_CONTROL, type MsixPlace } from "./capabilities.ts";
import type { ConfigSpace } from "./config-space.ts";
import type { Message } from "./dma.ts";

const ENTRY_SIZE = 16;
const MASKED = 1;

/**
 * The MSI-X table and pending-bit array of a function, which lie in its BARs (PCI 3.0, 6.8.2). An entry is four 32-bit
 * words: address low, address high, data, control (bit 0 masks). Accesses are of 4 or 8 bytes.
 */
export class MsixTable {
  readonly vectors: number;
  readonly table: MsixPlace;
  readonly pendingBits: MsixPlace;
  private readonly entries: Uint32Array;
  private readonly pending: Uint32Array;

  /** Reads vectors and places from the capability at `base`. */
  constructor(config: ConfigSpace, base: number) {
    const place = (register: number): MsixPlace => {
      const value = config.read(base + register, 4);
      return { bar: value & 7, offset: value - (value & 7) };
    };
    this.vectors = (config.read(base + MSIX_CONTROL, 2) & 0x7ff) + 1;
    this.table = place(4);
    this.pendingBits = place(8);
    this.entries = new Uint32Array((this.vectors * ENTRY_SIZE) / 4);
    this.pending = new Uint32Array(Math.ceil(this.vectors / 64) * 2);
    this.reset();
  }

  /** Bytes of the table. */
  get size(): number {
    return this.entries.byteLength;
  }

  /** Whether an address of a BAR is the table's or the pending bits'. */
  covers(bar: number, offset: number): boolean {
    return this.wordsAt(bar, offset) !== undefined;
  }

  read(bar: number, offset: number, size: number): bigint {
    const { words, index } = this.wordsAt(bar, offset)!;
    return BigInt(words[index]) + (size === 8 ? BigInt(words[index + 1]) * 0x100000000n : 0n);
  }

  /** Pending bits are read-only. */
  write(bar: number, offset: number, size: number, value: bigint): void {
    const { words, index } = this.wordsAt(bar, offset)!;
    if (words === this.pending || size < 4) return;
    words[index] = Number(value % 0x100000000n);
    if (size === 8) words[index + 1] = Number(value / 0x100000000n);
  }

  /** What a vector sends, and whether it may. */
  entry(vector: number): Message & { readonly masked: boolean } {
    const [low, high, data, control] = this.entries.subarray(vector * 4, vector * 4 + 4);
    return { address: BigInt(high) * 0x100000000n + BigInt(low), data, masked: (control & MASKED) !== 0 };
  }

  isPending(vector: number): boolean {
    return (this.pending[vector >>> 5] & (1 << (vector & 31))) !== 0;
  }

  setPending(vector: number, pending: boolean): void {
    if (pending) this.pending[vector >>> 5] |= 1 << (vector & 31);
    else this.pending[vector >>> 5] &= ~(1 << (vector & 31));
  }

  /** All entries as they are, for {@link restoreEntries}. */
  copyEntries(): Uint32Array {
    return this.entries.slice();
  }

  restoreEntries(entries: Uint32Array): void {
    this.entries.set(entries);
  }

  /** Every entry masked, nothing pending. */
  reset(): void {
    this.entries.fill(0);
    this.pending.fill(0);
    for (let vector = 0; vector < this.vectors; vector++) this.entries[vector * 4 + 3] = MASKED;
  }

  private wordsAt(bar: number, offset: number): { words: Uint32Array; index: number } | undefined {
    for (const [place, words] of [
      [this.table, this.entries],
      [this.pendingBits, this.pending],
    ] as const) {
      const index = Math.floor((offset - place.offset) / 4);
      if (bar === place.bar && index >= 0 && index < words.length) return { words, index };
    }
    return undefined;
  }
}
