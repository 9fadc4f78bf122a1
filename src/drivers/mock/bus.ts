// Runs in a browser.
import { Device, type IommuCore } from "../../iommu/index.ts";
import { ENOSPC, IdAllocator, refuse, type Task } from "../../runtime/index.ts";
import type { MockDriver } from "./driver.ts";

/** 2^20 PASIDs, or the one that stands for none. */
const PASID_BITS = 20;

export interface MockBusDevice {
  readonly tracksDirty: boolean;
  readonly pasids: boolean;
}

/** The bus `iommufd_mock`: devices that come when somebody asks for them, each in a group of its own. */
export class MockBus {
  readonly core: IommuCore;
  readonly driver: MockDriver;
  private readonly numbers = new IdAllocator(0, 2 ** 31 - 1);
  private readonly numberOf = new Map<Device, number>();

  constructor(core: IommuCore, driver: MockDriver) {
    this.core = core;
    this.driver = driver;
  }

  /** The devices that are plugged in. */
  get devices(): readonly Device[] {
    return [...this.numberOf.keys()];
  }

  /** A new device `iommufd_mock<n>` with the lowest free n, probed. Refusals of the core's probe; then there is none. */
  *plug({ tracksDirty, pasids }: MockBusDevice): Task<Device> {
    const number = this.numbers.allocate() ?? refuse(ENOSPC, () => "the mock bus is full");
    const { instance } = this.driver;
    const device = new Device({
      name: `iommufd_mock${number}`,
      firmware: { instance: instance.name, streamIds: [], pasidBits: pasids ? PASID_BITS : 0 },
    });
    this.driver.describe(device, { tracksDirty });
    this.numberOf.set(device, number);
    try {
      yield* this.core.probe(device);
    } catch (error) {
      this.forget(device);
      throw error;
    }
    return device;
  }

  /** The mirror image of {@link plug}. Cannot fail. */
  *unplug(device: Device): Task<void> {
    yield* this.core.release(device);
    this.forget(device);
  }

  private forget(device: Device): void {
    this.driver.forget(device);
    this.numbers.free(this.numberOf.get(device)!);
    this.numberOf.delete(device);
  }
}
