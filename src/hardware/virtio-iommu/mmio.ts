// Runs in a browser.
/**
 * virtio-mmio (§4.2.2), version 2: registers, the handshake of status and features (§2.1, §2.2, §3.1), interrupts.
 *
 * It knows nothing of the device behind it but what {@link MmioDevice} says. Accesses have 32 bits, those to the
 * configuration space too. A write that the specification forbids at that moment changes nothing.
 */
import { CONFIG_SIZE } from "./config.ts";
import type { Virtqueue } from "./virtqueue.ts";

const MAGIC_VALUE = 0x000;
const VERSION = 0x004;
const DEVICE_ID = 0x008;
const VENDOR_ID = 0x00c;
const DEVICE_FEATURES = 0x010;
const DEVICE_FEATURES_SEL = 0x014;
const DRIVER_FEATURES = 0x020;
const DRIVER_FEATURES_SEL = 0x024;
const QUEUE_SEL = 0x030;
const QUEUE_NUM_MAX = 0x034;
const QUEUE_NUM = 0x038;
const QUEUE_READY = 0x044;
const QUEUE_NOTIFY = 0x050;
const INTERRUPT_STATUS = 0x060;
const INTERRUPT_ACK = 0x064;
const STATUS = 0x070;
const QUEUE_DESC = 0x080;
const QUEUE_DRIVER = 0x090;
const QUEUE_DEVICE = 0x0a0;
const SHM_LEN = 0x0b0;
const SHM_BASE = 0x0b8;
const CONFIG_GENERATION = 0x0fc;
const CONFIG = 0x100;
/** Bytes of the register block. */
export const REGISTERS_SIZE = 0x200;

const MAGIC = 0x74726976;
/** `"uiom"`, as a number. */
const VENDOR = 0x6d6f6975;

export const STATUS_DRIVER_OK = 4;
export const STATUS_FEATURES_OK = 8;
export const STATUS_NEEDS_RESET = 64;
/** Bits of InterruptStatus. */
export const INTERRUPT_USED = 1;
export const INTERRUPT_CONFIG = 2;

/** What stands behind the registers. */
export interface MmioDevice {
  readonly deviceId: number;
  /** Bits 31:0 and 63:32. */
  readonly features: readonly [low: number, high: number];
  /** Bits of {@link features} without which the device does not work. */
  readonly required: readonly [low: number, high: number];
  readonly queues: readonly Virtqueue[];
  readConfig(offset: number): number;
  writeConfig(offset: number, value: number): void;
  /** The driver and the device have agreed on `features`. */
  negotiated(low: number, high: number): void;
  /** Buffers are in this queue, and the driver is there. */
  notified(queue: number): void;
  /** Everything that the driver made is to be forgotten. */
  reset(): void;
}

export class MmioRegisters {
  private readonly device: MmioDevice;
  private readonly interrupt: () => void;
  private status = 0;
  private deviceFeaturesSel = 0;
  private driverFeaturesSel = 0;
  private driverFeatures: [number, number] = [0, 0];
  private queueSel = 0;
  private interruptStatus = 0;

  constructor(device: MmioDevice, interrupt: () => void) {
    this.device = device;
    this.interrupt = interrupt;
  }

