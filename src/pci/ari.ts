// Runs in a browser.
/**
 * Alternative routing-ID interpretation (PCIe base specification 6.13): behind a port that forwards it, a device has 256
 * functions instead of 8, which is how its virtual ones are reached.
 */
import { EXPRESS_ARI, EXPRESS_CAPABILITIES_2, EXPRESS_CONTROL_2, SR_IOV_ARI, SR_IOV_CONTROL } from "./capabilities.ts";
import type { PciFunction } from "./function.ts";
import { CAPABILITY_EXPRESS, EXTENDED_ARI, EXTENDED_SR_IOV } from "./ids.ts";

/** The first function of a device is found: the port above it may forward, and the first physical one is told. */
export function enableAri(member: PciFunction): void {
  const { bus } = member.place!;
  const express = bus.bridge?.capability(CAPABILITY_EXPRESS);
  if (express !== undefined && member.devfn === 0 && member.extendedCapability(EXTENDED_ARI) !== undefined) {
    const bridge = bus.bridge!;
    if (bridge.readConfig(express + EXPRESS_CAPABILITIES_2, 4) & EXPRESS_ARI) {
      const control = bridge.readConfig(express + EXPRESS_CONTROL_2, 2);
      bridge.writeConfig(express + EXPRESS_CONTROL_2, 2, control | EXPRESS_ARI);
    }
  }
  const first = bus.functions.find(({ virtualFunctions }) => virtualFunctions !== undefined);
  if (member === first && usesAri(member)) {
    const control = member.extendedCapability(EXTENDED_SR_IOV)! + SR_IOV_CONTROL;
    member.writeConfig(control, 2, member.readConfig(control, 2) | SR_IOV_ARI);
  }
}

/** The port above the function forwards all function numbers. */
export function usesAri({ place }: PciFunction): boolean {
  const bridge = place!.bus.bridge;
  const express = bridge?.capability(CAPABILITY_EXPRESS);
  return express !== undefined && (bridge!.readConfig(express + EXPRESS_CONTROL_2, 2) & EXPRESS_ARI) !== 0;
}
