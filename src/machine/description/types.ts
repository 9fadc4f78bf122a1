// Runs in a browser.
/** A machine, described: every default filled in, every reference checked. What `buildMachine` builds. */
export interface MachineDescription {
  readonly name: string;
  /** One sentence for people, or "". */
  readonly about: string;
  readonly memory: MemoryDescription;
  /** Physical address of the 1 MiB where message interrupts go: devices cannot reach what an IOVA there stands for. */
  readonly doorbell: number;
  /** How devices translate that nobody has taken. */
  readonly defaultDomain: "identity" | "dma" | "dma-fq";
  /** In the order in which they are probed. */
  readonly iommus: readonly IommuDescription[];
  /** Each comes before those behind it. */
  readonly bridges: readonly BridgeDescription[];
  /** One for each PCI function that is no bridge, in the order in which an operating system finds them. */
  readonly devices: readonly DeviceDescription[];
  /** Devices that no bus finds, in the order in which they are probed: before those of PCI. */
  readonly platform: readonly PlatformDescription[];
}

export interface MemoryDescription {
  /** Physical address of RAM, and its size in bytes: multiples of 2 MiB. */
  readonly base: number;
  readonly size: number;
  /** RLIMIT_MEMLOCK of the clients in bytes, Infinity for none; "inherit": what each client really has. */
  readonly memlock: number | "inherit";
}

export type IommuDescription = SmmuDescription | VirtioIommuDescription;

interface AnyIommuDescription {
  readonly name: string;
  /** Physical address of the registers: two pages of 64 KiB, one after the other. */
  readonly base: number;
}

export interface SmmuDescription extends AnyIommuDescription {
  readonly kind: "smmuv3";
  readonly features: SmmuFeatureDescription;
}

export interface VirtioIommuDescription extends AnyIommuDescription {
  readonly kind: "virtio-iommu";
  readonly features: VirtioIommuFeatureDescription;
}

/** What a virtio IOMMU offers. Its rings are always cache coherent. */
export interface VirtioIommuFeatureDescription {
  /** Of an IOVA: below 64 the device announces a range. */
  readonly inputBits: number;
  /** Of a domain's id: below 32 the device announces a range. */
  readonly domainBits: number;
  /** It tells each device's reserved regions. */
  readonly probe: boolean;
  /** Mappings of device memory are told apart. */
  readonly mmio: boolean;
  /** Whether devices without a domain reach memory untranslated until a driver says otherwise; "absent": they never do. */
  readonly bypass: "on" | "off" | "absent";
  /** Devices may be attached to tables of the driver's own: PASIDs. */
  readonly attachTable: boolean;
}

/** What the ID registers of an SMMUv3 say. It can nest when it has both stages. */
export interface SmmuFeatureDescription {
  readonly stage1: boolean;
  readonly stage2: boolean;
  readonly rangeInvalidation: boolean;
  readonly dirtyTracking: boolean;
  /** It hears the TLB maintenance of the CPU. */
  readonly broadcastTlb: boolean;
  readonly twoLevelStreamTable: boolean;
  readonly coherent: boolean;
  /** Address translation services, and page requests, which need them. */
  readonly ats: boolean;
  readonly pri: boolean;
  /** In bytes, ascending. */
  readonly granules: readonly Granule[];
  /** Of a physical address. An input address has 48 bits, with 52 here as many; both with the granule of 64 KiB alone. */
  readonly outputBits: 32 | 36 | 40 | 42 | 44 | 48 | 52;
  readonly asidBits: 8 | 16;
  readonly vmidBits: 8 | 16;
  /** 0 for none. */
  readonly pasidBits: number;
  readonly streamIdBits: number;
}

export type Granule = 4096 | 16384 | 65536;

/** One PCI function. */
export type DeviceDescription = EduDescription | CopyEngineDescription;

export interface EduDescription extends AnyDeviceDescription {
  readonly model: "edu";
  readonly options: EduOptions;
}

export interface CopyEngineDescription extends AnyDeviceDescription {
  readonly model: "copy-engine";
  readonly options: CopyEngineOptions;
}

/** One function that leads to another bus. */
export interface BridgeDescription extends AnyFunctionDescription {
  readonly model: BridgeModel;
  /** What the file calls it. */
  readonly name: string;
  /** The number of the bus behind it, and of the last one below. */
  readonly buses: BusRange;
  /** It offers Access Control Services. */
  readonly acs: boolean;
}

/** Numbers of buses, both inclusive. */
export interface BusRange {
  readonly first: number;
  readonly last: number;
}

