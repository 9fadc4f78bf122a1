// Runs in a browser.
/** virtio-mmio (virtio 1.2, §4.2.2): the registers, and what is done with them. */
import type { RegisterBlock } from "../../memory/index.ts";

export const MAGIC_VALUE = 0x000;
export const VERSION = 0x004;
export const DEVICE_ID = 0x008;
export const DEVICE_FEATURES = 0x010;
export const DEVICE_FEATURES_SEL = 0x014;
export const DRIVER_FEATURES = 0x020;
export const DRIVER_FEATURES_SEL = 0x024;
export const QUEUE_SEL = 0x030;
export const QUEUE_NUM_MAX = 0x034;
export const QUEUE_NUM = 0x038;
export const QUEUE_READY = 0x044;
export const QUEUE_NOTIFY = 0x050;
export const INTERRUPT_STATUS = 0x060;
export const INTERRUPT_ACK = 0x064;
export const STATUS = 0x070;
export const QUEUE_DESC = 0x080;
export const QUEUE_DRIVER = 0x090;
export const QUEUE_DEVICE = 0x0a0;
export const CONFIG_GENERATION = 0x0fc;
export const CONFIG = 0x100;

export const MAGIC = 0x74726976;
export const IOMMU_DEVICE = 23;

export const STATUS_ACKNOWLEDGE = 1;
export const STATUS_DRIVER = 2;
export const STATUS_DRIVER_OK = 4;
export const STATUS_FEATURES_OK = 8;
export const STATUS_NEEDS_RESET = 64;
export const STATUS_FAILED = 128;

export const INTERRUPT_USED = 1;
export const INTERRUPT_CONFIG = 2;

/** Adds a status bit. */
export function addStatus(registers: RegisterBlock, bit: number): void {
  registers.write32(STATUS, registers.read32(STATUS) | bit);
}

/** True if the device cannot go on until it is reset (§2.1.2). */
export function needsReset(registers: RegisterBlock): boolean {
  return (registers.read32(STATUS) & STATUS_NEEDS_RESET) !== 0;
}
