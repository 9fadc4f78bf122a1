// Runs in a browser.
/**
 * The driver of an IOMMU that does not exist: what Linux tests iommufd with (CONFIG_IOMMUFD_TEST, reference 4.3 to 4.6).
 *
 * Its tables are real AMDv1 tables in memory, its caches are words that become 0 when they are invalidated, its devices do
 * nothing by themselves: who tests says what a device did. Everything else, from groups to HWPTs, is as for any driver.
 *
 * Where things are: a device's data in `device-state.ts`, the rules of attaching in `attach.ts`, domains in `domain.ts` and
 * `nested.ts`, viommus in `viommu.ts`, what clients pass in `user-data.ts`; devices come and go on the bus of `bus.ts`.
 *
 * Lock order: iommu.probe → iommu.group. There are no locks here: a device's data changes under its group's mutex.
 */
import {
  ALLOC_DIRTY_TRACKING,
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  type Capability,
  type Device,
  type Group,
  type IommuCore,
  type IommuDriver,
  type IommuInstance,
  type NestedDomain,
  type PagingDomain,
  type ReservedRegion,
  singleDeviceGroup,
  type UserData,
  type Viommu,
  type ViommuServices,
} from "../../iommu/index.ts";
import type { PhysicalMemory } from "../../memory/index.ts";
import { EOPNOTSUPP, refuse, type System, type Task } from "../../runtime/index.ts";
import { mockStateOf, newMockState } from "./device-state.ts";
import { MockBlockedDomain, MockPagingDomain, tableType } from "./domain.ts";
import { MockNestedDomain } from "./nested.ts";
import { HARDWARE_INFO, readHwptData, VIOMMU_TYPE } from "./user-data.ts";
import { MockViommu } from "./viommu.ts";

const PAGING_FLAGS = ALLOC_NEST_PARENT | ALLOC_DIRTY_TRACKING | ALLOC_PASID;
const MAX_PASIDS = 2 ** 20;
/** `iommu_test_hw_info`: u32 flags, u32 test_reg. */
const TEST_REGISTER = 0xdeadbeef;

/** What a mock device is told of itself when it is made. */
export interface MockDeviceOptions {
  readonly tracksDirty: boolean;
}

export interface MockInstance extends IommuInstance {
  readonly driver: MockDriver;
}

export class MockDriver implements IommuDriver {
  readonly name = "iommufd_mock";
  readonly blockedDomain: MockBlockedDomain = new MockBlockedDomain();
  readonly defaultDomain: MockBlockedDomain = this.blockedDomain;
  readonly releaseDomain: MockBlockedDomain = this.blockedDomain;
  readonly userPasidTables = true;
  /** The one IOMMU; to be registered with the core. */
  readonly instance: MockInstance = { name: "iommufd_selftest_iommu.0", driver: this, maxPasids: MAX_PASIDS };
  private readonly system: System;
  private readonly memory: PhysicalMemory;
  /** Of devices on the bus, from before they are probed. */
  private readonly options = new Map<Device, MockDeviceOptions>();

  constructor(system: System, memory: PhysicalMemory) {
    this.system = system;
    this.memory = memory;
  }

  /** What a device can, before it is probed. */
  describe(device: Device, options: MockDeviceOptions): void {
    this.options.set(device, options);
  }

  forget(device: Device): void {
    this.options.delete(device);
  }

  *probeDevice(device: Device): Task<void> {
    device.iommu!.data = newMockState(this.options.get(device)!.tracksDirty);
  }

  *releaseDevice(device: Device): Task<void> {
    device.iommu!.data = undefined;
  }

  deviceGroup(device: Device, core: IommuCore): Group {
    return singleDeviceGroup(device, core);
  }

  capable(device: Device, capability: Capability): boolean {
    switch (capability) {
      case "cache-coherency":
        return true;
      case "dirty-tracking":
        return mockStateOf(device).tracksDirty;
      case "noexec":
      case "enforce-cache-coherency":
      case "deferred-flush":
      case "pci-ats":
        return false;
    }
  }

  /** Refusals in order: EOPNOTSUPP (flags, dirty tracking, type of data), EINVAL (its length), EFAULT, EOPNOTSUPP, ENOMEM. */
  *allocatePaging(device: Device, flags: number, data: UserData | undefined): Task<PagingDomain> {
    const unknown = flags & ~PAGING_FLAGS;
    if (unknown !== 0) refuse(EOPNOTSUPP, () => `the mock IOMMU knows no HWPT flags 0x${unknown.toString(16)}`);
    const tracksDirty = (flags & ALLOC_DIRTY_TRACKING) !== 0;
    if (tracksDirty && !mockStateOf(device).tracksDirty) {
      refuse(EOPNOTSUPP, () => `${device.label} cannot track what it writes to`);
    }
    const type = tableType(data === undefined ? 0 : readHwptData(data).pageTableType);
    return new MockPagingDomain(this.system, this.memory, this, type, tracksDirty);
  }

  *allocateNested(_device: Device, _parent: PagingDomain, _flags: number, data: UserData): Task<NestedDomain> {
    return new MockNestedDomain(this, readHwptData(data).iotlb, undefined);
  }

  reservedRegions(_device: Device): ReservedRegion[] {
    return [];
  }

  hardwareInfo(_device: Device, requested: number): { readonly type: number; readonly bytes: Uint8Array } {
    if (requested !== 0 && requested !== HARDWARE_INFO) {
      refuse(EOPNOTSUPP, () => `the mock IOMMU has no information of type ${requested}`);
    }
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setUint32(4, TEST_REGISTER, true);
    return { type: HARDWARE_INFO, bytes };
  }

  supportsViommu(_device: Device, type: number): boolean {
    return type === VIOMMU_TYPE;
  }

  *allocateViommu(
    _device: Device,
    parent: PagingDomain,
    _type: number,
    data: UserData | undefined,
    services: ViommuServices,
  ): Task<Viommu> {
    return new MockViommu(this.instance, this.memory, parent, data, services);
  }

  /** Nobody waits for the answer: the device asked because a test told it to. */
  *pageResponse(): Task<void> {}
}

/** False for a device behind another IOMMU of the machine. */
export function isMockDevice(device: Device): boolean {
  return device.iommu?.instance.driver instanceof MockDriver;
}
