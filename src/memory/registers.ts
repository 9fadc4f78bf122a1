// Runs in a browser.
/**
 * A block of device registers, as a driver sees it: the only way, beside memory and interrupts, in which a driver and
 * its hardware meet. Offsets are bytes from the block's base, aligned to the access.
 */
export interface RegisterBlock {
  read32(offset: number): number;
  write32(offset: number, value: number): void;
  /** 64-bit registers as two 32-bit words, low one first: one access. */
  read64(offset: number): bigint;
  write64(offset: number, low: number, high: number): void;
}
