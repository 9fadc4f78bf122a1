/** A client that drives devices of a machine through iommufd and VFIO. */
import { CAP_SYS_ADMIN, CAP_SYS_RAWIO } from "../memory/index.ts";
import { Refusal } from "../runtime/index.ts";
import {
  ATTACH_FLAG_PASID,
  AttachIommufdPt,
  BindIommufd,
  DetachIommufdPt,
  HwptAlloc,
  IoasAlloc,
  IoasMap,
  iommufdCommands,
  MAP_FIXED_IOVA,
  MAP_READABLE,
  MAP_WRITEABLE,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_DETACH,
} from "../uapi/index.ts";
import { buildMachine, defineMachine, LibraryClient, type Machine, type MachineInput } from "./index.ts";

const { HWPT_ALLOC, IOAS_ALLOC, IOAS_MAP } = iommufdCommands;

/** A machine and a client that is root, with /dev/iommu open. */
export class Lab {
  readonly machine: Machine;
  readonly client: LibraryClient;
  readonly iommu: number;

  constructor(input: MachineInput) {
    this.machine = buildMachine(defineMachine(input));
    this.client = new LibraryClient(this.machine, { capabilities: [CAP_SYS_ADMIN, CAP_SYS_RAWIO] });
    this.iommu = this.client.open("/dev/iommu");
  }

  /** The errno with which something is refused, if it is. */
  errno(act: () => unknown): number | undefined {
    try {
      act();
      return undefined;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  }

  /** A new IOAS in which a page of the client, which reads `value` first, is at 0x10000. */
  ioas(value = 0): number {
    const { client, iommu } = this;
    const id = client.ioctl(iommu, IOAS_ALLOC.number, new IoasAlloc(), { size: 12 }).out_ioas_id;
    const page = client.process.memory.map(1);
    client.process.memory.write(page, Uint8Array.of(value));
    client.ioctl(iommu, IOAS_MAP.number, new IoasMap(), {
      size: 40,
      flags: MAP_FIXED_IOVA | MAP_READABLE | MAP_WRITEABLE,
      ioas_id: id,
      user_va: BigInt(page),
      length: 4096n,
      iova: 0x10000n,
    });
    return id;
  }

  /** A HWPT of an IOAS for a bound device. */
  hwpt(device: number, ioas: number, flags = 0): number {
    const answer = this.client.ioctl(this.iommu, HWPT_ALLOC.number, new HwptAlloc(), {
      size: 48,
      flags,
      dev_id: device,
      pt_id: ioas,
    });
    return answer.out_hwpt_id;
  }

  /** Binds an open device to the iommufd: its id there. */
  bind(device: number): number {
    return this.client.ioctl(device, VFIO_DEVICE_BIND, new BindIommufd(), { argsz: 16, iommufd: this.iommu }).out_devid;
  }

  open(number: number): number {
    return this.client.open(`/dev/vfio/devices/vfio${number}`);
  }

  /** An open device that is bound. */
  bound(number: number): number {
    const device = this.open(number);
    this.bind(device);
    return device;
  }

  /** Attaches to an IOAS or a HWPT: the id of the HWPT. */
  attach(device: number, pt: number, pasid?: number): number {
    const target = pasid === undefined ? { argsz: 12 } : { argsz: 16, flags: ATTACH_FLAG_PASID, pasid };
    return this.client.ioctl(device, VFIO_DEVICE_ATTACH, new AttachIommufdPt(), { ...target, pt_id: pt }).pt_id;
  }

  detach(device: number, pasid?: number): void {
    const target = pasid === undefined ? { argsz: 8 } : { argsz: 12, flags: ATTACH_FLAG_PASID, pasid };
    this.client.ioctl(device, VFIO_DEVICE_DETACH, new DetachIommufdPt(), target);
  }

  /** What a function of the machine reads at an address by DMA; undefined if it is refused. */
  dma(index: number, address: number, pasid?: number): number | undefined {
    const pci = this.machine.devices[index].pci!;
    pci.writeConfig(4, 2, 6);
    const bytes = new Uint8Array(1);
    const reaches = this.machine.system.run("DMA", pci.dma.read(BigInt(address), bytes, pasid));
    return reaches ? bytes[0] : undefined;
  }
}
