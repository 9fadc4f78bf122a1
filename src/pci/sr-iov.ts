// Runs in a browser.
/** Which physical function a virtual one is of: its SR-IOV capability says where they are (PCIe 9.3.3). */
import type { PciFunction } from "./function.ts";
import { EXTENDED_SR_IOV } from "./ids.ts";

const COUNT = 0x10;
const FIRST_OFFSET = 0x14;
const STRIDE = 0x16;

/** Undefined for a function that is not virtual, and where nobody says that it is his. */
export function physicalFunctionOf(virtual: PciFunction): PciFunction | undefined {
  const place = virtual.isVirtual ? virtual.place : undefined;
  return place?.bus.host.functions.find((candidate) => isOf(virtual, candidate));
}

function isOf(virtual: PciFunction, candidate: PciFunction): boolean {
  const capability = candidate.extendedCapability(EXTENDED_SR_IOV);
  if (capability === undefined) return false;
  const [count, first, stride] = [COUNT, FIRST_OFFSET, STRIDE].map((at) => candidate.readConfig(capability + at, 2));
  const index = (virtual.requesterId - candidate.requesterId - first) / (stride || 1);
  return Number.isInteger(index) && index >= 0 && index < count;
}
