// Runs in a browser.
/**
 * What a driver offers so that a guest can have translation of its own: nested domains, and viommus (reference 3.7, 3.12).
 *
 * A *nested domain* is a guest's stage 1 on a parent, a paging domain that shows the guest's memory. A *viommu* is the part
 * of one IOMMU that a guest sees: it knows the guest's names of devices, so that invalidations that name a device can be
 * carried out and events can be told under the guest's names. Both live on a parent made with ALLOC_NEST_PARENT, which
 * outlives them.
 */
import type { Task } from "../runtime/index.ts";
import type { Device } from "./device.ts";
import { Domain, type IommuInstance, type UserData } from "./driver.ts";

/** A guest's stage 1. Its driver made it on a parent of its own, or by a {@link Viommu}. */
export abstract class NestedDomain extends Domain {
  readonly type = "nested";

  /** Carries out what the guest wants forgotten of this domain. Absent: the client is refused (EOPNOTSUPP). */
  invalidate?(invalidation: Invalidation): Task<void>;
}

/**
 * The entries of one HWPT_INVALIDATE, in the client's memory. The driver sets `done`: the client is told that number
 * whether the call succeeds or not.
 */
export interface Invalidation {
  readonly type: number;
  /** Bytes of each entry, as the client lays them out; 1 to 4096 if there are any. */
  readonly entryLength: number;
  /** 0: only `type` is to be checked. */
  readonly count: number;
  /** Entries that were carried out; 0 at first. */
  done: number;
  /**
   * Copies entry `index` into a struct of the driver's length: a shorter one is extended with zeros. Refusals: E2BIG if a
   * longer one is not zero behind it; EFAULT.
   */
  read(index: number, into: Uint8Array): void;
}

/** What iommufd does for the driver's viommu; valid from its allocation until its `free`. */
export interface ViommuServices {
  /** The device that the guest knows by this id, if it has a vdevice on this viommu. */
  device(virtualId: bigint): Device | undefined;
  /** The guest's id of a device, if it has a vdevice on this viommu. */
  virtualId(device: Device): bigint | undefined;
  /**
   * Tells the guest an event, as the bytes of its record without header. A full queue loses it and says so to the guest.
   * Refusal EOPNOTSUPP: the guest has no queue for events of this type.
   */
  report(type: number, record: Uint8Array): void;
  /**
   * Lets the client map `count` frames from `pfn` on, shared; returns the offset of that window for mmap. Refusal ENOMEM.
   * Take it back in `free` at the latest, when nobody has it mapped any more.
   */
  publishWindow(pfn: number, count: number): bigint;
  retractWindow(offset: bigint): void;
}

/** A client's queue that hardware reads by itself: what {@link Viommu.allocateQueue} is asked for. */
export interface HardwareQueueRequest {
  readonly type: number;
  readonly index: number;
  /** Where the guest has it (an IOVA of the parent), and its length in bytes. */
  readonly iova: bigint;
  readonly length: bigint;
  /** Where that is in physical memory: pinned and contiguous as long as the queue lives. */
  readonly physical: number;
}

export interface HardwareQueue {
  /** A queue of the same viommu that must outlive this one. */
  readonly dependsOn?: HardwareQueue | undefined;
  /** Cannot fail. */
  free(): Task<void>;
}

/** What a driver keeps of a viommu. Optional operations are absent where it has no such thing. */
export interface Viommu {
  /** For people: `"viommu of mock0"`. */
  readonly label: string;
  readonly instance: IommuInstance;

  /** A nested domain for `device` on the viommu's parent; flags are ALLOC_PASID at most. Refusals: the driver's own. */
  allocateNested?(device: Device, flags: number, data: UserData): Task<NestedDomain>;
  /** Invalidation that names devices by the guest's ids. */
  invalidate?(invalidation: Invalidation): Task<void>;
  /** A device gets its id; visible to {@link ViommuServices} afterwards. Refusals: the driver's own. */
  addDevice?(device: Device, virtualId: bigint): Task<void>;
  /** Its id goes; nobody finds it any more. Cannot fail. */
  removeDevice?(device: Device, virtualId: bigint): Task<void>;
  /** True if there are hardware queues of this type; without, EOPNOTSUPP. */
  hasQueues?(type: number): boolean;
  /** Refusals: the driver's own. */
  allocateQueue?(request: HardwareQueueRequest): Task<HardwareQueue>;
  /** Without devices, nested domains and queues. Cannot fail. */
  free(): Task<void>;
}
