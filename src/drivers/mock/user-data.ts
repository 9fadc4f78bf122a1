// Runs in a browser.
/** What clients of the mock IOMMU pass to its driver (reference 4.3 and 4.4). All fields are little endian. */
import type { UserData } from "../../iommu/index.ts";
import { EINVAL, EOPNOTSUPP, refuse } from "../../runtime/index.ts";

export const HWPT_DATA = 0xdead;
export const INVALIDATION_DATA = 0xdeadbeef;
export const VIOMMU_TYPE = 0xdeadbeef;
export const QUEUE_TYPE = 0xdeadbeef;
export const EVENT_TYPE = 0xbeefbeef;
export const HARDWARE_INFO = 0xfeedbeef;

/** Applies to all words of a cache, in the flags of an invalidation. */
export const INVALIDATE_ALL = 1;

/** `iommu_hwpt_selftest` */
export interface HwptData {
  readonly iotlb: number;
  readonly pageTableType: number;
}

/** Refusals: EOPNOTSUPP (type), EINVAL (length), EFAULT. */
export function readHwptData(data: UserData): HwptData {
  if (data.type !== HWPT_DATA) refuse(EOPNOTSUPP, () => `the mock IOMMU has no HWPT data of type ${data.type}`);
  const view = readStruct(data, 4, 8);
  return { iotlb: view.getUint32(0, true), pageTableType: view.getUint32(4, true) };
}

/** `least` to `whole` bytes, extended with zeros to `whole`. Refusals: EINVAL (length), EFAULT. */
export function readStruct(data: UserData, least: number, whole: number): DataView {
  if (data.length < least || data.length > whole) {
    refuse(EINVAL, () => `${data.length} bytes of data, where ${least} to ${whole} are expected`);
  }
  const bytes = new Uint8Array(whole);
  bytes.set(data.bytes);
  return new DataView(bytes.buffer);
}
