// Runs in a browser.
/**
 * What a driver of an IOMMU implements, and what the core gives it (Linux's iommu_ops, reference 2.1).
 *
 * An IOVA is a bigint here, since all 64 bits may be legal; a page table turns it into numbers once a call. Physical
 * addresses and sizes are numbers (below 2^53).
 */
import { ENODEV, refuse, type Task } from "../runtime/index.ts";
import type { IommuCore } from "./core.ts";
import type { Device } from "./device.ts";
import type { DmaSpace } from "./dma.ts";
import type { PageRequest, PageRequestHandler, ResponseCode } from "./faults.ts";
import type { UnmapGather } from "./gather.ts";
import type { Group } from "./group.ts";
import type { Mm } from "./mm.ts";
import type { NestedDomain, Viommu, ViommuServices } from "./nesting.ts";

export { PROT_CACHE, PROT_MMIO, PROT_NOEXEC, PROT_PRIV, PROT_READ, PROT_WRITE } from "../pagetable/index.ts";

export type DomainType = "blocked" | "identity" | "unmanaged" | "dma" | "dma-fq" | "sva" | "nested";

/** A default domain that a device needs. Whether one that translates is lazy is not for a device to say. */
export type DefaultDomainWish = "identity" | "dma";

export type Capability =
  | "cache-coherency"
  | "noexec"
  | "enforce-cache-coherency"
  | "deferred-flush"
  | "dirty-tracking"
  | "pci-ats";

/** HWPT_ALLOC flags as the driver sees them (uAPI values). */
export const ALLOC_NEST_PARENT = 1;
export const ALLOC_DIRTY_TRACKING = 2;
export const ALLOC_PASID = 8;

/** Driver data of a HWPT_ALLOC or a VIOMMU_ALLOC, in the client's memory: look at type and length first. */
export interface UserData {
  /** Never NONE. */
  readonly type: number;
  /** Bytes; at least 1. */
  readonly length: number;
  /** All of them, read now. Refusals: EFAULT; E2BIG for more than any driver has. */
  readonly bytes: Uint8Array;
  /** Gives the client an answer in the same place, as much of it as there is room for. Refusal EFAULT. */
  write(answer: Uint8Array): void;
}

export interface ReservedRegion {
  readonly start: bigint;
  /** Inclusive. */
  readonly last: bigint;
  readonly type: "direct" | "direct-relaxable" | "reserved" | "msi" | "software-msi";
}

/** One translation configuration (reference: *domain*). Domains of one driver only fit devices of that driver. */
export abstract class Domain {
  /** For people: `"domain 3 (stage 1, ASID 2)"`. */
  abstract readonly label: string;
  abstract readonly type: DomainType;
  /** The driver that made it; undefined for a driver's static blocked or identity domain. */
  abstract readonly owner: IommuDriver | undefined;
  /** Takes the page requests of what is attached to it; set by whoever allocated the domain, before any attach. */
  pageRequestHandler?: PageRequestHandler;

  /** Lets the device's own traffic (RID) translate through this domain, from `old`. On a Refusal nothing has changed. */
  abstract attachDevice(device: Device, old: Domain | undefined): Task<void>;
  /** The same for one PASID of the device; absent where the driver has no PASIDs. */
  setDevicePasid?(device: Device, pasid: number, old: Domain | undefined): Task<void>;
  /** Gives everything back. Only when no device uses it. Cannot fail. */
  abstract free(): void;
}

/** Where dirty leaves are told: each part that is dirty, inside the range that was asked for. */
export interface DirtyReader {
  /** Leaves that are told become clean, whole ones, also what of them is outside the range. */
  readonly clear: boolean;
  /** `size` in bytes. */
  report(iova: bigint, size: number): void;
  /** Gets the range of what became clean: {@link PagingDomain.sync} lets the hardware notice the next write. */
  readonly gather: UnmapGather;
}

/**
 * A domain with a page table that software writes. Maps and unmaps come by the million: where they need not wait, a driver
 * returns a task that is done (`DoneTask`) and is spared a generator.
 */
export abstract class PagingDomain extends Domain {
  /** What it is for, which the core says: a user's own, or a default domain (see default-domain.ts). */
  type: "unmanaged" | "dma" | "dma-fq" = "unmanaged";
  /** Of a default domain: addresses of the kernel's own drivers, once one has any. */
  dmaSpace: DmaSpace | undefined = undefined;
  /** Sizes of leaves in bytes, ascending. */
  abstract readonly pageSizes: readonly number[];
  /** IOVAs that it can translate, `last` inclusive. */
  abstract readonly aperture: { readonly start: bigint; readonly last: bigint };
  /** Maps `size` bytes, all multiples of the smallest page, with the largest fitting leaves. All or nothing. */
  abstract map(iova: bigint, physical: number, size: number, prot: number): Task<void>;
  /** Removes leaves in the range; returns the bytes removed (a larger leaf goes whole; it ends at a hole). Adds to `gather`. */
  abstract unmap(iova: bigint, size: number, gather: UnmapGather): Task<number>;
  /** When it returns, no access uses what `gather` collected, and the freed tables are free. */
  abstract sync(gather: UnmapGather): Task<void>;
  /** The physical address of an IOVA, or undefined. Software only: it asks the table, not the hardware. */
  abstract translate(iova: bigint): number | undefined;
  /** Lets the hardware mark what it writes to, or ends that. Only on domains made with ALLOC_DIRTY_TRACKING. */
  setDirtyTracking?(on: boolean): Task<void>;
  /** Tells what was written to in a range, ascending; holes are skipped. Also while tracking is off: what is still marked. */
  readDirty?(iova: bigint, size: number, reader: DirtyReader): Task<void>;
}

