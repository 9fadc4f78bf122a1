import { describe, expect, it } from "vitest";
import { Refusal } from "../runtime/index.ts";
import {
  AttachIommufdPt,
  BindIommufd,
  IoasAlloc,
  IoasMap,
  IoasUnmap,
  iommufdCommands,
  MAP_FIXED_IOVA,
  MAP_READABLE,
  MAP_WRITEABLE,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
} from "../uapi/index.ts";
import { buildMachine, LibraryClient, type Machine, presets } from "./index.ts";

const { IOAS_ALLOC, IOAS_MAP, IOAS_UNMAP } = iommufdCommands;
const IOVA = 0x10_0000n;
const READ_WRITE = MAP_FIXED_IOVA | MAP_READABLE | MAP_WRITEABLE;

/** Registers of the edu device, as offsets in its file. */
const COMMAND = 7 * 2 ** 40 + 4;
const EDU = { source: 0x80, destination: 0x88, count: 0x90, command: 0x98, buffer: 0x40000n };

/** A driver of the first edu device, attached to an address space with one page mapped at IOVA. */
class EduDriver {
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

const pattern = Array.from({ length: 64 }, (_, i) => i * 3 + 1);

describe("a machine", () => {
  it.each(Object.keys(presets))("%s: powers up, and down again to nothing", (name) => {
    const machine = buildMachine(presets[name]);
    expect(machine.vfio.devices.length + machine.uacce.devices.length).toBe(presets[name].devices.length);
    machine.system.run("power down", machine.powerDown());
    expect(machine.core.groups.size).toBe(0);
    expect(machine.memory.pinnedFrames).toBe(0);
  });

  it("default: two devices in groups of their own, and two functions that share one", () => {
    const machine = buildMachine(presets.default);
    const groups = [...machine.core.groups.values()].map((group) => group.devices.map((device) => device.name));
    expect(groups).toEqual([["0000:00:01.0"], ["0000:00:02.0"], ["0000:00:03.0", "0000:00:03.1"]]);
  });

  it("lets a device do DMA where memory is mapped, and nowhere else", () => {
    const machine = buildMachine(presets["two-edu"]);
    const faults: string[] = [];
    machine.onFault = (fault) => void faults.push(fault.text());
    const driver = new EduDriver(machine);
    driver.map();
    driver.set(0, pattern);
    driver.dma(IOVA, false);
    driver.dma(IOVA + 0x800n, true);
    expect(driver.get(0x800, 64)).toEqual(pattern);
    expect(faults).toEqual([]);

    driver.dma(IOVA + 0x1000n, true);
    expect(faults).toHaveLength(1);
    expect(faults[0]).toMatch(/write to 0x101000 by stream 0x8: F_TRANSLATION: .*bit 0/);
  });

  it("does the same behind a virtio IOMMU, and leaves nothing in it when it is powered down", () => {
    const machine = buildMachine(presets.virtio);
    const faults: string[] = [];
    machine.onFault = (fault) => void faults.push(fault.text());
    const driver = new EduDriver(machine);
    driver.map();
    driver.set(0, pattern);
    driver.dma(IOVA, false);
    driver.dma(IOVA + 0x800n, true);
    expect(driver.get(0x800, 64)).toEqual(pattern);
    expect(faults).toEqual([]);
    driver.unmap();
    driver.dma(IOVA, true);
    expect(faults).toEqual([
      "viommu0: write of endpoint 0x8 at 0x100000 faults: no mapping of its domain allows writing there",
    ]);

    driver.client.close(driver.device);
    driver.client.close(driver.iommu);
    const [{ description, hardware }] = machine.iommus;
    machine.system.run("power-down", machine.powerDown());
    expect(description.kind).toBe("virtio-iommu");
    expect(hardware.occupancy).toEqual({ domains: 0, mappings: 0 });
  });

  it("keeps a device from memory once its unmap returned, whatever the TLB held", () => {
    const machine = buildMachine(presets["two-edu"]);
    const driver = new EduDriver(machine);
    driver.map();
    driver.dma(IOVA, true);
    driver.set(0, pattern);
    driver.unmap();
    driver.dma(IOVA, true);
    expect(driver.get(0, 64)).toEqual(pattern);
    expect(machine.memory.pinnedFrames).toBe(0);
  });

  it("keeps two devices' address spaces apart", () => {
    const machine = buildMachine(presets["two-edu"]);
    const first = new EduDriver(machine);
    const second = new EduDriver(machine, "/dev/vfio/devices/vfio1");
    first.map();
    first.set(0, pattern);
    second.dma(IOVA, false);
    second.map();
    second.dma(IOVA, true);
    expect(second.get(0, 64)).toEqual(new Array(64).fill(0));
    expect(first.get(0, 64)).toEqual(pattern);
  });

  it("takes everything back when the files are closed", () => {
    const machine = buildMachine(presets["two-edu"]);
    const tables = machine.memory.usedFrames;
    const driver = new EduDriver(machine);
    driver.map();
    driver.client.process.exit();
    machine.system.tasks.drain();
    expect(machine.memory.pinnedFrames).toBe(0);
    expect(machine.memory.usedFrames).toBe(tables);
    expect(machine.core.groups.get(0)?.ownerCount).toBe(0);
  });

  it("says why it refuses", () => {
    const driver = new EduDriver(buildMachine(presets["two-edu"]));
    driver.map();
    expect(() => driver.map()).toThrow(Refusal);
    try {
      driver.map();
    } catch (refusal) {
      expect(String(refusal)).toBe("EEXIST: 0x100000-0x100fff overlaps the area 0x100000-0x100fff of IOAS 2");
    }
  });
});
