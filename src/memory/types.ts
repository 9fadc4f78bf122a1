// Runs in a browser.
/**
 * The words of this room, as types.
 *
 * A *frame* is a page of physical memory; its number (pfn) is its physical
 * address divided by 4096: a plain number, since physical addresses have at most
 * 52 bits. A *page* is a page of a process's address space. What is behind a
 * frame differs: a buffer, a page of another process, a page of a file.
 */
import type { MmNotifiers } from "./notifiers.ts";

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;

/** What may be done with a page, or is wanted. */
export const PAGE_READ = 1;
export const PAGE_WRITE = 2;
export const PAGE_EXECUTE = 4;

/** Consecutive frames: `pfn`, `pfn + 1`, … `pfn + count - 1`. */
export interface FrameRun {
  readonly pfn: number;
  readonly count: number;
}

/** What is behind frames that are no RAM of ours: pages of another process, of a file. `page` counts from the first frame of the backing. */
export interface FrameBacking {
  /** Fills `into` from `offset` in the page on; may run over into the next pages. */
  read(page: number, offset: number, into: Uint8Array): void;
  write(page: number, offset: number, from: Uint8Array): void;
  /** The last pin of these pages' frames is gone. May drop or rebind them at once. */
  unpinned?(page: number, count: number): void;
}

/** Who is charged for pinned memory across processes. */
export interface User {
  readonly uid: number;
  /** Pages charged in user mode, over all processes of this user. */
  lockedPages: number;
}

/** Pages of a process as they are now, on consecutive frames: `page` is the number of the first one, and `pfn` its frame. */
export interface ResidentPages extends FrameRun {
  readonly page: number;
  /** PAGE_READ, …: what the process may do with these frames. Pages that are to be copied before they are written: not PAGE_WRITE. */
  readonly rights: number;
}

/** An address in a process: a field of a struct (bigint) or an ioctl argument (number). */
export type UserAddress = number | bigint;

/** The address space of a process. */
export interface AddressSpace {
  readonly label: string;
  /** False once the process is gone; pinned frames stay. */
  readonly alive: boolean;
  /** Pages charged in process mode (VmLck), and pages pinned (VmPin). */
  lockedPages: number;
  pinnedPages: number;
  /** Pages that the process has locked by itself (mlock): they count against the same limit. Absent: none. */
  readonly mlockedPages?: number;
  /** Copies from the process. Throws Refusal EFAULT, and then `into` is unspecified. */
  read(address: UserAddress, into: Uint8Array): void;
  /** Copies to the process. Throws Refusal EFAULT; then nothing or a beginning was written. */
  write(address: UserAddress, from: Uint8Array): void;
  /**
   * Pins `count` pages from page number `page` (address / 4096) on. Each page's frame stays, with its content, until it
   * is unpinned by PhysicalMemory.unpin, whatever the process does meanwhile. All or nothing: throws Refusal EFAULT if a
   * page is absent, or not writable where `writable` is asked. Frames as few runs as possible, in page order.
   */
  pin(page: number, count: number, writable: boolean): FrameRun[];
  /** Who hears of changes before they happen. */
  readonly notifiers: MmNotifiers;
  /**
   * The frame that the process itself has behind page number `page`, brought in as an access of its own would: for
   * PAGE_WRITE it is no copy that waits to be made. With it those of neighbours that are there anyway. Not pinned: right until {@link notifiers} tell of a change, and so only
   * for those who listen. Throws Refusal EFAULT if the page is absent or `rights` are not given; ENOMEM.
   */
  faultIn(page: number, rights: number): ResidentPages;
}
