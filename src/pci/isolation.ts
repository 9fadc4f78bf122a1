// Runs in a browser.
/**
 * Whether a function lets requests through to others without the IOMMU seeing them, as far as its configuration space
 * says (PCIe base specification 6.12; reference 2.3).
 */
import { ACS, ACS_CAPABILITY, ACS_CONTROL, type ExpressType } from "./capabilities.ts";
import type { PciFunction } from "./function.ts";
import { DEVICE_ID, EXTENDED_ACS, VENDOR_ID } from "./ids.ts";
import { ISOLATING_ENDPOINTS, ISOLATING_PORTS, ISOLATING_ROOT_COMPLEX, isListed, WIDE_ACS_PORTS } from "./quirks.ts";

/** What isolation wants of ACS: where requests come from is checked, and all go up to the IOMMU. */
export const ISOLATING_CONTROLS: number =
  ACS.sourceValidation | ACS.requestRedirect | ACS.completionRedirect | ACS.upstreamForwarding;

/** The registers of an ACS capability. */
export interface AccessControls {
  readonly offered: number;
  readonly enabled: number;
}

/** The answer for one function, with what decided. */
export type Isolation = { readonly isolated: boolean } & (
  | { readonly by: "kind" }
  | { readonly by: "quirk" }
  | { readonly by: "no capability" }
  | ({ readonly by: "controls"; readonly missing: number } & AccessControls)
);

/** Kinds with ACS of their own wherever they are: each forwards what others send. */
const ports: readonly (ExpressType | undefined)[] = ["rootPort", "downstreamPort"];
/** Kinds that have others beside them only if they are functions of one device. */
const functions: readonly (ExpressType | undefined)[] = [
  "endpoint",
  "legacyEndpoint",
  "integratedEndpoint",
  "upstreamPort",
];

/**
 * Whether requests that reach `pci`, or come from its neighbours in the same device, go nowhere but up. Conventional PCI
 * and bridges to it never isolate; an only function has nobody to be kept from. A control that the capability does not
 * offer is not wanted: the function has no such path.
 */
export function isolationOf(pci: PciFunction): Isolation {
  if (!pci.isExpress) return { isolated: false, by: "kind" };
  const isPort = ports.includes(pci.expressType);
  if (!isPort && !functions.includes(pci.expressType)) return { isolated: false, by: "kind" };
  if (!isPort && !pci.multifunction) return { isolated: true, by: "kind" };
  if (pci.expressType === "integratedEndpoint" && isListed(ISOLATING_ROOT_COMPLEX, ...idsOf(pci))) {
    return { isolated: true, by: "quirk" };
  }
  const controls = accessControls(pci);
  if (controls === undefined) {
    const listed = isListed(isPort ? ISOLATING_PORTS : ISOLATING_ENDPOINTS, ...idsOf(pci));
    return listed ? { isolated: true, by: "quirk" } : { isolated: false, by: "no capability" };
  }
  const missing = ISOLATING_CONTROLS & controls.offered & ~controls.enabled;
  return { isolated: missing === 0, by: "controls", missing, ...controls };
}

/** What its ACS registers hold, if it has them. */
export function accessControls(pci: PciFunction): AccessControls | undefined {
  const acs = pci.extendedCapability(EXTENDED_ACS);
  if (acs === undefined) return undefined;
  const { width, capability, control } = accessControlRegisters(pci, acs);
  return { offered: pci.readConfig(capability, width), enabled: pci.readConfig(control, width) };
}

/** Where the registers of the capability at `acs` are in configuration space. */
export function accessControlRegisters(
  pci: PciFunction,
  acs: number,
): { readonly width: 2 | 4; readonly capability: number; readonly control: number } {
  if (isListed(WIDE_ACS_PORTS, ...idsOf(pci))) return { width: 4, capability: acs + 4, control: acs + 8 };
  return { width: 2, capability: acs + ACS_CAPABILITY, control: acs + ACS_CONTROL };
}

function idsOf(pci: PciFunction): [vendor: number, device: number] {
  return [pci.readConfig(VENDOR_ID, 2), pci.readConfig(DEVICE_ID, 2)];
}
