// Runs in a browser.
/** What clients pass to this driver, by their numbers in the user API (reference 3.3). */
import type { UserData } from "../../iommu/index.ts";
import { EINVAL, refuse } from "../../runtime/index.ts";

/** `iommu_hwpt_arm_smmuv3` */
export const HWPT_DATA_ARM_SMMUV3 = 2;
export const VIOMMU_TYPE_ARM_SMMUV3 = 1;
/** `iommu_viommu_arm_smmuv3_invalidate` */
export const INVALIDATE_DATA_ARM_SMMUV3 = 1;
/** `iommu_vevent_arm_smmuv3` */
export const EVENT_TYPE_ARM_SMMUV3 = 1;

const HWPT_DATA_BYTES = 16;

/** Words 0 and 1 of a guest's STE, as four of 32 bits. Refusals: EINVAL (type, length), EFAULT. */
export function readStreamEntryWords(data: UserData): Uint32Array {
  if (data.type !== HWPT_DATA_ARM_SMMUV3) {
    refuse(EINVAL, () => `HWPT data of type ${data.type}: a nested domain needs type ${HWPT_DATA_ARM_SMMUV3}`);
  }
  if (data.length !== HWPT_DATA_BYTES) {
    refuse(EINVAL, () => `${data.length} bytes of HWPT data: words 0 and 1 of an STE are ${HWPT_DATA_BYTES}`);
  }
  return wordsOf(data.bytes);
}

/** Little-endian 32-bit words. */
export function wordsOf(bytes: Uint8Array): Uint32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return new Uint32Array(bytes.length / 4).map((_, word) => view.getUint32(word * 4, true));
}

/** The mirror image of {@link wordsOf}. */
export function bytesOf(words: Uint32Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(words.length * 4));
  for (const [index, word] of words.entries()) view.setUint32(index * 4, word, true);
  return new Uint8Array(view.buffer);
}