  /** The driver is there, and the device is fit to work. */
  get isLive(): boolean {
    return (this.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET)) === STATUS_DRIVER_OK;
  }

  get featuresAreNegotiated(): boolean {
    return (this.status & STATUS_FEATURES_OK) !== 0;
  }

  raise(reason: number): void {
    this.interruptStatus |= reason;
    this.interrupt();
  }

  /** The device cannot go on (§2.1.2): a driver that is there is told. */
  needReset(): void {
    const isTold = (this.status & STATUS_DRIVER_OK) !== 0;
    this.status |= STATUS_NEEDS_RESET;
    if (isTold) this.raise(INTERRUPT_CONFIG);
  }

  read(offset: number): number {
    if (offset >= CONFIG) return offset < CONFIG + CONFIG_SIZE ? this.device.readConfig(offset - CONFIG) : 0;
    const { device } = this;
    const queue = device.queues[this.queueSel];
    switch (offset) {
      case MAGIC_VALUE:
        return MAGIC;
      case VERSION:
        return 2;
      case DEVICE_ID:
        return device.deviceId;
      case VENDOR_ID:
        return VENDOR;
      case DEVICE_FEATURES:
        return (device.features[this.deviceFeaturesSel] ?? 0) >>> 0;
      case QUEUE_NUM_MAX:
        return queue?.maximum ?? 0;
      case QUEUE_READY:
        return queue?.isReady ? 1 : 0;
      case INTERRUPT_STATUS:
        return this.interruptStatus;
      case STATUS:
        return this.status;
      // There is no shared memory: its length and place read as all ones (§4.2.2).
      case SHM_LEN:
      case SHM_LEN + 4:
      case SHM_BASE:
      case SHM_BASE + 4:
        return 0xffffffff;
      // The configuration changes by the driver's own hand only.
      case CONFIG_GENERATION:
        return 0;
      default:
        return 0;
    }
  }

  write(offset: number, value: number): void {
    if (offset >= CONFIG) {
      this.device.writeConfig(offset - CONFIG, value);
      return;
    }
    switch (offset) {
      case DEVICE_FEATURES_SEL:
        this.deviceFeaturesSel = value;
        return;
      case DRIVER_FEATURES_SEL:
        this.driverFeaturesSel = value;
        return;
      case DRIVER_FEATURES:
        if (!this.featuresAreNegotiated && this.driverFeaturesSel < 2)
          this.driverFeatures[this.driverFeaturesSel] = value;
        return;
      case QUEUE_SEL:
        this.queueSel = value;
        return;
      case QUEUE_NOTIFY:
        if (this.isLive && value < this.device.queues.length) this.device.notified(value);
        return;
      case INTERRUPT_ACK:
        this.interruptStatus &= ~value;
        return;
      case STATUS:
        this.writeStatus(value & 0xff);
        return;
      default:
        this.writeQueue(offset, value);
    }
  }

  /** Registers of the selected queue. Once it is ready they keep their values (§4.2.2.2). */
  private writeQueue(offset: number, value: number): void {
    const queue = this.device.queues[this.queueSel];
    if (queue === undefined) return;
    if (offset === QUEUE_READY) {
      if (value === 1) queue.start();
      else if (value === 0) queue.stop();
      return;
    }
    if (queue.isReady) return;
    const half = (offset & 4) === 0 ? 0 : 1;
    switch (offset - half * 4) {
      case QUEUE_NUM:
        if (half === 0) queue.size = value;
        return;
      case QUEUE_DESC:
        queue.descriptors[half] = value;
        return;
      case QUEUE_DRIVER:
        queue.driverArea[half] = value;
        return;
      case QUEUE_DEVICE:
        queue.deviceArea[half] = value;
        return;
    }
  }

  /**
   * 0 resets; bits once set stay until then. FEATURES_OK is set only if the device can work so (§3.1.1), and DRIVER_OK
   * not without it.
   */
  private writeStatus(value: number): void {
    const { device } = this;
    if (value === 0) {
      this.status = this.interruptStatus = 0;
      this.deviceFeaturesSel = this.driverFeaturesSel = this.queueSel = 0;
      this.driverFeatures = [0, 0];
      for (const queue of device.queues) queue.stop();
      device.reset();
      return;
    }
    const wasLive = this.isLive;
    let added = value & ~this.status & ~STATUS_NEEDS_RESET;
    if ((added & STATUS_FEATURES_OK) !== 0) {
      if (this.featuresFit()) device.negotiated(...this.driverFeatures);
      else added &= ~STATUS_FEATURES_OK;
    }
    if (((this.status | added) & STATUS_FEATURES_OK) === 0) added &= ~STATUS_DRIVER_OK;
    this.status |= added;
    if (!wasLive && this.isLive) for (const index of device.queues.keys()) device.notified(index);
  }

  private featuresFit(): boolean {
    const { features, required } = this.device;
    return this.driverFeatures.every(
      (accepted, word) => (accepted & ~features[word]) === 0 && (required[word] & ~accepted) === 0,
    );
  }
}
