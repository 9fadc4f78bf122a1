// Runs in a browser.
import { type AddressSpace, PAGE_SIZE } from "../memory/index.ts";
import { EFAULT, Refusal } from "../runtime/index.ts";

/** The bytes that one bit stands for: the lowest set bit of a page size. */
export function granuleOf(pageSize: bigint): number {
  return Number(pageSize & -pageSize);
}

/**
 * A client's bitmap: bit i stands for the bytes from `start + i * granule` on. Bits are only ever set, and the client's
 * memory is touched a page at a time; a page that cannot be written is passed over.
 */
export class DirtyBitmap {
  private readonly memory: AddressSpace;
  /** Where the page begins that the bitmap begins in, and how far into it the bitmap does. */
  private readonly base: bigint;
  private readonly offset: number;
  private readonly start: bigint;
  private readonly granule: number;
  /** Which page, counted from there, the bits below are of; -1 for none. */
  private page = -1;
  private readonly bits = new Uint8Array(PAGE_SIZE);
  /** Of `bits`, the bytes that have any. */
  private first = PAGE_SIZE;
  private last = -1;

  constructor(memory: AddressSpace, address: bigint, start: bigint, granule: number) {
    this.memory = memory;
    this.offset = Number(address % BigInt(PAGE_SIZE));
    this.base = address - BigInt(this.offset);
    this.start = start;
    this.granule = granule;
  }

  /** Sets the bits of `size` bytes from `iova` on, also those of which only a part is there. */
  set(iova: bigint, size: number): void {
    const from = Number(iova - this.start);
    const last = Math.floor((from + size - 1) / this.granule);
    for (let bit = Math.floor(from / this.granule); bit <= last; ) {
      const lastOfByte = bit - (bit % 8) + 7;
      const end = Math.min(last, lastOfByte);
      const mask = ((2 << (end % 8)) - 1) & ~((1 << (bit % 8)) - 1);
      this.setInByte((bit - (bit % 8)) / 8, mask);
      bit = end + 1;
    }
  }

  /** Writes what is set. */
  flush(): void {
    if (this.last < 0) return;
    const { first, last, bits, memory } = this;
    const address = this.base + BigInt(this.page * PAGE_SIZE + first);
    try {
      const known = new Uint8Array(last - first + 1);
      memory.read(address, known);
      for (let i = 0; i < known.length; i++) known[i] |= bits[first + i];
      memory.write(address, known);
    } catch (error) {
      if (!(error instanceof Refusal && error.errno === EFAULT)) throw error;
    }
    bits.fill(0, first, last + 1);
    this.first = PAGE_SIZE;
    this.last = -1;
  }

  private setInByte(byte: number, mask: number): void {
    const page = Math.floor((this.offset + byte) / PAGE_SIZE);
    if (page !== this.page) {
      this.flush();
      this.page = page;
    }
    const at = this.offset + byte - page * PAGE_SIZE;
    this.bits[at] |= mask;
    if (at < this.first) this.first = at;
    if (at > this.last) this.last = at;
  }
}
