// Runs in a browser.
import { PAGE_SIZE } from "../memory/index.ts";
import { type Interval, numberOf } from "../runtime/index.ts";
import type { PageSet } from "./page-set.ts";
import { hexRange, type RESERVED } from "./reserved.ts";

const PAGE = BigInt(PAGE_SIZE);

/** A part of a page set that an area is to show. */
export interface Slice {
  readonly pages: PageSet;
  /** Its first page, as the source numbers it, and the byte in it where the slice begins. */
  readonly page: number;
  readonly offset: number;
  /** Bytes. */
  readonly length: bigint;
}

/**
 * - `building`: its IOVAs are taken, but it is not in all domains yet. Nobody may use or remove it.
 * - `ready`: in every linked domain.
 * - `leaving`: being taken out of the domains. Nobody may use it any more; its IOVAs are still taken.
 */
export type AreaState = "building" | "ready" | "leaving";

/** What lies at an IOVA of a space. */
export type Occupant = Area | typeof RESERVED;

/** One mapping: IOVAs `start` … `last` (inclusive) show a slice of a page set. */
export class Area {
  readonly start: bigint;
  readonly last: bigint;
  readonly pages: PageSet;
  readonly page: number;
  readonly offset: number;
  /** Inclusive. */
  readonly lastPage: number;
  /** Bytes. Exact where the pages are pinned: so much memory has less than 2^53 bytes. */
  readonly size: number;
  /** The same, exact in any case. */
  readonly length: bigint;
  /** PROT_ values of the core. */
  readonly prot: number;
  state: AreaState = "building";
  /** True while it holds its pages pinned: exactly while it is in a domain. */
  pinned = false;
  /** Pins that accesses hold in it: while there are any, it stays. */
  accessPins = 0;
  /** Its accesses were told that it goes: no new pin, no read or write through it. */
  refusesAccess = false;
  /** Hardware queues that lie in it: while there are any, nobody may unmap it. */
  locks = 0;
  /** Its dma-buf was taken back: it is in no domain, and comes into none. */
  withdrawn = false;
  /** Its place among the occupied IOVAs. */
  interval: Interval<Occupant> | undefined;

  constructor(start: bigint, last: bigint, slice: Slice, prot: number) {
    this.start = start;
    this.last = last;
    this.pages = slice.pages;
    this.page = slice.page;
    this.offset = slice.offset;
    this.length = slice.length;
    this.size = numberOf(slice.length);
    this.lastPage = this.page + Math.floor((this.offset + this.size - 1) / PAGE_SIZE);
    this.prot = prot;
  }

  get label(): string {
    return `the area ${hexRange(this.start, this.last)}`;
  }

  /** The part of it that shows at IOVAs `start` … `last`. */
  slice(start: bigint, last: bigint): Slice {
    const { page, offset } = this.place(start);
    return { pages: this.pages, page, offset, length: last - start + 1n };
  }

  /** Where in its pages an IOVA of it is. */
  place(iova: bigint): { page: number; offset: number } {
    const byte = this.offset + numberOf(iova - this.start);
    if (byte <= Number.MAX_SAFE_INTEGER) {
      return { page: this.page + Math.floor(byte / PAGE_SIZE), offset: byte & (PAGE_SIZE - 1) };
    }
    const exact = BigInt(this.offset) + (iova - this.start);
    return { page: this.page + Number(exact / PAGE), offset: Number(exact % PAGE) };
  }

  /** True if IOVA, length and offset in the page are multiples of `alignment`, at most a page. */
  isAligned(alignment: bigint): boolean {
    return (
      this.start % alignment === 0n && (this.last + 1n) % alignment === 0n && this.offset % Number(alignment) === 0
    );
  }
}
