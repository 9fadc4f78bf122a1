// Runs in a browser.
/** Bridges: what they say in configuration space is all there is to them, since the host routes for them. */
import {
  accessControl,
  type Capability,
  type ExpressType,
  express,
  ISOLATING_CONTROLS,
  PciFunction,
} from "../../pci/index.ts";

export type BridgeKind = "root-port" | "upstream-port" | "downstream-port" | "pcie-to-pci-bridge" | "pci-bridge";

/** Those of QEMU's bridges; the ports of the switch are a Texas Instruments XIO3130's. */
const IDS: Readonly<Record<BridgeKind, readonly [vendor: number, device: number]>> = {
  "root-port": [0x1b36, 0x000c],
  "upstream-port": [0x104c, 0x8232],
  "downstream-port": [0x104c, 0x8233],
  "pcie-to-pci-bridge": [0x1b36, 0x000e],
  "pci-bridge": [0x1b36, 0x0001],
};

const TYPES: Readonly<Record<BridgeKind, ExpressType | undefined>> = {
  "root-port": "rootPort",
  "upstream-port": "upstreamPort",
  "downstream-port": "downstreamPort",
  "pcie-to-pci-bridge": "expressToPciBridge",
  "pci-bridge": undefined,
};

/** A bridge, to be put on a bus; the bus behind it is {@link PciHost.addBus}'s. `acs`: it offers what isolation wants. */
export function makeBridge(kind: BridgeKind, options: { readonly acs: boolean }): PciFunction {
  const [vendor, device] = IDS[kind];
  const type = TYPES[kind];
  const forwardsAri = type === "rootPort" || type === "downstreamPort";
  const capabilities: Capability[] = type === undefined ? [] : [express({ type, forwardsAri })];
  if (options.acs) capabilities.push(accessControl(ISOLATING_CONTROLS));
  return new PciFunction({ vendor, device, classCode: 0x060400, bridge: true, capabilities });
}
