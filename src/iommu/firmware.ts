// Runs in a browser.
/**
 * How the firmware's word on a device's IOMMU reaches the core (Linux's fwspec, reference 2.11): a bus reads its tables and
 * calls this, before the device is probed.
 */
import { EINVAL, ENODEV, EPROBE_DEFER, refuse } from "../runtime/index.ts";
import type { IommuCore } from "./core.ts";
import type { Device, FirmwareSpec } from "./device.ts";

/**
 * The device is behind the IOMMU called `instance`. EPROBE_DEFER: that IOMMU is not there yet, or not ready for a device
 * that nobody asked it about before; ask again later. ENODEV: it is not there, and no driver is waited for. EINVAL: the
 * device is behind an IOMMU of another driver already; the same again is fine.
 */
export function setFirmware(core: IommuCore, device: Device, spec: FirmwareSpec): void {
  const instance = core.instances.get(spec.instance);
  if (instance === undefined) {
    const errno = core.waitsForDrivers ? EPROBE_DEFER : ENODEV;
    refuse(
      errno,
      () => `${device.label}: its IOMMU ${spec.instance} is not there${core.waitsForDrivers ? " yet" : ""}`,
    );
  }
  const before = device.firmware && core.instances.get(device.firmware.instance);
  if (before !== undefined) {
    if (before.driver === instance.driver) return;
    refuse(EINVAL, () => `${device.label} is behind ${before.name} already, and ${instance.name} has another driver`);
  }
  if (!core.isReady(instance)) refuse(EPROBE_DEFER, () => `${instance.name} is not ready for ${device.label} yet`);
  device.firmware = spec;
}
