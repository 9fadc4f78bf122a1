// Runs in a browser.
/** GET_HW_INFO (reference 3.10). */

import { type Device, PASID_CONTROL_EXECUTE, PASID_CONTROL_PRIVILEGED } from "../iommu/index.ts";
import type { AddressSpace } from "../memory/index.ts";
import { EOPNOTSUPP, refuse } from "../runtime/index.ts";
import {
  HW_CAP_DIRTY_TRACKING,
  HW_CAP_PCI_ATS_NOT_SUPPORTED,
  HW_CAP_PCI_PASID_EXEC,
  HW_CAP_PCI_PASID_PRIV,
  HW_INFO_FLAG_INPUT_TYPE,
  HW_INFO_TYPE_NONE,
} from "../uapi/index.ts";
import type { CallOf } from "./call.ts";
import { IommufdDevice } from "./device.ts";

/** Zeros are written in pieces: a client may claim room for 4 GiB. */
const ZEROS = 2 ** 16;

export function getHwInfo(call: CallOf<"GET_HW_INFO">): undefined {
  const { context, command, process } = call;
  const { flags } = command;
  const unknown = flags & ~HW_INFO_FLAG_INPUT_TYPE;
  if (unknown !== 0) refuse(EOPNOTSUPP, () => `unknown flags 0x${(unknown >>> 0).toString(16)}`);
  if (command.reserved.some((byte) => byte !== 0)) refuse(EOPNOTSUPP, () => "reserved bytes are not 0");
  const { device } = context.objects.find(command.dev_id, IommufdDevice);
  const { driver } = device.iommu!.instance;
  const requested = (flags & HW_INFO_FLAG_INPUT_TYPE) !== 0 ? command.data_type : 0;
  const info = driver.hardwareInfo?.(device, requested) ?? { type: HW_INFO_TYPE_NONE, bytes: new Uint8Array() };
  copyPadded(process.memory, command.data_uptr, info.bytes, command.data_len);
  command.data_len = info.bytes.length;
  command.data_type = info.type;
  const { maxPasids } = device.iommu!;
  command.out_max_pasid_log2 = maxPasids > 0 ? Math.floor(Math.log2(maxPasids)) : 0;
  command.out_capabilities = BigInt(
    (driver.capable(device, "dirty-tracking") ? HW_CAP_DIRTY_TRACKING : 0) |
      (maxPasids > 0 ? pasidRights(device) : 0) |
      (driver.capable(device, "pci-ats") ? 0 : HW_CAP_PCI_ATS_NOT_SUPPORTED),
  );
  call.respond();
}

/** What requests with a PASID may ask for, as it is enabled in the device's PASID capability. */
function pasidRights({ pasidControl }: Device): number {
  return (
    ((pasidControl & PASID_CONTROL_EXECUTE) !== 0 ? HW_CAP_PCI_PASID_EXEC : 0) |
    ((pasidControl & PASID_CONTROL_PRIVILEGED) !== 0 ? HW_CAP_PCI_PASID_PRIV : 0)
  );
}

/** As many of the bytes as there is room for, and zeros in the rest of it. */
function copyPadded(memory: AddressSpace, address: bigint, bytes: Uint8Array, room: number): void {
  const shown = Math.min(bytes.length, room);
  if (shown > 0) memory.write(address, bytes.subarray(0, shown));
  for (let at = shown; at < room; at += ZEROS) {
    memory.write(address + BigInt(at), new Uint8Array(Math.min(ZEROS, room - at)));
  }
}
