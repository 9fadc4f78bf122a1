// Runs in a browser.
/**
 * Which group a device belongs to (reference 2.3): drivers choose one of these for `deviceGroup`.
 *
 * For PCI each rule is a function that answers with a group that exists, or nothing; the first answer counts.
 */
import { ACS, ACS_CONTROL, EXTENDED_ACS, type PciFunction } from "../pci/index.ts";
import type { IommuCore } from "./core.ts";
import type { Device } from "./device.ts";
import type { Group } from "./group.ts";

/** Each device for itself. */
export function singleDeviceGroup(_device: Device, core: IommuCore): Group {
  return core.newGroup();
}

/** With whatever hardware cannot keep it apart from on its way to the IOMMU, else for itself. */
export function pciDeviceGroup(device: Device, core: IommuCore): Group {
  return groupOfOtherFunctions(device.pci!, core) ?? singleDeviceGroup(device, core);
}

const ISOLATING = ACS.sourceValidation | ACS.requestRedirect | ACS.completionRedirect | ACS.upstreamForwarding;

/** Functions of one device can reach each other inside it, unless each has all the ACS controls on: one group. */
function groupOfOtherFunctions(candidate: PciFunction, core: IommuCore): Group | undefined {
  if (!candidate.multifunction || isIsolated(candidate)) return undefined;
  const { bus, device } = candidate.place!;
  for (const other of bus.slot(device)) {
    if (other === candidate || isIsolated(other)) continue;
    const group = groupOfFunction(other, core);
    if (group !== undefined) return group;
  }
  return undefined;
}

function groupOfFunction(pci: PciFunction, core: IommuCore): Group | undefined {
  for (const group of core.groups.values()) {
    if (group.devices.some((device) => device.pci === pci)) return group;
  }
  return undefined;
}

function isIsolated(pci: PciFunction): boolean {
  const acs = pci.extendedCapability(EXTENDED_ACS);
  return acs !== undefined && (pci.readConfig(acs + ACS_CONTROL, 2) & ISOLATING) === ISOLATING;
}
