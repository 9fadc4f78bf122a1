// Runs in a browser.
/** An IOMMU driver without hardware: it lets the core form groups of a topology, and that is all. Its kind is Intel VT-d. */
import {
  type Capability,
  type Device,
  type Group,
  type IommuCore,
  type IommuDriver,
  type IommuInstance,
  PagingDomain,
  pciDeviceGroup,
  type ReservedRegion,
} from "../../iommu/index.ts";
import type { Task } from "../../runtime/index.ts";

/** Where an x86 interrupt controller takes messages: no device may use it for anything else. */
const MESSAGE_WINDOW: ReservedRegion = { start: 0xfee0_0000n, last: 0xfeef_ffffn, type: "msi" };

export class ObservingDriver implements IommuDriver {
  readonly name = "observer";
  private readonly regions: (device: Device) => readonly ReservedRegion[];

  /** `regions` are those that firmware reserved for a device. */
  constructor(regions: (device: Device) => readonly ReservedRegion[]) {
    this.regions = regions;
  }

  *probeDevice(): Task<void> {}

  *releaseDevice(): Task<void> {}

  deviceGroup(device: Device, core: IommuCore): Group {
    return pciDeviceGroup(device, core);
  }

  capable(_device: Device, _capability: Capability): boolean {
    return false;
  }

  *allocatePaging(): Task<PagingDomain> {
    return new OpenDomain(this);
  }

  reservedRegions(device: Device): ReservedRegion[] {
    return [...this.regions(device), MESSAGE_WINDOW];
  }
}

/** The instance that serves every device of a topology. */
export function observingInstance(driver: ObservingDriver): IommuInstance {
  return { name: "dmar0", driver, maxPasids: 0 };
}

/** Nobody translates through it: everything is where it is, so that direct regions need no mapping. */
class OpenDomain extends PagingDomain {
  readonly label = "the default domain";
  readonly owner: IommuDriver;
  readonly pageSizes: readonly number[] = [4096];
  readonly aperture = { start: 0n, last: 2n ** 48n - 1n };

  constructor(owner: IommuDriver) {
    super();
    this.owner = owner;
  }

  override *attachDevice(): Task<void> {}

  override free(): void {}

  override *map(): Task<void> {}

  override *unmap(): Task<number> {
    return 0;
  }

  override *sync(): Task<void> {}

  override translate(iova: bigint): number {
    return Number(iova);
  }
}
