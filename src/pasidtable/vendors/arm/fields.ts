// Runs in a browser.
/** Encodings that stream table entries and context descriptors share (Arm IHI 0070 sections 5.2 and 5.4). */
import { unreachable } from "../../../runtime/index.ts";

/** Cacheability of table walks: write-back, read- and write-allocate. */
export const WRITE_BACK = 1;
export const INNER_SHAREABLE = 3;

/** TG0, S2TG. */
export function granuleField(granule: number): number {
  if (granule === 4096) return 0;
  if (granule === 65536) return 1;
  if (granule === 16384) return 2;
  return unreachable(`granule ${granule}`);
}

/** IPS, S2PS: the width of physical addresses. */
export function addressSizeField(bits: number): number {
  const field = [32, 36, 40, 42, 44, 48, 52].indexOf(bits);
  return field >= 0 ? field : unreachable(`physical addresses of ${bits} bits`);
}
