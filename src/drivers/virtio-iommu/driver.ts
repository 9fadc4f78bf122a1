// Runs in a browser.
/**
 * The driver of virtio IOMMUs (virtio 1.2, §5.13; reference 7).
 *
 * It meets the device in three places only: registers (a RegisterBlock, virtio-mmio), memory (rings and buffers), and one
 * interrupt ({@link VirtioIommuDriver.handleInterrupt}). It works with any implementation of the specification.
 *
 * Where things are: the handshake and the configuration as facts in `features.ts`; one IOMMU with all it owns in
 * `instance.ts`; a virtqueue in `ring.ts`, with requests in it in `request-queue.ts` (their layouts in `requests.ts`), with
 * events in it in `event-queue.ts`, `fault-record.ts`, `event-handling.ts`. A device is a `master.ts`; what it is attached
 * to changes in `attach.ts`. A domain is in `domain.ts`, the identity domain in `identity.ts`, the blocked one in
 * `blocked.ts`. Where the IOMMU walks tables of ours, devices are attached to them in `tables.ts`, and `table-domain.ts` is a
 * domain with a page table.
 *
 * Always true: while a domain has endpoints, the IOMMU has exactly the mappings that are recorded here, but for the
 * requests that are on their way, whose order is that of the record's changes. Without endpoints only the record exists.
 * For a moment false: between the ATTACH of a domain's first endpoint and the answer to its mappings' replay.
 *
 * Design principle: the record comes first, the request follows, and who needs the effect waits for everything sent so
 * far. The price: a mapping is a unit, and a wait may be longer than one's own request.
 *
 * Lock order: iommu.probe → iommu.group → virtio-iommu.attachments → pasidtable.table.
 */
import {
  ALLOC_PASID,
  type Capability,
  type Device,
  type Group,
  type IommuCore,
  type IommuDriver,
  type IommuInstance,
  type PagingDomain,
  pciDeviceGroup,
  type ReservedRegion,
  singleDeviceGroup,
  type UserData,
} from "../../iommu/index.ts";
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import { LOG2_LEAF_ENTRIES_MAX } from "../../pasidtable/index.ts";
import { assert, EINVAL, ENODEV, EOPNOTSUPP, refuse, type System, type Task } from "../../runtime/index.ts";
import { detach } from "./attach.ts";
import { BlockedDomain } from "./blocked.ts";
import { VirtioIommuPagingDomain } from "./domain.ts";
import { handleInterrupt } from "./event-handling.ts";
import type { FaultRecord } from "./fault-record.ts";
import { negotiate } from "./features.ts";
import { freeIdentity, IdentityDomain } from "./identity.ts";
import { VirtioIommuInstance, type VirtioIommuOptions } from "./instance.ts";
import { type Master, masterOf } from "./master.ts";
import { reservedRegionsIn, type TableProperties, tablesIn } from "./properties.ts";
import { addStatus, STATUS, STATUS_DRIVER_OK, STATUS_FAILED } from "./registers.ts";
import { errnoOf, STATUS_OK, statusName } from "./requests.ts";
import { VirtioIommuTableDomain } from "./table-domain.ts";
import { freeTables, type MasterTables } from "./tables.ts";

/** Where Linux places the window for translated message interrupts. */
const SOFTWARE_MSI: ReservedRegion = { start: 0x800_0000n, last: 0x80f_ffffn, type: "software-msi" };

export class VirtioIommuDriver implements IommuDriver {
  readonly name = "virtio-iommu";
  readonly identityDomain: IdentityDomain = new IdentityDomain();
  readonly blockedDomain: BlockedDomain = new BlockedDomain();
  /** Hears of every fault that a device reports; `explain` says it in a sentence. */
  onFault: ((fault: FaultRecord, explain: () => string) => void) | undefined;
  private readonly system: System;
  private readonly memory: PhysicalMemory;

  constructor(system: System, memory: PhysicalMemory) {
    this.system = system;
    this.memory = memory;
  }

  /** Brings an IOMMU up. Refusals: ENODEV or EINVAL if the driver cannot work with it, ENOMEM. */
  *probe(registers: RegisterBlock, options: VirtioIommuOptions): Task<VirtioIommuInstance> {
    const { system, memory } = this;
    let instance: VirtioIommuInstance | undefined;
    try {
      const features = negotiate(registers, options.name);
      instance = new VirtioIommuInstance(this, system, memory, registers, features, options);
      instance.program();
    } catch (error) {
      registers.write32(STATUS, 0);
      addStatus(registers, STATUS_FAILED);
      instance?.free();
      throw error;
    }
    addStatus(registers, STATUS_DRIVER_OK);
    instance.events.fill();
    if (system.events.on) system.events.emit({ kind: "virtio-iommu.instance.probe", instance: instance.name });
    return instance;
  }

