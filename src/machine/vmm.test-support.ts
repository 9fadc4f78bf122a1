// Runs in a browser.
/** What a VMM does to give a guest an SMMU of its own, in the calls of a C program: see docs/nesting.md. */
import type { GuestMemory } from "../drivers/smmuv3/guest.test-support.ts";
import { Refusal } from "../runtime/index.ts";
import {
  AttachIommufdPt,
  BindIommufd,
  Destroy,
  DetachIommufdPt,
  FaultQueueAlloc,
  FaultRecord,
  FaultResponse,
  HWPT_ALLOC_NEST_PARENT,
  HWPT_DATA_ARM_SMMUV3,
  HwptAlloc,
  HwptArmSmmuv3,
  HwptInvalidate,
  IoasAlloc,
  IoasMap,
  IoasUnmap,
  iommufdCommands,
  MAP_FIXED_IOVA,
  MAP_READABLE,
  MAP_WRITEABLE,
  VdeviceAlloc,
  VEVENTQ_TYPE_ARM_SMMUV3,
  VeventqAlloc,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_DETACH,
  VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
  VIOMMU_TYPE_ARM_SMMUV3,
  ViommuAlloc,
} from "../uapi/index.ts";
import { LibraryClient, type Machine } from "./index.ts";

const commands = iommufdCommands;
const READ_WRITE = MAP_FIXED_IOVA | MAP_READABLE | MAP_WRITEABLE;
/** The PCI command register in a VFIO device file. */
const COMMAND = 7 * 2 ** 40 + 4;
const EDU = { source: 0x80, destination: 0x88, count: 0x90, command: 0x98, buffer: 0x40000n };
const EDU_RUNNING = 1n;

/** The guest's RAM, by its own addresses. */
export const RAM = { ipa: 0x80_0000, size: 0x10_0000 };
/** A page of memory for structs that calls point to. */
const DATA_PAGES = 1;

/** A program with one edu device, and the memory of a guest mapped in an IOAS. */
export class Vmm {
  readonly client: LibraryClient;
  readonly iommu: number;
  readonly file: number;
  readonly device: number;
  readonly ioas: number;
  /** Where the guest's RAM is in this process. */
  readonly ram: number;
  private readonly data: number;

  constructor(machine: Machine, path = "/dev/vfio/devices/vfio0") {
    this.client = new LibraryClient(machine);
    this.iommu = this.client.open("/dev/iommu");
    [this.file, this.device] = this.bind(path);
    this.ioas = this.call("IOAS_ALLOC", IoasAlloc, {}).out_ioas_id;
    const { memory } = this.client.process;
    this.ram = memory.map(RAM.size / 4096);
    this.data = memory.map(DATA_PAGES);
    this.map(RAM.ipa, this.ram, RAM.size);
    this.client.write(this.file, COMMAND, Uint8Array.of(6, 0));
  }

  /** Opens a device; its descriptor, and what it is to iommufd. */
  bind(path: string): [file: number, device: number] {
    const file = this.client.open(path);
    const bind = { argsz: 16, iommufd: this.iommu };
    return [file, this.client.ioctl(file, VFIO_DEVICE_BIND, new BindIommufd(), bind).out_devid];
  }

  /** One command of iommufd, with its size. */
  call<V extends { readonly $bytes: Uint8Array }>(
    name: keyof typeof commands,
    struct: { new (): V; readonly size: number },
    fields: Partial<V>,
  ): V {
    const all = { size: struct.size, ...fields } as unknown as Partial<V>;
    return this.client.ioctl(this.iommu, commands[name].number, new struct(), all);
  }

  map(iova: number, address: number, length: number): void {
    const range = { iova: BigInt(iova), user_va: BigInt(address), length: BigInt(length) };
    this.call("IOAS_MAP", IoasMap, { flags: READ_WRITE, ioas_id: this.ioas, ...range });
  }

  unmap(iova: number, length: number): void {
    this.call("IOAS_UNMAP", IoasUnmap, { ioas_id: this.ioas, iova: BigInt(iova), length: BigInt(length) });
  }

  hwpt(fields: Partial<InstanceType<typeof HwptAlloc>>): number {
    return this.call("HWPT_ALLOC", HwptAlloc, { dev_id: this.device, pt_id: this.ioas, ...fields }).out_hwpt_id;
  }

  nestingParent(): number {
    return this.hwpt({ flags: HWPT_ALLOC_NEST_PARENT });
  }

  viommu(parent: number, device: number = this.device): number {
    const fields = { type: VIOMMU_TYPE_ARM_SMMUV3, dev_id: device, hwpt_id: parent };
    return this.call("VIOMMU_ALLOC", ViommuAlloc, fields).out_viommu_id;
  }

