// Runs in a browser.
/** What a guest writes into its own memory to translate: context descriptors and tables of stage 1, by its own addresses. */

/** Memory by the guest's physical addresses (IPA). */
export interface GuestMemory {
  read64(ipa: number): bigint;
  write64(ipa: number, value: bigint): void;
}

const PAGE = 4096;
const ENTRIES = 512;
const TABLE = 3n;
/** A page that everybody may read: AttrIndx 0, AP[1], inner shareable, AF, nG. */
const LEAF = 3n + 0x40n + 0x300n + 0x400n + 0x800n;
const READ_ONLY = 0x80n;
/** Bytes behind one entry, from the root down: 39 bits of input, pages of 4 KiB. */
const SPANS = [2 ** 30, 2 ** 21, PAGE];

/** One CD with a table of three levels. Pages for both are taken from `free` on. */
export class GuestTables {
  /** IPA of the CD. */
  readonly context: number;
  private readonly memory: GuestMemory;
  private readonly root: number;
  private free: number;

  constructor(memory: GuestMemory, free: number, options: { asid: number; stalls?: boolean }) {
    this.memory = memory;
    this.free = free;
    this.context = this.page();
    this.root = this.page();
    const t0sz = 25n;
    const attributes = 0x100n + 0x400n + 0x3000n; // IR0, OR0, SH0
    const epd1 = 2n ** 30n;
    const valid = 2n ** 31n;
    const ips48 = 5n * 2n ** 32n;
    const aa64 = 2n ** 41n;
    const stall = options.stalls ? 2n ** 44n : 0n;
    const recordAbortPrivate = 7n * 2n ** 45n;
    const asid = BigInt(options.asid) * 2n ** 48n;
    memory.write64(this.context, t0sz + attributes + epd1 + valid + ips48 + aa64 + stall + recordAbortPrivate + asid);
    memory.write64(this.context + 8, BigInt(this.root));
    memory.write64(this.context + 24, 0xffn);
  }

  /** Words 0 and 1 of an STE for {@link context}. */
  get streamEntry(): [bigint, bigint] {
    return [BigInt(this.context) + 1n + 5n * 2n, 0xd4n];
  }

  /** Nothing is told to anybody: invalidation is another matter. */
  map(iova: number, ipa: number, writable = true): void {
    this.memory.write64(this.leaf(iova), BigInt(ipa) + LEAF + (writable ? 0n : READ_ONLY));
  }

  unmap(iova: number): void {
    this.memory.write64(this.leaf(iova), 0n);
  }

  /** IPA of the last-level entry of an address; tables on the way are made. */
  private leaf(iova: number): number {
    let table = this.root;
    for (const [level, span] of SPANS.entries()) {
      const entry = table + (Math.floor(iova / span) % ENTRIES) * 8;
      if (level === SPANS.length - 1) return entry;
      if (this.memory.read64(entry) === 0n) this.memory.write64(entry, BigInt(this.page()) + TABLE);
      table = Number(this.memory.read64(entry) - TABLE);
    }
    return table;
  }

  private page(): number {
    const page = this.free;
    this.free += PAGE;
    return page;
  }
}