  /** The mirror image of {@link probe}; no device may be left. */
  *remove(instance: VirtioIommuInstance): Task<void> {
    assert(instance.masters.size === 0, () => `${instance.label} still has devices`);
    instance.registers.write32(STATUS, 0);
    instance.free();
    if (this.system.events.on)
      this.system.events.emit({ kind: "virtio-iommu.instance.remove", instance: instance.name });
  }

  /** The device's interrupt line went up. */
  readonly handleInterrupt = (instance: VirtioIommuInstance): void => handleInterrupt(instance);

  /** Refusals: EINVAL without endpoints, ENODEV if one is another device's, ENOMEM, and what a PROBE is answered. */
  *probeDevice(device: Device, to: IommuInstance): Task<void> {
    const instance = to as VirtioIommuInstance;
    const { masters } = instance;
    const endpoints = [...new Set(device.firmware?.streamIds ?? [])];
    if (endpoints.length === 0) refuse(EINVAL, () => `${device.label} has no endpoint id`);
    for (const endpoint of endpoints) {
      const other = masters.get(endpoint);
      if (other !== undefined) {
        refuse(ENODEV, () => `endpoint 0x${endpoint.toString(16)} of ${device.label} is ${other.device.label}'s`);
      }
    }
    const reserved: ReservedRegion[] = [];
    let properties: TableProperties | undefined;
    for (const endpoint of endpoints) {
      const { list, label } = yield* this.askForProperties(instance, endpoint);
      reserved.push(...reservedRegionsIn(list, label));
      if (instance.features.tables && endpoints.length === 1) properties = tablesIn(list, label);
    }
    this.system.failures.point("virtio-iommu.master.allocate");
    if (properties !== undefined) instance.learnTables(properties);
    const tables = properties && newTables(properties, device);
    const master: Master = {
      device,
      instance,
      endpoints,
      reserved,
      translation: undefined,
      identity: undefined,
      tables,
    };
    for (const endpoint of endpoints) masters.set(endpoint, master);
    device.iommu!.data = master;
  }

  *releaseDevice(device: Device): Task<void> {
    const master = masterOf(device);
    yield* detach(master);
    freeIdentity(master);
    freeTables(master);
    for (const endpoint of master.endpoints) master.instance.masters.delete(endpoint);
    if (master.instance.masters.size === 0) master.instance.freeBlocked();
    device.iommu!.data = undefined;
  }

  deviceGroup(device: Device, core: IommuCore): Group {
    return device.pci === undefined ? singleDeviceGroup(device, core) : pciDeviceGroup(device, core);
  }

  capable(_device: Device, capability: Capability): boolean {
    return capability === "cache-coherency" || capability === "deferred-flush";
  }

  /**
   * A domain of mappings; one with a page table of our own for PASIDs, where the IOMMU walks such. Refusals: EOPNOTSUPP for
   * other flags and data, and those of a new domain.
   */
  *allocatePaging(device: Device, flags: number, data: UserData | undefined): Task<PagingDomain> {
    const { instance, tables } = masterOf(device);
    if (data !== undefined) refuse(EOPNOTSUPP, () => `${instance.label}: a paging domain takes no data`);
    if (flags === ALLOC_PASID && tables !== undefined) return new VirtioIommuTableDomain(instance, tables.properties);
    if (flags !== 0) {
      refuse(
        EOPNOTSUPP,
        () => `${instance.label}: HWPT flags 0x${flags.toString(16)}: no nesting, dirty tracking or PASIDs`,
      );
    }
    return new VirtioIommuPagingDomain(instance);
  }

  reservedRegions(device: Device): ReservedRegion[] {
    const { reserved } = masterOf(device);
    return reserved.some(({ type }) => type === "msi") ? [...reserved] : [...reserved, SOFTWARE_MSI];
  }

  private *askForProperties(
    instance: VirtioIommuInstance,
    endpoint: number,
  ): Task<{ list: Uint8Array; label: string }> {
    const { probeSize } = instance.features;
    const label = `${instance.label}, endpoint 0x${endpoint.toString(16)}`;
    const list = new Uint8Array(probeSize);
    if (probeSize === 0) return { list, label };
    const status = yield* instance.requests.probe(endpoint, list);
    if (status !== STATUS_OK) refuse(errnoOf(status), () => `${label}: PROBE is answered ${statusName(status)}`);
    return { list, label };
  }
}

function newTables(properties: TableProperties, device: Device): MasterTables {
  const most = properties.twoLevels ? Number.POSITIVE_INFINITY : LOG2_LEAF_ENTRIES_MAX;
  return {
    properties,
    pasidBits: Math.min(device.pasidBits, properties.pasidBits, most),
    table: undefined,
    domainId: undefined,
    own: undefined,
    pasids: new Map(),
  };
}