/** Shows the table of a process to devices, under PASIDs; see mm.ts. */
export abstract class SvaDomain extends Domain {
  readonly type = "sva";
  abstract readonly mm: Mm;

  /** Refusal ENODEV: addresses of a process are meant by traffic with a PASID only. */
  override *attachDevice(device: Device): Task<void> {
    refuse(ENODEV, () => `${this.label} is for PASIDs, not for ${device.label}'s own traffic`);
  }
}

/** One IOMMU in the machine, as its driver registered it. */
export interface IommuInstance {
  /** Name under /sys/class/iommu: `"smmu3.0x0000000009050000"`. */
  readonly name: string;
  readonly driver: IommuDriver;
  /** PASIDs it supports (0: none); a device may support fewer. */
  readonly maxPasids: number;
}

/** A driver of IOMMUs of one kind. Optional operations are absent where the hardware has no such thing. */
export interface IommuDriver {
  readonly name: string;
  /** Static domains: one for all devices, never freed. */
  readonly blockedDomain?: Domain;
  readonly identityDomain?: Domain;
  /** Where groups are while nobody owns them, whatever the machine says; one of the static domains. */
  readonly defaultDomain?: Domain;
  /** Where a device is left when it is released; where it was, if undefined. */
  readonly releaseDomain?: Domain;
  /** PASIDs are found in tables of the guest, below a nested domain: see faults.ts. */
  readonly userPasidTables?: boolean;

  /** Takes a device under the instance's care; its data goes to `device.iommu.data`. */
  probeDevice(device: Device, instance: IommuInstance): Task<void>;
  /** The mirror image of {@link probeDevice}. Cannot fail. */
  releaseDevice(device: Device): Task<void>;
  /** The group that the device belongs to: a new one of `core`, or one that exists. */
  deviceGroup(device: Device, core: IommuCore): Group;
  /** The default domain's type that the device wishes for, if any. */
  defaultDomainType?(device: Device): DefaultDomainWish | undefined;
  /** True for a device that may be in the middle of DMA: its first attach to a default domain waits until it is used. */
  defersAttach?(device: Device): boolean;
  capable(device: Device, capability: Capability): boolean;
  /**
   * A new paging domain fit for `device`, with HWPT_ALLOC flags. Refusals as reference 6.7 says:
   * EOPNOTSUPP for flags or data that it does not know.
   */
  allocatePaging(device: Device, flags: number, data: UserData | undefined): Task<PagingDomain>;
  reservedRegions(device: Device): ReservedRegion[];
  /** GET_HW_INFO: `requested` is the type asked for, 0 for the driver's own. Refusal EOPNOTSUPP if it has no such type. */
  hardwareInfo?(device: Device, requested: number): { readonly type: number; readonly bytes: Uint8Array };
  /**
   * A nested domain for `device` on `parent`, one of this driver's made with ALLOC_NEST_PARENT. `flags` are ALLOC_PASID at
   * most. Refusals: the driver's own.
   */
  allocateNested?(device: Device, parent: PagingDomain, flags: number, data: UserData): Task<NestedDomain>;
  /** True if {@link allocateViommu} knows this type. */
  supportsViommu?(device: Device, type: number): boolean;
  /** The part of the device's IOMMU that a guest is to see, on `parent` as above. Refusals: the driver's own. */
  allocateViommu?(
    device: Device,
    parent: PagingDomain,
    type: number,
    data: UserData | undefined,
    services: ViommuServices,
  ): Task<Viommu>;
  /**
   * A domain that shows the table of `mm` to `device` and others, with `setDevicePasid`. The mm outlives it. Refusals: the
   * driver's own.
   */
  allocateSva?(device: Device, mm: Mm): Task<SvaDomain>;
  /** Tells the device the answer to the group that `request` completed. Cannot fail. */
  pageResponse?(device: Device, request: PageRequest, code: ResponseCode): Task<void>;
}

/** True if `domain` fits devices of `driver`: one that it made, or one of its static ones (reference 2.1). */
export function isDomainOf(domain: Domain, driver: IommuDriver): boolean {
  return domain.owner === driver || domain === driver.blockedDomain || domain === driver.identityDomain;
}
