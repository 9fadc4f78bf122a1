// Runs in a browser.
/** What a PROBE says of an endpoint (virtio 1.2, §5.13.6.8; reference 7.3). */
import type { ReservedRegion } from "../../iommu/index.ts";
import { EINVAL, refuse } from "../../runtime/index.ts";

const HEAD_BYTES = 4;
/** The upper bits of a property's type are reserved. */
const TYPE_MASK = 0xfff;
const TYPE_NONE = 0;
const TYPE_RESV_MEM = 1;
const RESV_MEM_BYTES = 20;
const SUBTYPE_MSI = 1;
/** Proposed, see requests.ts. */
const TYPE_PAGE_TABLE = 6;
const TYPE_PASID_TABLE = 7;
const TABLE_BYTES = 8;
const FORMAT_ARM_STAGE1 = 1;
const FORMAT_ARM_CONTEXTS = 2;
const FLAG_TWO_LEVELS = 1;

/** The tables of our own that an endpoint may be attached to: contexts of Arm's form, and stage 1 page tables below. */
export interface TableProperties {
  readonly inputBits: number;
  readonly outputBits: number;
  readonly asidBits: number;
  readonly pasidBits: number;
  readonly twoLevels: boolean;
}

/**
 * The reserved regions in a list of properties. Unknown properties are passed over, unknown kinds of regions are as
 * reserved as any. Refusal EINVAL for a list that is none.
 */
export function reservedRegionsIn(list: Uint8Array, label: string): ReservedRegion[] {
  const regions: ReservedRegion[] = [];
  for (const { type, value } of propertiesIn(list, label)) {
    if (type !== TYPE_RESV_MEM) continue;
    if (value.byteLength < RESV_MEM_BYTES) {
      refuse(EINVAL, () => `${label}: a reserved region of ${value.byteLength} bytes is too short`);
    }
    const start = value.getBigUint64(4, true);
    const last = value.getBigUint64(12, true);
    if (last < start) refuse(EINVAL, () => `${label}: a reserved region ends before it begins`);
    regions.push({ start, last, type: value.getUint8(0) === SUBTYPE_MSI ? "msi" : "reserved" });
  }
  return regions;
}

/** The tables in a list of properties, if it has both kinds in forms that the driver writes. */
export function tablesIn(list: Uint8Array, label: string): TableProperties | undefined {
  const find = (wanted: number, format: number): DataView | undefined =>
    [...propertiesIn(list, label)].find(
      ({ type, value }) => type === wanted && value.byteLength >= TABLE_BYTES && value.getUint16(0, true) === format,
    )?.value;
  const pages = find(TYPE_PAGE_TABLE, FORMAT_ARM_STAGE1);
  const pasids = find(TYPE_PASID_TABLE, FORMAT_ARM_CONTEXTS);
  if (pages === undefined || pasids === undefined) return undefined;
  return {
    inputBits: pages.getUint8(2),
    outputBits: pages.getUint8(3),
    asidBits: pages.getUint8(4),
    pasidBits: pasids.getUint8(2),
    twoLevels: (pasids.getUint8(3) & FLAG_TWO_LEVELS) !== 0,
  };
}

function* propertiesIn(
  list: Uint8Array,
  label: string,
): Generator<{ readonly type: number; readonly value: DataView }> {
  const view = new DataView(list.buffer, list.byteOffset, list.byteLength);
  for (let at = 0; at + HEAD_BYTES <= list.length; ) {
    const type = view.getUint16(at, true) & TYPE_MASK;
    const length = view.getUint16(at + 2, true);
    if (type === TYPE_NONE) return;
    const value = at + HEAD_BYTES;
    if (value + length > list.length) {
      refuse(EINVAL, () => `${label}: property ${type} has ${length} bytes, of which the answer holds fewer`);
    }
    yield { type, value: new DataView(list.buffer, list.byteOffset + value, length) };
    at = value + length;
  }
}
