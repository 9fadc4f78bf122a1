// Runs in a browser.
import { EXTENDED_ATS, EXTENDED_PASID, EXTENDED_PRI, type PciFunction, physicalFunctionOf } from "../pci/index.ts";
import type { DefaultDomainWish, IommuInstance, ReservedRegion } from "./driver.ts";
import type { DeviceFaults } from "./faults.ts";
import type { Group } from "./group.ts";
import type { Grouping } from "./grouping.ts";

/** Bits of the control register of a PASID capability: execute permission enabled, privileged mode enabled. */
export const PASID_CONTROL_EXECUTE = 2;
export const PASID_CONTROL_PRIVILEGED = 4;

/** What the firmware says of a device's way to an IOMMU (Linux's fwspec): whose input it is, and under which stream ids. */
export interface FirmwareSpec {
  /** Name of the instance, as registered with the core. */
  readonly instance: string;
  readonly streamIds: readonly number[];
  /** The device may be stalled on a fault. */
  readonly canStall?: boolean;
  /** What is between device and memory lets ATS through; `"required"`: the device does not work without. */
  readonly ats?: "supported" | "required";
  /** Width of the PASIDs that a device without a PCI PASID capability can use; 0 bits are one PASID, which stands for none. */
  readonly pasidBits?: number;
  /** Addresses that the device must or must not use, besides those that its IOMMU's driver knows of. */
  readonly reserved?: readonly ReservedRegion[];
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
  /** Not attached to the default domain yet, since it may be in the middle of DMA: see switching.ts. */
  attachDeferred: boolean;
  /** A driver took it neither on nor back: it is blocked, or where nobody knows, whatever its group translates through. */
  stranded: boolean;
  /** How many resets of it are under way, one inside the other: see reset-window.ts. */
  resetDepth: number;
  /** Nanoseconds after which a page request that nobody answers is answered INVALID; never, if absent. */
  readonly pageRequestTimeout?: number | undefined;
  /** While it may report page requests. */
  faults?: DeviceFaults | undefined;
  /** Why it is in its group, where the topology decided. */
  grouping?: Grouping;
}

export interface DeviceOptions {
  readonly name: string;
  readonly pci?: PciFunction;
  readonly firmware?: FirmwareSpec;
  readonly driver?: string;
  readonly untrusted?: boolean;
  readonly defaultDomain?: DefaultDomainWish;
}

/** A device that masters the bus, as the core sees it. */
export class Device {
  /** `"0000:00:01.0"`, or a platform device's name. */
  readonly name: string;
  readonly pci: PciFunction | undefined;
  /** What the firmware says of its IOMMU; see firmware.ts. */
  firmware: FirmwareSpec | undefined;
  /** Plugged in where anybody can plug in something: it is never given all of memory, and never uses ATS. */
  readonly untrusted: boolean;
  /** The only default domain with which it works, if there is one: what drivers know as a quirk of the device. */
  readonly defaultDomain: DefaultDomainWish | undefined;
  /** Name of the driver bound to it, such as `"vfio-pci"`. */
  driver: string | undefined;
  /** Set while probed. */
  iommu: DeviceIommu | undefined;
  /** Set while probed: a device is a member of at most one group. */
  group: Group | undefined;

  constructor(options: DeviceOptions) {
    this.name = options.name;
    this.pci = options.pci;
    this.firmware = options.firmware;
    this.untrusted = options.untrusted ?? false;
    this.defaultDomain = options.defaultDomain;
    this.driver = options.driver;
  }

  get label(): string {
    return `device ${this.name}`;
  }

  /** Width of the PASIDs that it can use, by its PCI capability, else by the firmware; 0 for none. */
  get pasidBits(): number {
    const pci = this.pasidBearer;
    const capability = pci?.extendedCapability(EXTENDED_PASID);
    if (capability === undefined) return this.firmware?.pasidBits ?? 0;
    return pci!.readConfig(capability + 5, 1) & 0x1f;
  }

  /** How many PASIDs that makes, the one included that stands for none; 0 without. A firmware may say that 0 bits are used. */
  get pasids(): number {
    const bits = this.pasidBits;
    return bits === 0 && this.firmware?.pasidBits !== 0 ? 0 : 2 ** bits;
  }

  /** Its page requests go through an interface that is not its own alone: the one that its physical function has for all. */
  get sharesPageRequests(): boolean {
    return this.pci !== undefined && physicalFunctionOf(this.pci)?.extendedCapability(EXTENDED_PRI) !== undefined;
  }

  /** It can ask its IOMMU for translations and keep them (ATS), and is trusted to. */
  get usesAts(): boolean {
    return !this.untrusted && this.pci?.extendedCapability(EXTENDED_ATS) !== undefined;
  }

  /** The control register of its PASID capability; 0 without. */
  get pasidControl(): number {
    const pci = this.pasidBearer;
    const capability = pci?.extendedCapability(EXTENDED_PASID);
    return capability === undefined ? 0 : pci!.readConfig(capability + 6, 2);
  }

  /** Who has its PASID capability: virtual functions use that of their physical function (PCIe 9.3.7). */
  private get pasidBearer(): PciFunction | undefined {
    return this.pci && (physicalFunctionOf(this.pci) ?? this.pci);
  }
}
