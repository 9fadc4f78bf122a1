// Runs in a browser.
/**
 * Devices that translate ahead (reference 6.7, "ATS"; Arm IHI 0070 section 3.9.2).
 *
 * Always true (invariant 31): a device translates ahead only while its STEs allow it. So ATS is turned on after the STE
 * says EATS, and off, with what the device still knows forgotten, before the STE ceases to. Which translations it knows is
 * kept with those of the TLB: see `invalidation.ts`.
 */
import type { Device } from "../../iommu/index.ts";
import { disableAts, EXTENDED_ATS, enableAts, type PciFunction } from "../../pci/index.ts";
import { EOPNOTSUPP, refuse, type Task } from "../../runtime/index.ts";
import { invalidateDeviceCache } from "./commands.ts";
import type { SmmuV3Instance } from "./instance.ts";
import type { InvalidationTarget } from "./invalidation.ts";
import type { Master } from "./master.ts";

/** A device that may translate ahead. */
export interface DeviceAts {
  readonly member: PciFunction;
  /** It does not work without: also where its traffic passes as it is, it must be able to ask. */
  readonly isRequired: boolean;
  isEnabled: boolean;
}

/**
 * ATS of a device, undefined if device, SMMU or what is between lacks it. A device that may be stalled has none: what it
 * translates ahead never stalls. Refusal EOPNOTSUPP for a device that requires it in vain.
 */
export function findAts(device: Device, { features, label }: SmmuV3Instance, canStall: boolean): DeviceAts | undefined {
  const { pci, firmware } = device;
  const isRequired = firmware?.ats === "required";
  const isThere = pci?.extendedCapability(EXTENDED_ATS) !== undefined && firmware?.ats !== undefined && features.ats;
  if (isRequired && !(isThere && !canStall && features.stage1 && features.substreamIdBits > 0)) {
    refuse(EOPNOTSUPP, () => `${device.label} requires ATS with substreams, which ${label} cannot give it`);
  }
  return isThere && !canStall ? { member: pci, isRequired, isEnabled: false } : undefined;
}

/** The STEs allow ATS now: turns it on, in units of the smallest pages that there are. */
export function turnOnAts({ ats, instance: { features, system }, device }: Master): void {
  if (ats === undefined || ats.isEnabled) return;
  enableAts(ats.member, features.granules[0]);
  ats.isEnabled = true;
  if (system.events.on) system.events.emit({ kind: "smmuv3.ats.enable", device: device.name });
}

/** Before the STEs cease to allow ATS: when it returns, the device uses no translation of its own. Cannot fail. */
export function* turnOffAts(master: Master): Task<void> {
  const { ats, instance, device } = master;
  if (ats === undefined || !ats.isEnabled) return;
  disableAts(ats.member);
  ats.isEnabled = false;
  yield* forgetAhead(master);
  const { events } = instance.system;
  if (events.on) events.emit({ kind: "smmuv3.ats.disable", device: device.name });
}

/** When it returns, the device knows no translation, of its own traffic nor of any PASID. */
export function* forgetAhead({ instance, streamIds }: Master): Task<void> {
  for (const streamId of streamIds) invalidateDeviceCache(instance.commands, streamId, undefined);
  yield* instance.commands.sync();
}

/**
 * What a domain's translations may leave behind: its own targets, and what the device, or one PASID of it, comes to know
 * ahead. Below a guest's stage 1 the device uses addresses that the domain does not know.
 */
export function targetsOn(
  { ats, streamIds }: Master,
  targets: readonly InvalidationTarget[],
  pasid?: number,
): InvalidationTarget[] {
  if (ats === undefined) return [...targets];
  const kind = targets.some((target) => target.kind === "stage 1 of vmid") ? "whole device" : "device";
  return [...targets, ...streamIds.map((streamId) => ({ kind, tag: streamId, pasid }) as const)];
}
