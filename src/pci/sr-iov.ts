// Runs in a browser.
/**
 * SR-IOV (PCIe base specification 9): a physical function and the virtual ones that it can turn into.
 *
 * A virtual function is a whole function of its own, but for what it has in common with the others: its configuration space
 * holds neither its ids nor its BARs, its vendor is the physical function's, its device id and its place on the bus are
 * arithmetic on numbers in the physical function's SR-IOV capability. It answers while VF Enable is set there.
 *
 * Always true: the functions know their places from the start; a bus has those that software knows of (hot-plug.ts).
 */
import { PlacedBar } from "./bar.ts";
import {
  SR_IOV_BASE_ADDRESS_0,
  SR_IOV_CONTROL,
  SR_IOV_COUNT,
  SR_IOV_DEVICE,
  SR_IOV_ENABLE,
  SR_IOV_MEMORY,
  SR_IOV_OFFSET,
  SR_IOV_STRIDE,
  type VirtualFunctionIds,
} from "./capabilities.ts";
import type { PciFunction } from "./function.ts";
import { DEVICE_ID, EXTENDED_SR_IOV, VENDOR_ID } from "./ids.ts";

/** The virtual functions of a physical one. */
export class VirtualFunctions {
  readonly physical: PciFunction;
  /** All that there can be. */
  readonly functions: readonly PciFunction[];
  readonly ids: VirtualFunctionIds;
  /** By BAR number: each has a share for every virtual function. */
  readonly bars: readonly (PlacedBar | undefined)[];
  /** How many of them software knows of: as many as it turned on. */
  known = 0;
  /** Drivers are bound to them when they appear (sysfs `sriov_drivers_autoprobe`). */
  bindsDrivers = true;
  private readonly capability: number;
  private areOn = false;

  /** `capability`: where it is in the configuration space of the physical function. */
  constructor(physical: PciFunction, capability: number, ids: VirtualFunctionIds, functions: readonly PciFunction[]) {
    const { config } = physical;
    this.physical = physical;
    this.functions = functions;
    this.ids = ids;
    this.capability = capability;
    this.bars = functions[0].bars.map(
      (bar) => bar && new PlacedBar(config, bar.description, capability + SR_IOV_BASE_ADDRESS_0, functions.length),
    );
    for (const [index, virtual] of functions.entries()) virtual.virtual = { of: this, index };
  }

  /** Those that software knows of. */
  get present(): readonly PciFunction[] {
    return this.functions.slice(0, this.known);
  }

  /** Software lets the first `count` answer, 0 for none. */
  turnOn(count: number): void {
    const { physical, capability } = this;
    const enable = SR_IOV_ENABLE | SR_IOV_MEMORY;
    const control = physical.readConfig(capability + SR_IOV_CONTROL, 2) & ~enable;
    if (count > 0) physical.writeConfig(capability + SR_IOV_COUNT, 2, count);
    physical.writeConfig(capability + SR_IOV_CONTROL, 2, count > 0 ? control | enable : control);
    if (count === 0) physical.writeConfig(capability + SR_IOV_COUNT, 2, 0);
  }

  /** The capability may have changed: what is turned off forgets everything. */
  settle(): void {
    const areOn = (this.physical.config.read(this.capability + SR_IOV_CONTROL, 2) & SR_IOV_ENABLE) !== 0;
    if (this.areOn && !areOn) for (const virtual of this.functions) virtual.functionLevelReset();
    this.areOn = areOn;
  }
}

/** Which physical function a virtual one is of; undefined for a function that is not virtual, and where nobody says that it is his. */
export function physicalFunctionOf(member: PciFunction): PciFunction | undefined {
  if (member.virtual !== undefined) return member.virtual.of.physical;
  const bus = member.isVirtual ? member.place?.bus : undefined;
  if (bus === undefined) return undefined;
  // Most often it is on the same bus.
  for (const where of [bus, ...bus.host.buses]) {
    const found = where.functions.find((candidate) => isOf(member, candidate));
    if (found !== undefined) return found;
  }
  return undefined;
}

/** The ids by which software knows a function: a virtual one has them from its physical function. */
export function idsOf(member: PciFunction): { readonly vendor: number; readonly device: number } {
  const physical = physicalFunctionOf(member);
  if (physical === undefined) {
    return { vendor: member.readConfig(VENDOR_ID, 2), device: member.readConfig(DEVICE_ID, 2) };
  }
  const capability = physical.extendedCapability(EXTENDED_SR_IOV)!;
  return {
    vendor: physical.readConfig(VENDOR_ID, 2),
    device: physical.readConfig(capability + SR_IOV_DEVICE, 2),
  };
}

function isOf(virtual: PciFunction, candidate: PciFunction): boolean {
  const capability = candidate.extendedCapability(EXTENDED_SR_IOV);
  if (capability === undefined) return false;
  const [count, first, stride] = [SR_IOV_COUNT, SR_IOV_OFFSET, SR_IOV_STRIDE].map((at) =>
    candidate.readConfig(capability + at, 2),
  );
  const index = (virtual.requesterId - candidate.requesterId - first) / (stride || 1);
  return Number.isInteger(index) && index >= 0 && index < count;
}
