// Runs in a browser.
/** What a PROBE says of an endpoint (virtio 1.2, §5.13.6.7; reference 7.3). */
import type { ReservedRegion } from "../../iommu/index.ts";
import { EINVAL, refuse } from "../../runtime/index.ts";

const HEAD_BYTES = 4;
/** The upper bits of a property's type are reserved. */
const TYPE_MASK = 0xfff;
const TYPE_NONE = 0;
const TYPE_RESV_MEM = 1;
const RESV_MEM_BYTES = 20;
const SUBTYPE_MSI = 1;

/**
 * The reserved regions in a list of properties. Unknown properties are passed over, unknown kinds of regions are as
 * reserved as any. Refusal EINVAL for a list that is none.
 */
export function reservedRegionsIn(list: Uint8Array, label: string): ReservedRegion[] {
  const view = new DataView(list.buffer, list.byteOffset, list.byteLength);
  const regions: ReservedRegion[] = [];
  for (let at = 0; at + HEAD_BYTES <= list.length; ) {
    const type = view.getUint16(at, true) & TYPE_MASK;
    const length = view.getUint16(at + 2, true);
    if (type === TYPE_NONE) break;
    const value = at + HEAD_BYTES;
    if (value + length > list.length) {
      refuse(EINVAL, () => `${label}: property ${type} has ${length} bytes, of which the answer holds fewer`);
    }
    if (type === TYPE_RESV_MEM) {
      if (length < RESV_MEM_BYTES) refuse(EINVAL, () => `${label}: a reserved region of ${length} bytes is too short`);
      const start = view.getBigUint64(value + 4, true);
      const last = view.getBigUint64(value + 12, true);
      if (last < start) refuse(EINVAL, () => `${label}: a reserved region ends before it begins`);
      regions.push({ start, last, type: view.getUint8(value) === SUBTYPE_MSI ? "msi" : "reserved" });
    }
    at = value + length;
  }
  return regions;
}
