// Runs in a browser.
import { EXTENDED_PASID, type PciFunction } from "../pci/index.ts";
import type { IommuInstance } from "./driver.ts";
import type { Group } from "./group.ts";
import type { Grouping } from "./grouping.ts";

/** What the firmware says of a device's way to an IOMMU (Linux's fwspec): whose input it is, and under which stream ids. */
export interface FirmwareSpec {
  /** Name of the instance, as registered with the core. */
  readonly instance: string;
  readonly streamIds: readonly number[];
  /** The device may be stalled on a fault. */
  readonly canStall?: boolean;
  /** Width of the PASIDs that a device without a PCI PASID capability can use. */
  readonly pasidBits?: number;
}

/** What the core and the driver keep of a probed device (Linux's dev_iommu). */
export interface DeviceIommu {
  readonly instance: IommuInstance;
  /** PASIDs that device and instance both support; 0 for none. */
  maxPasids: number;
  /** The driver's own data. */
  data: unknown;
  /** Has direct regions that must stay mapped: never blocked, never owned by a user. */
  requireDirect: boolean;
  /** Why it is in its group, where the topology decided. */
  grouping?: Grouping;
}

/** A device that masters the bus, as the core sees it. */
export class Device {
  /** `"0000:00:01.0"`, or a platform device's name. */
  readonly name: string;
  readonly pci: PciFunction | undefined;
  readonly firmware: FirmwareSpec | undefined;
  /** Name of the driver bound to it, such as `"vfio-pci"`. */
  driver: string | undefined;
  /** Set while probed. */
  iommu: DeviceIommu | undefined;
  /** Set while probed: a device is a member of at most one group. */
  group: Group | undefined;

  constructor(options: { name: string; pci?: PciFunction; firmware?: FirmwareSpec; driver?: string }) {
    this.name = options.name;
    this.pci = options.pci;
    this.firmware = options.firmware;
    this.driver = options.driver;
  }

  get label(): string {
    return `device ${this.name}`;
  }

  /** Width of the PASIDs that it can use, by its PCI capability, else by the firmware; 0 for none. */
  get pasidBits(): number {
    const capability = this.pci?.extendedCapability(EXTENDED_PASID);
    if (capability === undefined) return this.firmware?.pasidBits ?? 0;
    return this.pci!.readConfig(capability + 5, 1) & 0x1f;
  }
}
