// Runs in a browser.
/**
 * The driver of the Arm SMMUv3.
 *
 * It meets the hardware in three places only: registers (a RegisterBlock), memory (queues and tables), and interrupts
 * ({@link SmmuV3Driver.handleInterrupt}). It works on any implementation of the architecture.
 *
 * Where things are: the ID registers as facts in `features.ts`; one SMMU with all it owns in `instance.ts`, brought up by
 * `reset.ts`; commands in `commands.ts`, their ring in `command-queue.ts`; what comes from the SMMU in `event-ring.ts`,
 * `event-record.ts`, `event-handling.ts`; a stalled transaction is a page request in `page-requests.ts`. A device is a
 * `master.ts`; what its streams translate through changes in `attach.ts`, which writes stream table entries
 * (`stream-table-entry.ts`, `stream-table.ts`), and context descriptors by the room `pasidtable/`. A domain with a page table
 * is in `domain.ts`, one that shows the memory of a process in `sva-domain.ts`; an unmap invalidates the TLB in
 * `invalidation.ts`. What a guest gets is in `viommu.ts`: stage 1 of its own in `nested-domain.ts`, by an STE checked in `guest-stream-entry.ts`; its commands in
 * `guest-commands.ts`.
 *
 * Always true: a reserved stream has a valid STE, which aborts unless its master is attached (or was, and its direct regions
 * must stay mapped: then it bypasses); an ASID or VMID that no
 * STE or CD names has no entry in the TLB; between CONS and PROD of the command queue lie complete commands.
 * For a moment false: what is translated while it changes is the old or the new, see `attach.ts`; with a stream table of
 * one level an STE that cannot change in one step is invalid in between.
 *
 * Design principle: reserve first, then write; once the first bit of an entry changed nothing can fail. The price: what
 * was reserved stays (a second-level stream table as long as the instance, a context table as long as the device).
 *
 * Lock order: iommu.probe → iommu.group → smmuv3.stream-table. An entry belongs to one device, and so to one group, whose
 * mutex the core holds; the driver's own lock is held while an STE changes, since others lie in the same table. Queue, tags
 * and arrays change only between two points of preemption.
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
  type Mm,
  type PageRequest,
  type PagingDomain,
  pciDeviceGroup,
  type ReservedRegion,
  type ResponseCode,
  type SvaDomain,
  singleDeviceGroup,
  type UserData,
  type Viommu,
  type ViommuServices,
} from "../../iommu/index.ts";
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import { LOG2_LEAF_ENTRIES_MAX } from "../../pasidtable/index.ts";
import { assert, EINVAL, ENODEV, EOPNOTSUPP, refuse, type System, type Task } from "../../runtime/index.ts";
import { type PagingOptions, SmmuV3PagingDomain } from "./domain.ts";
import { handleInterrupt } from "./event-handling.ts";
import type { EventRecord } from "./event-record.ts";
import { readFeatures } from "./features.ts";
import { hardwareInfo } from "./hardware-info.ts";
import { SmmuV3Instance, type SmmuV3Options } from "./instance.ts";
import { type Master, masterOf } from "./master.ts";
import { answerStalled } from "./page-requests.ts";
import type { InterruptLine } from "./registers.ts";
import { disableSmmu, resetSmmu } from "./reset.ts";
import { BlockedDomain, StaticDomain } from "./static-domains.ts";
import { SmmuV3SvaDomain } from "./sva-domain.ts";
import { VIOMMU_TYPE_ARM_SMMUV3 } from "./user-data.ts";
import { SmmuV3Viommu } from "./viommu.ts";

/** Where Linux places the window for translated message interrupts. */
const SOFTWARE_MSI: ReservedRegion = { start: 0x800_0000n, last: 0x80f_ffffn, type: "software-msi" };

