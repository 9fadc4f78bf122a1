// Runs in a browser.
/**
 * Answers to PROBE: lists of properties (§5.13.6.8): reserved memory, and, where tables can be attached, which
 * ones. The latter are a proposal (reference 7.5); docs/virtio-tables.md has their layouts.
 */

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

const PAGE_TABLE = 6;
const PASID_TABLE = 7;
const TABLE_BYTES = 8;
/** Formats of tables: of pages, VMSAv8-64 stage 1; of PASIDs, the context descriptors of the SMMUv3. */
const FORMAT_ARM_STAGE1 = 1;
export const FORMAT_ARM_CONTEXTS = 2;
const FLAG_TWO_LEVELS = 1;

/** Tables that a driver may attach. */
export interface TableProperties {
  /** Of addresses that page tables translate, and of those that they give. */
  readonly inputBits: number;
  readonly outputBits: number;
  readonly asidBits: number;
  readonly pasidBits: number;
  readonly twoLevels: boolean;
}

/** Bytes that the list takes, its end included. */
export function propertyListSize(regions: readonly ReservedMemory[], hasTables: boolean): number {
  const tables = hasTables ? 2 * (PROPERTY_HEAD_BYTES + TABLE_BYTES) : 0;
  return regions.length * (PROPERTY_HEAD_BYTES + RESV_MEM_BYTES) + tables + PROPERTY_NONE_BYTES;
}

/** The list at the beginning of `into`, all else 0: a property of type 0 ends it. */
export function writePropertyList(
  into: Uint8Array,
  regions: readonly ReservedMemory[],
  tables: TableProperties | undefined,
): void {
  const view = new DataView(into.buffer, into.byteOffset);
  for (const [index, { kind, start, last }] of regions.entries()) {
    const at = index * (PROPERTY_HEAD_BYTES + RESV_MEM_BYTES);
    view.setUint16(at, RESV_MEM, true);
    view.setUint16(at + 2, RESV_MEM_BYTES, true);
    view.setUint8(at + 4, kind === "msi" ? 1 : 0);
    view.setBigUint64(at + 8, start, true);
    view.setBigUint64(at + 16, last, true);
  }
  if (tables !== undefined) writeTables(view, regions.length * (PROPERTY_HEAD_BYTES + RESV_MEM_BYTES), tables);
}

function writeTables(view: DataView, start: number, tables: TableProperties): void {
  const { inputBits, outputBits, asidBits, pasidBits, twoLevels } = tables;
  const all = [
    { type: PAGE_TABLE, format: FORMAT_ARM_STAGE1, bytes: [inputBits, outputBits, asidBits] },
    { type: PASID_TABLE, format: FORMAT_ARM_CONTEXTS, bytes: [pasidBits, twoLevels ? FLAG_TWO_LEVELS : 0] },
  ];
  for (const [index, { type, format, bytes }] of all.entries()) {
    const at = start + index * (PROPERTY_HEAD_BYTES + TABLE_BYTES);
    view.setUint16(at, type, true);
    view.setUint16(at + 2, TABLE_BYTES, true);
    view.setUint16(at + 4, format, true);
    for (const [offset, byte] of bytes.entries()) view.setUint8(at + 6 + offset, byte);
  }
}
