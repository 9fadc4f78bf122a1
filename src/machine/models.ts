// Runs in a browser.
import { CopyEngine, EduDevice, makeBridge } from "../hardware/devices/index.ts";
import {
  accessControl,
  addressTranslation,
  type Capability,
  express,
  ISOLATING_CONTROLS,
  type PciFunction,
  pageRequests,
  pasid,
} from "../pci/index.ts";
import type { System } from "../runtime/index.ts";
import type { DeviceDescription, FunctionDescription } from "./description.ts";

/** Makes the function that a description names. */
export function makeFunction(system: System, description: FunctionDescription): PciFunction {
  switch (description.model) {
    case "edu":
      return new EduDevice(system, {
        dmaMask: 2n ** BigInt(description.options.dmaMaskBits) - 1n,
        capabilities: capabilityList(description),
      });
    case "copy-engine":
      return new CopyEngine(system, {
        queues: description.options.queues,
        capabilities: capabilityList(description),
      });
    case "root-port":
    case "upstream-port":
    case "downstream-port":
    case "pcie-to-pci-bridge":
    case "pci-bridge":
      return makeBridge(description.model, description);
  }
}

function capabilityList({ behind, capabilities }: DeviceDescription): Capability[] {
  const { express: isExpress, flr, acs, ats, pri, pasidBits } = capabilities;
  const list: Capability[] = [];
  if (isExpress) {
    const type = behind === undefined ? "integratedEndpoint" : "endpoint";
    list.push(express({ type, functionLevelReset: flr }));
  }
  if (acs) list.push(accessControl(ISOLATING_CONTROLS));
  if (ats) list.push(addressTranslation());
  if (pri) list.push(pageRequests());
  if (pasidBits > 0) list.push(pasid({ width: pasidBits }));
  return list;
}