export class SmmuV3Driver implements IommuDriver {
  readonly name = "arm-smmu-v3";
  readonly blockedDomain: StaticDomain = new BlockedDomain();
  readonly identityDomain: StaticDomain = new StaticDomain("identity");
  readonly releaseDomain: StaticDomain = this.blockedDomain;
  readonly userPasidTables = true;
  /** Hears of every event that an SMMU records; `explain` says it in a sentence. */
  onEvent: ((event: EventRecord, explain: () => string) => void) | undefined;
  private readonly system: System;
  private readonly memory: PhysicalMemory;

  constructor(system: System, memory: PhysicalMemory) {
    this.system = system;
    this.memory = memory;
  }

  /** Brings an SMMU up. Refusals: ENXIO if the driver cannot work with it, ETIMEDOUT if it does not answer, ENOMEM. */
  *probe(registers: RegisterBlock, options: SmmuV3Options): Task<SmmuV3Instance> {
    const { system, memory } = this;
    const features = readFeatures(registers, options.name);
    const instance = new SmmuV3Instance(this, system, memory, registers, features, options);
    try {
      yield* resetSmmu(instance);
    } catch (error) {
      instance.free();
      throw error;
    }
    if (system.events.on) system.events.emit({ kind: "smmuv3.instance.probe", instance: instance.name });
    return instance;
  }

  /** The mirror image of {@link probe}; no device may be left. */
  *remove(instance: SmmuV3Instance): Task<void> {
    assert(instance.masters.size === 0, () => `${instance.label} still has devices`);
    yield* disableSmmu(instance);
    instance.free();
    if (this.system.events.on) this.system.events.emit({ kind: "smmuv3.instance.remove", instance: instance.name });
  }

  /** An interrupt line of the SMMU went up. */
  readonly handleInterrupt = (instance: SmmuV3Instance, line: InterruptLine): void => handleInterrupt(instance, line);

  /** Refusals: EINVAL without stream ids, ENODEV if one is another device's, ERANGE beyond the stream table, ENOMEM. */
  *probeDevice(device: Device, to: IommuInstance): Task<void> {
    const instance = to as SmmuV3Instance;
    const { features, masters, streamTable } = instance;
    const streamIds = [...new Set(device.firmware?.streamIds ?? [])];
    if (streamIds.length === 0) refuse(EINVAL, () => `${device.label} has no stream id`);
    for (const streamId of streamIds) {
      const other = masters.get(streamId);
      if (other !== undefined) {
        refuse(ENODEV, () => `stream id 0x${streamId.toString(16)} of ${device.label} is ${other.device.label}'s`);
      }
    }
    for (const streamId of streamIds) streamTable.reserve(streamId);
    this.system.failures.point("smmuv3.master.allocate");
    const master: Master = {
      device,
      instance,
      streamIds,
      substreamBits: Math.min(
        device.pasidBits,
        features.substreamIdBits,
        features.twoLevelContextTable ? Number.POSITIVE_INFINITY : LOG2_LEAF_ENTRIES_MAX,
      ),
      canStall: features.stalls === "forced" || (features.stalls === "possible" && device.firmware?.canStall === true),
      contextTable: undefined,
      translation: { kind: "abort", label: "nothing" },
      pasids: new Map(),
      faultingAttachments: 0,
    };
    for (const streamId of streamIds) masters.set(streamId, master);
    device.iommu!.data = master;
  }

  *releaseDevice(device: Device): Task<void> {
    const { instance, streamIds, translation, pasids, contextTable } = masterOf(device);
    assert(pasids.size === 0, () => `${device.label} is released while ${pasids.size} of its PASIDs translate`);
    const isLeft = translation.kind === (device.iommu!.requireDirect ? "bypass" : "abort");
    assert(isLeft, () => `${device.label} is released while it translates: ${translation.label}`);
    for (const streamId of streamIds) instance.masters.delete(streamId);
    contextTable?.free();
    device.iommu!.data = undefined;
  }

