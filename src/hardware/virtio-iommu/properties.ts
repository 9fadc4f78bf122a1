// Runs in a browser.
/** Answers to PROBE: lists of properties (§5.13.6.7), and the one kind there is (§5.13.6.7.1). */

const PROPERTY_NONE_BYTES = 4;
const RESV_MEM = 1;
const RESV_MEM_BYTES = 20;
const PROPERTY_HEAD_BYTES = 4;

/** Virtual addresses that must not be mapped. */
export interface ReservedMemory {
  readonly kind: "reserved" | "msi";
  readonly start: bigint;
  readonly last: bigint;
}

/** Bytes that the list takes, its end included. */
export function propertyListSize(regions: readonly ReservedMemory[]): number {
  return regions.length * (PROPERTY_HEAD_BYTES + RESV_MEM_BYTES) + PROPERTY_NONE_BYTES;
}

/** The list at the beginning of `into`, all else 0: a property of type 0 ends it. */
export function writePropertyList(into: Uint8Array, regions: readonly ReservedMemory[]): void {
  const view = new DataView(into.buffer, into.byteOffset);
  for (const [index, { kind, start, last }] of regions.entries()) {
    const at = index * (PROPERTY_HEAD_BYTES + RESV_MEM_BYTES);
    view.setUint16(at, RESV_MEM, true);
    view.setUint16(at + 2, RESV_MEM_BYTES, true);
    view.setUint8(at + 4, kind === "msi" ? 1 : 0);
    view.setBigUint64(at + 8, start, true);
    view.setBigUint64(at + 16, last, true);
  }
}