  vdevice(viommu: number, virtualId: number, device: number = this.device): number {
    const fields = { viommu_id: viommu, dev_id: device, virt_id: BigInt(virtualId) };
    return this.call("VDEVICE_ALLOC", VdeviceAlloc, fields).out_vdevice_id;
  }

  /** A nested HWPT by words 0 and 1 of a guest's STE. */
  nested(
    viommu: number,
    [ste0, ste1]: readonly [bigint, bigint],
    fields: Partial<InstanceType<typeof HwptAlloc>> = {},
  ) {
    const ste = new HwptArmSmmuv3();
    Object.assign(ste, { ste0, ste1 });
    const data = { data_type: HWPT_DATA_ARM_SMMUV3, data_len: HwptArmSmmuv3.size, data_uptr: this.put(ste.$bytes) };
    return this.hwpt({ pt_id: viommu, ...data, ...fields });
  }

  /** Commands of the guest's, two words each; returns how many were done. */
  invalidate(viommu: number, list: readonly (readonly [bigint, bigint])[]): number {
    return this.call("HWPT_INVALIDATE", HwptInvalidate, {
      hwpt_id: viommu,
      data_type: VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
      data_uptr: this.put(new Uint8Array(new BigUint64Array(list.flat()).buffer)),
      entry_len: 16,
      entry_num: list.length,
    }).entry_num;
  }

  eventQueue(viommu: number, depth: number): number {
    const fields = { viommu_id: viommu, type: VEVENTQ_TYPE_ARM_SMMUV3, veventq_depth: depth };
    return this.call("VEVENTQ_ALLOC", VeventqAlloc, fields).out_veventq_fd;
  }

  faultQueue(): { id: number; fd: number } {
    const { out_fault_id: id, out_fault_fd: fd } = this.call("FAULT_QUEUE_ALLOC", FaultQueueAlloc, {});
    return { id, fd };
  }

  /** Page requests that wait in a fault queue, one at a time. */
  fault(fd: number): InstanceType<typeof FaultRecord> | undefined {
    const record = new FaultRecord();
    return this.client.read(fd, 0, record.$bytes) === 0 ? undefined : record;
  }

  answer(fd: number, cookie: number, code: number): void {
    const response = new FaultResponse();
    Object.assign(response, { cookie, code });
    this.client.write(fd, 0, response.$bytes);
  }

  attach(ptId: number): void {
    this.client.ioctl(this.file, VFIO_DEVICE_ATTACH, new AttachIommufdPt(), { argsz: 12, pt_id: ptId });
  }

  detach(): void {
    this.client.ioctl(this.file, VFIO_DEVICE_DETACH, new DetachIommufdPt(), { argsz: 8 });
  }

  destroy(id: number): void {
    this.call("DESTROY", Destroy, { id });
  }

  /** The errno of a Refusal, or undefined. */
  errno(work: () => unknown): number | undefined {
    try {
      work();
      return undefined;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  }

  /** The guest's own view of its RAM. */
  get guest(): GuestMemory {
    const at = (ipa: number): number => ipa - RAM.ipa + this.ram;
    const { memory } = this.client.process;
    return {
      read64: (ipa) => {
        const bytes = new Uint8Array(8);
        memory.read(at(ipa), bytes);
        return new DataView(bytes.buffer).getBigUint64(0, true);
      },
      write64: (ipa, value) => {
        memory.write(at(ipa), new Uint8Array(BigUint64Array.of(value).buffer));
      },
    };
  }

  /** Lets the device copy 8 bytes from or to memory at an address of its own. */
  dma(iova: number, toMemory: boolean): void {
    this.register(EDU.source, toMemory ? EDU.buffer : BigInt(iova));
    this.register(EDU.destination, toMemory ? BigInt(iova) : EDU.buffer);
    this.register(EDU.count, 8n);
    this.register(EDU.command, toMemory ? 3n : 1n);
  }

  /** True while the device waits for its DMA. */
  get isRunning(): boolean {
    const bytes = new Uint8Array(8);
    this.client.read(this.file, EDU.command, bytes);
    return new DataView(bytes.buffer).getBigUint64(0, true) % 2n === EDU_RUNNING;
  }

  close(): void {
    this.client.close(this.file);
    this.client.close(this.iommu);
  }

  private register(offset: number, value: bigint): void {
    this.client.write(this.file, offset, new Uint8Array(BigUint64Array.of(value).buffer));
  }

  private put(bytes: Uint8Array): bigint {
    this.client.process.memory.write(this.data, bytes);
    return BigInt(this.data);
  }
}