  deviceGroup(device: Device, core: IommuCore): Group {
    return device.pci === undefined ? singleDeviceGroup(device, core) : pciDeviceGroup(device, core);
  }

  capable(device: Device, capability: Capability): boolean {
    const { features, options } = masterOf(device).instance;
    switch (capability) {
      case "cache-coherency":
        return options.coherent ?? features.coherent;
      case "noexec":
      case "deferred-flush":
        return true;
      case "dirty-tracking":
        return features.dirtyState && features.coherent;
      // Neither can be promised for a device: the firmware does not say so, and ATS is never turned on.
      case "enforce-cache-coherency":
      case "pci-ats":
        return false;
    }
  }

  /** Flags to stage as reference 6.7 says. Refusals: EOPNOTSUPP, and those of a new domain. */
  *allocatePaging(device: Device, flags: number, data: UserData | undefined): Task<PagingDomain> {
    const { instance } = masterOf(device);
    if (data !== undefined) refuse(EOPNOTSUPP, () => `${instance.label}: a paging domain takes no data`);
    return new SmmuV3PagingDomain(instance, pagingOptions(instance, flags));
  }

  /** Refusals: EOPNOTSUPP where the SMMU cannot walk the CPU's tables; those of a new domain. */
  *allocateSva(device: Device, mm: Mm): Task<SvaDomain> {
    return yield* SmmuV3SvaDomain.make(masterOf(device).instance, mm);
  }

  reservedRegions(device: Device): ReservedRegion[] {
    const { msiRegion } = masterOf(device).instance.options;
    return [msiRegion === undefined ? SOFTWARE_MSI : { ...msiRegion, type: "msi" }];
  }

  hardwareInfo(device: Device, requested: number): { readonly type: number; readonly bytes: Uint8Array } {
    return hardwareInfo(masterOf(device).instance, requested);
  }

  /** Without forced write-back a guest could make its memory incoherent with the CPU's caches. */
  supportsViommu(device: Device, type: number): boolean {
    const { nesting, forcedWriteBack } = masterOf(device).instance.features;
    return type === VIOMMU_TYPE_ARM_SMMUV3 && nesting && forcedWriteBack;
  }

  /** Refusals: EINVAL for a parent of another IOMMU; ENOMEM. */
  *allocateViommu(
    device: Device,
    parent: PagingDomain,
    _type: number,
    _data: UserData | undefined,
    services: ViommuServices,
  ): Task<Viommu> {
    const { instance } = masterOf(device);
    if (!(parent instanceof SmmuV3PagingDomain)) {
      return refuse(EINVAL, () => `${parent.label} is not of an SMMUv3, as ${instance.label} is`);
    }
    return new SmmuV3Viommu(instance, parent, services);
  }

  *pageResponse(device: Device, { group }: PageRequest, code: ResponseCode): Task<void> {
    answerStalled(masterOf(device), group, code);
  }
}

function pagingOptions({ features, label }: SmmuV3Instance, flags: number): PagingOptions {
  const stage1 = { stage: 1, nestingParent: false, dirtyTracking: (flags & ALLOC_DIRTY_TRACKING) !== 0 } as const;
  const unsupported = (why: string): never =>
    refuse(EOPNOTSUPP, () => `${label}: HWPT flags 0x${flags.toString(16)}: ${why}`);
  switch (flags) {
    case 0:
      return features.stage1 ? stage1 : { stage: 2, nestingParent: false, dirtyTracking: false };
    case ALLOC_NEST_PARENT:
      if (!features.nesting) unsupported("a nesting parent needs both stages");
      return { stage: 2, nestingParent: true, dirtyTracking: false };
    case ALLOC_DIRTY_TRACKING:
    case ALLOC_PASID:
    case ALLOC_DIRTY_TRACKING | ALLOC_PASID:
      if (!features.stage1) unsupported("dirty tracking and PASIDs need stage 1");
      return stage1;
    default:
      return unsupported("no such combination");
  }
}
