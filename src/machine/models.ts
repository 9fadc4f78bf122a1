// Runs in a browser.
import { CopyEngine, EduDevice } from "../hardware/devices/index.ts";
import {
  ACS,
  accessControl,
  addressTranslation,
  type Capability,
  express,
  type PciFunction,
  pageRequests,
  pasid,
} from "../pci/index.ts";
import type { System } from "../runtime/index.ts";
import type { CapabilityDescription, DeviceDescription } from "./description.ts";

/** Makes the device model that a description names. */
export function makeFunction(system: System, description: DeviceDescription): PciFunction {
  const { model, options } = description;
  const capabilities = capabilityList(description.capabilities);
  switch (model) {
    case "edu":
      return new EduDevice(system, {
        dmaMask: 2n ** BigInt(options.dmaMaskBits) - 1n,
        capabilities,
      });
    case "copy-engine":
      return new CopyEngine(system, { queues: options.queues, capabilities });
  }
}

function capabilityList({ express: isExpress, acs, ats, pri, pasidBits }: CapabilityDescription): Capability[] {
  const list: Capability[] = [];
  if (isExpress) list.push(express({ type: "integratedEndpoint" }));
  if (acs) {
    list.push(
      accessControl(ACS.sourceValidation | ACS.requestRedirect | ACS.completionRedirect | ACS.upstreamForwarding),
    );
  }
  if (ats) list.push(addressTranslation());
  if (pri) list.push(pageRequests());
  if (pasidBits > 0) list.push(pasid({ width: pasidBits }));
  return list;
}
