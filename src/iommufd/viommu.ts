// Runs in a browser.
import type { Device, HardwareQueue as DriverQueue, Viommu, ViommuServices } from "../iommu/index.ts";
import { EOPNOTSUPP, refuse, type Task } from "../runtime/index.ts";
import type { IommufdContext } from "./context.ts";
import type { EventQueue } from "./event-queue.ts";
import type { HwQueue } from "./hw-queue.ts";
import type { PagingHwpt } from "./hwpt.ts";
import { IommufdObject } from "./objects.ts";
import type { Vdevice } from "./vdevice.ts";

/**
 * A guest's view of one IOMMU: the driver's viommu, and what belongs to it. Everything that does is a user of it; it is a
 * user of its parent HWPT, so that outlives them all.
 */
export class IommufdViommu extends IommufdObject implements ViommuServices {
  static readonly noun = "vIOMMU";
  readonly kind = "VIOMMU";
  readonly context: IommufdContext;
  readonly type: number;
  /** The nesting parent. */
  readonly hwpt: PagingHwpt;
  /** By the guest's id of a device. */
  readonly vdevices = new Map<bigint, Vdevice>();
  /** By type of events. */
  readonly eventQueues = new Map<number, EventQueue>();
  /** By what the driver knows of them. */
  readonly hwQueues = new Map<DriverQueue, HwQueue>();
  private driverViommu: Viommu | undefined;

  constructor(id: number, context: IommufdContext, type: number, hwpt: PagingHwpt) {
    super(id, IommufdViommu.noun);
    this.context = context;
    this.type = type;
    this.hwpt = hwpt;
    hwpt.users.get(this);
  }

  /** What the driver keeps of it. */
  get driver(): Viommu {
    return this.driverViommu!;
  }

  /** `allocate` asks the driver, with this as services. If it refuses, nothing is left but the id. */
  *build(allocate: (services: ViommuServices) => Task<Viommu>): Task<void> {
    try {
      this.driverViommu = yield* allocate(this);
    } catch (error) {
      this.hwpt.users.put(this);
      throw error;
    }
  }

  *destroy(): Task<void> {
    yield* this.driver.free();
    this.hwpt.users.put(this);
  }

  describe(): Record<string, unknown> {
    const { type, hwpt, driver } = this;
    const vdevices = [...this.vdevices.values()].map(({ id, virtualId, device }) => ({
      id,
      virtualId,
      device: device.id,
    }));
    return { type, hwpt: hwpt.id, driver: driver.label, vdevices };
  }

  // ---- For the driver

  device(virtualId: bigint): Device | undefined {
    return this.vdevices.get(virtualId)?.device.device;
  }

  virtualId(device: Device): bigint | undefined {
    for (const vdevice of this.vdevices.values()) if (vdevice.device.device === device) return vdevice.virtualId;
    return undefined;
  }

  report(type: number, record: Uint8Array): void {
    const queue = this.eventQueues.get(type);
    if (queue === undefined) refuse(EOPNOTSUPP, () => `${this.label} has no queue for events of type ${type}`);
    queue.report(record);
  }

  publishWindow(pfn: number, count: number): bigint {
    this.context.system.failures.point("iommufd.window.publish");
    return this.context.windows.add(this, pfn, count);
  }

  retractWindow(offset: bigint): void {
    this.context.windows.remove(offset);
  }
}
