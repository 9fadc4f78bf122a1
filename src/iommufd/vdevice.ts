// Runs in a browser.
import type { Task } from "../runtime/index.ts";
import type { IommufdDevice } from "./device.ts";
import { IommufdObject } from "./objects.ts";
import type { IommufdViommu } from "./viommu.ts";

/**
 * A device as a guest sees it: under an id of the guest's, on one viommu. A device has at most one. It is made under the
 * lock of the device's igroup, so that a device that goes finds it complete.
 */
export class Vdevice extends IommufdObject {
  static readonly noun = "vdevice";
  readonly kind = "VDEVICE";
  readonly viommu: IommufdViommu;
  readonly device: IommufdDevice;
  readonly virtualId: bigint;

  constructor(id: number, viommu: IommufdViommu, device: IommufdDevice, virtualId: bigint) {
    super(id, Vdevice.noun);
    this.viommu = viommu;
    this.device = device;
    this.virtualId = virtualId;
    viommu.users.get(this);
    device.users.get(this);
    device.vdevice = this;
    viommu.vdevices.set(virtualId, this);
  }

  /** Lets the driver take the device in. If it refuses, nothing is left but the id. */
  *build(): Task<void> {
    try {
      this.viommu.context.system.failures.point("iommufd.vdevice.allocate");
      const { driver } = this.viommu;
      if (driver.addDevice !== undefined) yield* driver.addDevice(this.device.device, this.virtualId);
    } catch (error) {
      this.dissolve();
      throw error;
    }
  }

  *destroy(): Task<void> {
    const { driver } = this.viommu;
    if (driver.removeDevice !== undefined) yield* driver.removeDevice(this.device.device, this.virtualId);
    this.dissolve();
  }

  describe(): Record<string, unknown> {
    return { viommu: this.viommu.id, device: this.device.id, virtualId: this.virtualId };
  }

  private dissolve(): void {
    this.viommu.vdevices.delete(this.virtualId);
    this.device.vdevice = undefined;
    this.device.users.put(this);
    this.viommu.users.put(this);
  }
}
