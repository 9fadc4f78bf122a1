// Runs in a browser.
import type { Process } from "../memory/index.ts";
import type { PciFunction } from "../pci/index.ts";
import { EINVAL, refuse } from "../runtime/index.ts";
import {
  DEVICE_FLAG_PCI,
  DEVICE_FLAG_RESET,
  DeviceInfo,
  IRQ_COUNT,
  IRQ_ERR,
  IrqInfo,
  REGION_COUNT,
  REGION_STRIDE,
  RegionInfo,
} from "../uapi/index.ts";
import type { DeviceInterrupts } from "./interrupts.ts";
import { describeRegion } from "./regions.ts";

/** Reads the first `minimum` bytes of a struct whose first field is `argsz`. EFAULT; EINVAL if argsz is below. */
export function readArgument<V extends { argsz: number; $bytes: Uint8Array }>(
  process: Process,
  argument: number,
  view: V,
  minimum: number,
): V {
  process.memory.read(argument, view.$bytes.subarray(0, minimum));
  if (view.argsz < minimum) refuse(EINVAL, () => `argsz ${view.argsz} is below ${minimum}`);
  return view;
}

/** GET_INFO (reference 5.5). There are no capabilities. */
export function deviceInfo(process: Process, argument: number, canReset: boolean): void {
  const info = readArgument(process, argument, new DeviceInfo(), DeviceInfo.endOf("num_irqs"));
  info.flags = DEVICE_FLAG_PCI | (canReset ? DEVICE_FLAG_RESET : 0);
  info.num_regions = REGION_COUNT;
  info.num_irqs = IRQ_COUNT;
  process.memory.write(argument, info.$bytes.subarray(0, Math.min(info.argsz, DeviceInfo.size)));
}

/** GET_REGION_INFO. There are no capabilities: what the client has in `cap_offset` stays. */
export function regionInfo(process: Process, argument: number, member: PciFunction): void {
  const info = readArgument(process, argument, new RegionInfo(), RegionInfo.size);
  const { size, flags } = describeRegion(member, info.index);
  info.flags = flags;
  info.size = BigInt(size);
  info.offset = BigInt(info.index * REGION_STRIDE);
  process.memory.write(argument, info.$bytes);
}

/** GET_IRQ_INFO. */
export function irqInfo(process: Process, argument: number, member: PciFunction, interrupts: DeviceInterrupts): void {
  const info = readArgument(process, argument, new IrqInfo(), IrqInfo.size);
  const { index } = info;
  if (index >= IRQ_COUNT) refuse(EINVAL, () => `there is no interrupt index ${index}; there are ${IRQ_COUNT}`);
  if (index === IRQ_ERR && !member.isExpress) refuse(EINVAL, () => `${member.name} is no PCI Express device`);
  info.flags = interrupts.flags(index);
  info.count = interrupts.available(index);
  process.memory.write(argument, info.$bytes);
}
