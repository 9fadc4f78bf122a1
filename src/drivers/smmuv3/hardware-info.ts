// Runs in a browser.
import { EOPNOTSUPP, refuse } from "../../runtime/index.ts";
import type { SmmuV3Instance } from "./instance.ts";

const HW_INFO_DEFAULT = 0;
const HW_INFO_ARM_SMMUV3 = 2;

/**
 * The ID registers as GET_HW_INFO gives them (struct iommu_hw_info_arm_smmuv3, 40 bytes): flags, reserved, IDR0 to IDR5,
 * IIDR, AIDR. Refusal EOPNOTSUPP for another type.
 */
export function hardwareInfo(
  { features, label }: SmmuV3Instance,
  requested: number,
): { readonly type: number; readonly bytes: Uint8Array } {
  if (requested !== HW_INFO_DEFAULT && requested !== HW_INFO_ARM_SMMUV3) {
    refuse(EOPNOTSUPP, () => `${label} has no hardware info of type ${requested}, only ${HW_INFO_ARM_SMMUV3}`);
  }
  const { idr, iidr, aidr } = features.raw;
  const view = new DataView(new ArrayBuffer(40));
  for (const [index, word] of [0, 0, ...idr, iidr, aidr].entries()) view.setUint32(index * 4, word, true);
  return { type: HW_INFO_ARM_SMMUV3, bytes: new Uint8Array(view.buffer) };
}
