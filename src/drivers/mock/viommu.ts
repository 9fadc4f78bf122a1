// Runs in a browser.
import type {
  Device,
  HardwareQueue,
  HardwareQueueRequest,
  Invalidation,
  NestedDomain,
  PagingDomain,
  UserData,
  Viommu,
  ViommuServices,
} from "../../iommu/index.ts";
import { PAGE_SIZE, type PhysicalMemory } from "../../memory/index.ts";
import { EEXIST, EFAULT, EINVAL, EIO, ENOENT, refuse, type Task } from "../../runtime/index.ts";
import { mockStateOf } from "./device-state.ts";
import type { MockInstance } from "./driver.ts";
import { checkWord, clearWords, MockNestedDomain } from "./nested.ts";
import { EVENT_TYPE, INVALIDATION_DATA, QUEUE_TYPE, readHwptData, readStruct } from "./user-data.ts";

/** Bytes of an entry: flags, virtual id of the device, number of a word. */
const ENTRY_LENGTH = 12;
const WINDOW_PAGES = 2;
const QUEUES = 2;
/** `iommu_viommu_selftest`: u32 in_data, u32 out_data, u64 out_mmap_offset, u64 out_mmap_length. */
const DATA_LENGTH = 24;
const LEAST_DATA_LENGTH = 8;

/** Memory that the client maps: its first word is what the client gave. */
interface Window {
  readonly pfn: number;
  readonly offset: bigint;
}

/** A viommu with a window of memory, emulated device caches, and two queues that nobody reads. */
export class MockViommu implements Viommu {
  readonly label: string;
  readonly instance: MockInstance;
  readonly services: ViommuServices;
  private readonly memory: PhysicalMemory;
  private readonly parent: PagingDomain;
  private readonly queues: (HardwareQueue | undefined)[] = new Array(QUEUES).fill(undefined);
  private readonly window: Window | undefined;

  /** Refusals: EINVAL (length of data), EFAULT, ENOMEM. */
  constructor(
    instance: MockInstance,
    memory: PhysicalMemory,
    parent: PagingDomain,
    data: UserData | undefined,
    services: ViommuServices,
  ) {
    this.label = `viommu of ${instance.name}`;
    this.instance = instance;
    this.memory = memory;
    this.parent = parent;
    this.services = services;
    this.window = data === undefined ? undefined : this.openWindow(data);
  }

  *allocateNested(_device: Device, _flags: number, data: UserData): Task<NestedDomain> {
    return new MockNestedDomain(this.instance.driver, readHwptData(data).iotlb, this);
  }

  /** All entries are read before the first is carried out. */
  *invalidate(invalidation: Invalidation): Task<void> {
    const { type, count } = invalidation;
    if (type !== INVALIDATION_DATA) refuse(EINVAL, () => `mock viommus know no invalidation of type ${type}`);
    const entries = new Uint8Array(count * ENTRY_LENGTH);
    for (let index = 0; index < count; index++) {
      invalidation.read(index, entries.subarray(index * ENTRY_LENGTH, (index + 1) * ENTRY_LENGTH));
    }
    const view = new DataView(entries.buffer);
    for (let at = 0; at < entries.length; at += ENTRY_LENGTH) {
      const flags = view.getUint32(at, true);
      const virtualId = view.getUint32(at + 4, true);
      const word = view.getUint32(at + 8, true);
      checkWord(flags, word);
      const device =
        this.services.device(BigInt(virtualId)) ??
        refuse(EINVAL, () => `no device has the id ${virtualId} on ${this.label}`);
      clearWords(mockStateOf(device).cache, flags, word);
      invalidation.done++;
    }
  }

  hasQueues(type: number): boolean {
    return type === QUEUE_TYPE;
  }

  /** Refusals: EINVAL (index), EEXIST, EIO (the second before the first), EFAULT (the parent translates otherwise). */
  *allocateQueue({ index, iova, physical }: HardwareQueueRequest): Task<HardwareQueue> {
    const { queues } = this;
    if (index >= QUEUES) refuse(EINVAL, () => `${this.label} has ${QUEUES} queues, none of index ${index}`);
    if (queues[index] !== undefined) refuse(EEXIST, () => `queue ${index} of ${this.label} exists`);
    const dependsOn = index === 0 ? undefined : (queues[index - 1] ?? refuse(EIO, () => "the queue before is missing"));
    if (this.parent.translate(iova) !== physical) {
      refuse(EFAULT, () => `0x${iova.toString(16)} is not at 0x${physical.toString(16)} in ${this.parent.label}`);
    }
    const queue: HardwareQueue = {
      dependsOn,
      // Linux's mock does not note the index of a queue: whichever goes, the first place is free again (reference 4.5).
      *free() {
        queues[0] = undefined;
      },
    };
    queues[index] = queue;
    return queue;
  }

  *free(): Task<void> {
    if (this.window === undefined) return;
    this.services.retractWindow(this.window.offset);
    this.memory.drop(this.window.pfn, WINDOW_PAGES);
  }

  private openWindow(data: UserData): Window {
    const view = readStruct(data, LEAST_DATA_LENGTH, DATA_LENGTH);
    const pfn = this.memory.allocateShareable(WINDOW_PAGES);
    let offset: bigint | undefined;
    try {
      this.memory.writeWord(pfn * PAGE_SIZE, view.getUint32(0, true));
      offset = this.services.publishWindow(pfn, WINDOW_PAGES);
      view.setUint32(4, view.getUint32(0, true), true);
      view.setBigUint64(8, offset, true);
      view.setBigUint64(16, BigInt(WINDOW_PAGES * PAGE_SIZE), true);
      data.write(new Uint8Array(view.buffer));
    } catch (error) {
      if (offset !== undefined) this.services.retractWindow(offset);
      this.memory.drop(pfn, WINDOW_PAGES);
      throw error;
    }
    return { pfn, offset };
  }
}

/** Tells the guest of a device an event that consists of the id that it has given the device. Refusals: ENOENT, EOPNOTSUPP. */
export function reportMockEvent(device: Device): void {
  const { viommu, virtualId } = mockStateOf(device);
  if (viommu === undefined || virtualId === 0n) {
    refuse(ENOENT, () => `${device.label} is on no viommu, or has the virtual id 0`);
  }
  const record = new DataView(new ArrayBuffer(4));
  record.setUint32(0, Number(BigInt.asUintN(32, virtualId)), true);
  viommu.services.report(EVENT_TYPE, new Uint8Array(record.buffer));
}