export type FunctionDescription = DeviceDescription | BridgeDescription;

export const BRIDGE_MODELS = [
  "root-port",
  "upstream-port",
  "downstream-port",
  "pcie-to-pci-bridge",
  "pci-bridge",
] as const;
export type BridgeModel = (typeof BRIDGE_MODELS)[number];

export function isBridgeModel(model: string): model is BridgeModel {
  return (BRIDGE_MODELS as readonly string[]).includes(model);
}

/** What every function has. */
interface AnyFunctionDescription {
  readonly address: PciAddress;
  /** The bridge that it is behind; undefined on the root bus. */
  readonly behind: PciAddress | undefined;
  /** Its device has more functions than this one. */
  readonly multifunction: boolean;
  /** Name of the IOMMU that translates its DMA, if any. */
  readonly iommu: string | undefined;
}

/** What an SR-IOV capability says of virtual functions, and what becomes of them. */
export interface VirtualFunctionsDescription {
  readonly total: number;
  /** How many of them are on at power-up: the first ones. */
  readonly enabled: number;
  /** Between requester ids: from the function to its first virtual one, and from each to the next. */
  readonly offset: number;
  readonly stride: number;
  /** Their device id. */
  readonly device: number;
  /** The driver bound to those that are on at power-up, if any. */
  readonly driver: "vfio-pci" | "edu" | undefined;
}

interface AnyDeviceDescription extends AnyFunctionDescription {
  /** The driver bound to it, if any. */
  readonly driver: "vfio-pci" | "uacce" | "edu" | undefined;
  /** Plugged into an external port. */
  readonly untrusted: boolean;
  /** The only default domain with which it works, if there is one. */
  readonly defaultDomain: "identity" | "dma" | undefined;
  /** What the firmware says of addresses. */
  readonly reserved: readonly RegionDescription[];
  /** The firmware says so: an access without translation waits until software answers. */
  readonly canStall: boolean;
  readonly capabilities: CapabilityDescription;
  /** With SR-IOV. */
  readonly virtualFunctions: VirtualFunctionsDescription | undefined;
}

/** A device that only the firmware tells of. */
export interface PlatformDescription {
  readonly name: string;
  /** Name of the IOMMU that translates its DMA, if any. */
  readonly iommu: string | undefined;
  /** Under which ids the IOMMU sees it, at least one; none without IOMMU. */
  readonly streams: readonly number[];
  /** The only default domain with which it works, if there is one. */
  readonly defaultDomain: "identity" | "dma" | undefined;
  /** What the firmware says of addresses. */
  readonly reserved: readonly RegionDescription[];
  /** An access without translation waits until software answers. */
  readonly canStall: boolean;
  /** Width of the PASIDs that it can send; 0 for none. */
  readonly pasidBits: number;
}

/** Addresses that firmware reserves for a device, or keeps from it. */
export interface RegionDescription {
  readonly type: "direct" | "direct-relaxable" | "reserved" | "msi";
  readonly start: number;
  /** In bytes. */
  readonly size: number;
}

export interface PciAddress {
  readonly bus: number;
  readonly device: number;
  readonly function: number;
}

export interface CapabilityDescription {
  /** A PCI Express endpoint, with 4096 bytes of configuration space. */
  readonly express: boolean;
  /** Function-level reset. */
  readonly flr: boolean;
  readonly acs: boolean;
  readonly ats: boolean;
  readonly pri: boolean;
  /** Width of the PASIDs that it can send; 0 for none. */
  readonly pasidBits: number;
}

export interface EduOptions {
  /** Address bits of the DMA engine: 28 as the device's specification has it, 64 for all. */
  readonly dmaMaskBits: number;
}

export interface CopyEngineOptions {
  readonly queues: number;
}

/** Where the virtual functions of a function at `address` are. On the same bus, as the description was checked. */
export function virtualPlaces(
  { bus, device, function: number }: PciAddress,
  { total, offset, stride }: Pick<VirtualFunctionsDescription, "total" | "offset" | "stride">,
): PciAddress[] {
  return Array.from({ length: total }, (_, index) => {
    const devfn = device * 8 + number + offset + index * stride;
    return { bus, device: Math.floor(devfn / 8), function: devfn % 8 };
  });
}

/** `"00:01.0"`. */
export function pciAddress({ bus, device, function: number }: PciAddress): string {
  return `${bus.toString(16).padStart(2, "0")}:${device.toString(16).padStart(2, "0")}.${number}`;
}
