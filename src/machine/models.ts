// Runs in a browser.
import { CopyEngine, EduDevice, makeBridge } from "../hardware/devices/index.ts";
import {
  accessControl,
  addressTranslation,
  alternativeRouting,
  type Capability,
  EXTENDED_PASID,
  EXTENDED_PRI,
  express,
  ISOLATING_CONTROLS,
  type PciFunction,
  pageRequests,
  pasid,
} from "../pci/index.ts";
import type { System } from "../runtime/index.ts";
import type { DeviceDescription, EduDescription, FunctionDescription } from "./description.ts";

/** Makes the function that a description names. */
export function makeFunction(system: System, description: FunctionDescription): PciFunction {
  switch (description.model) {
    case "edu":
      return makeEdu(system, description);
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

function makeEdu(system: System, description: EduDescription): EduDevice {
  const { virtualFunctions, options } = description;
  const dmaMask = 2n ** BigInt(options.dmaMaskBits) - 1n;
  const capabilities = capabilityList(description);
  if (virtualFunctions === undefined) return new EduDevice(system, { dmaMask, capabilities });
  // What asks for pages and knows of PASIDs is the physical function's, for all of them (PCIe 9.3.7).
  const theirs = capabilities.filter(({ id }) => id !== EXTENDED_PRI && id !== EXTENDED_PASID);
  const functions = Array.from(
    { length: virtualFunctions.total },
    () => new EduDevice(system, { dmaMask, capabilities: theirs, virtual: true }),
  );
  return new EduDevice(system, { dmaMask, capabilities, virtualFunctions: { ...virtualFunctions, functions } });
}

function capabilityList({ behind, capabilities, virtualFunctions }: DeviceDescription): Capability[] {
  const { express: isExpress, flr, acs, ats, pri, pasidBits } = capabilities;
  const list: Capability[] = [];
  if (isExpress) {
    const type = behind === undefined ? "integratedEndpoint" : "endpoint";
    list.push(express({ type, functionLevelReset: flr || virtualFunctions !== undefined }));
  }
  if (virtualFunctions !== undefined) list.push(alternativeRouting());
  if (acs) list.push(accessControl(ISOLATING_CONTROLS));
  if (ats) list.push(addressTranslation());
  if (pri) list.push(pageRequests());
  if (pasidBits > 0) list.push(pasid({ width: pasidBits }));
  return list;
}
