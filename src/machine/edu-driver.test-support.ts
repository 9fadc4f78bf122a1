import {
  AttachIommufdPt,
  BindIommufd,
  IoasAlloc,
  IoasMap,
  IoasUnmap,
  IRQ_REQ,
  IrqSet,
  iommufdCommands,
  MAP_FIXED_IOVA,
  MAP_READABLE,
  MAP_WRITEABLE,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_SET_IRQS,
} from "../uapi/index.ts";
import { LibraryClient, type Machine } from "./index.ts";

const { IOAS_ALLOC, IOAS_MAP, IOAS_UNMAP } = iommufdCommands;
export const IOVA = 0x10_0000n;
const READ_WRITE = MAP_FIXED_IOVA | MAP_READABLE | MAP_WRITEABLE;

/** Flags of SET_IRQS: data of type EVENTFD, action TRIGGER. */
const EVENTFD_TRIGGER = 0x24;
/** Registers of the edu device, as offsets in its file. */
const CONFIG = 7 * 2 ** 40;
const COMMAND = CONFIG + 4;
const EDU = { source: 0x80, destination: 0x88, count: 0x90, command: 0x98, buffer: 0x40000n };

/** A driver of the first edu device, attached to an address space with one page mapped at IOVA. */
export class EduDriver {
  readonly client: LibraryClient;
  readonly iommu: number;
  readonly device: number;
  readonly ioas: number;
  readonly page: number;

  constructor(machine: Machine, path = "/dev/vfio/devices/vfio0") {
    this.client = new LibraryClient(machine);
    this.iommu = this.client.open("/dev/iommu");
    this.device = this.client.open(path);
    this.client.ioctl(this.device, VFIO_DEVICE_BIND, new BindIommufd(), { argsz: 16, iommufd: this.iommu });
    this.ioas = this.client.ioctl(this.iommu, IOAS_ALLOC.number, new IoasAlloc(), { size: 12 }).out_ioas_id;
    this.attach();
    this.client.write(this.device, COMMAND, Uint8Array.of(6, 0));
    this.page = this.client.process.memory.map(1);
  }

  attach(): void {
    this.client.ioctl(this.device, VFIO_DEVICE_ATTACH, new AttachIommufdPt(), { argsz: 12, pt_id: this.ioas });
  }

  map(): void {
    this.client.ioctl(this.iommu, IOAS_MAP.number, new IoasMap(), {
      size: 40,
      flags: READ_WRITE,
      ioas_id: this.ioas,
      user_va: BigInt(this.page),
      length: 4096n,
      iova: IOVA,
    });
  }

  unmap(): void {
    const range = { size: 24, ioas_id: this.ioas, iova: IOVA, length: 4096n };
    this.client.ioctl(this.iommu, IOAS_UNMAP.number, new IoasUnmap(), range);
  }

  /** One DMA of 64 bytes between memory at `iova` and the device's buffer. */
  dma(iova: bigint, toMemory: boolean): void {
    this.put(EDU.source, toMemory ? EDU.buffer : iova);
    this.put(EDU.destination, toMemory ? iova : EDU.buffer);
    this.put(EDU.count, 64n);
    this.put(EDU.command, toMemory ? 3n : 1n);
  }

  /** `count` bytes of configuration space. */
  config(offset: number, count: number): number[] {
    const bytes = new Uint8Array(count);
    this.client.read(this.device, CONFIG + offset, bytes);
    return [...bytes];
  }

  /** Installs an eventfd for requests to let go of the device; how often it was signalled. */
  countRequests(): () => number {
    let count = 0;
    const event = { signal: () => void count++, release: () => {} };
    const fd = this.client.process.addFile({ kind: "eventfd", event });
    const set = new IrqSet(new Uint8Array(IrqSet.size + 4));
    Object.assign(set, { argsz: IrqSet.size + 4, flags: EVENTFD_TRIGGER, index: IRQ_REQ, start: 0, count: 1 });
    new DataView(set.$bytes.buffer).setInt32(IrqSet.size, fd, true);
    const scratch = this.client.process.memory.map(1);
    this.client.process.memory.write(scratch, set.$bytes);
    this.client.call(this.device, VFIO_DEVICE_SET_IRQS, scratch);
    return () => count;
  }

  private put(register: number, value: bigint): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, value, true);
    this.client.write(this.device, register, bytes);
  }

  get(offset: number, length: number): number[] {
    const bytes = new Uint8Array(length);
    this.client.process.memory.read(this.page + offset, bytes);
    return [...bytes];
  }

  set(offset: number, bytes: number[]): void {
    this.client.process.memory.write(this.page + offset, Uint8Array.from(bytes));
  }
}
