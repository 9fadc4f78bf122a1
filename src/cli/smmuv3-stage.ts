/**
 * Where the scenarios of `uiommu smmuv3 record` are played: our driver on a model of the SMMUv3 that QEMU has, with a
 * {@link Recorder} between them. A scenario says what it does and what DMA has to do then; that the model does so is
 * asserted here, so a log never promises what did not happen.
 */
import { SmmuV3Driver, type SmmuV3Instance } from "../drivers/smmuv3/index.ts";
import { eventName, type IdRegisters, SmmuV3 } from "../hardware/smmuv3/index.ts";
import {
  Device,
  type Domain,
  groupOf,
  IommuCore,
  newGather,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
  type ViommuServices,
} from "../iommu/index.ts";
import { PAGE_SIZE, PhysicalMemory } from "../memory/index.ts";
import { assert, System, type Task } from "../runtime/index.ts";
import { Guest, showMemory } from "./smmuv3-guest.ts";
import { hex, type LogLine, Recorder } from "./smmuv3-recorder.ts";

/** The identification registers of QEMU's `virt,iommu=smmuv3`: no SubstreamIDs, stalls, ATS or HTTU. */
export const RECORDED_REGISTERS: IdRegisters = {
  idr0: 0xd44101b,
  idr1: 0x2730010,
  idr2: 0,
  idr3: 0x1414,
  idr4: 0,
  idr5: 0x74,
  iidr: 0,
  aidr: 1,
  gbpa: 0x1000,
};

/** RAM as the machine that plays logs has it, and the part that a log may use: the first 32 MiB are left alone. */
const RAM = { base: 0x4000_0000, size: 256 * 2 ** 30 };
const USABLE = { base: 0x4200_0000, size: 2 ** 30 };

/** A number of the user API. */
const VIOMMU_TYPE_ARM_SMMUV3 = 1;

/** Data of DMA has the top bit of each byte set, memory's own content has not: they cannot be taken for each other. */
const DMA_BIT = 0x80;

export const READ: number = PROT_READ;
export const READ_WRITE: number = PROT_READ | PROT_WRITE;

export class Stage {
  private readonly core: IommuCore;
  private readonly driver: SmmuV3Driver;
  private readonly system = new System();
  private readonly memory = new PhysicalMemory(this.system, { ram: [USABLE] });
  private readonly hardware: SmmuV3;
  private readonly recorder: Recorder;
  private readonly instance: SmmuV3Instance;
  private readonly devices: Device[] = [];
  /** Faults of the DMA that is being performed. */
  private faults: { readonly event: string; readonly record: Uint32Array | undefined }[] = [];
  private nextPattern = 1;

  constructor() {
    const { system, memory } = this;
    let hardware: SmmuV3 | undefined;
    this.recorder = new Recorder(system, memory, (interrupt) => {
      hardware = new SmmuV3(system, memory, { ...RECORDED_REGISTERS, interrupt });
      return hardware;
    });
    this.hardware = hardware!;
    this.hardware.onFault = ({ event, record, recorded }) =>
      this.faults.push({ event: eventName(event), record: recorded ? record : undefined });
    this.driver = new SmmuV3Driver(system, memory);
    this.core = new IommuCore(system, { defaultDomain: "identity" });
    this.instance = this.run(this.driver.probe(this.recorder, { name: "smmu" }));
    this.recorder.onInterrupt = (line) => this.driver.handleInterrupt(this.instance, line);
    this.run(this.core.register(this.instance));
  }

  /** The log: a header, then all that happened. */
  get lines(): readonly LogLine[] {
    const regs = Object.fromEntries(
      Object.entries(RECORDED_REGISTERS).map(([name, value]) => [name.toUpperCase(), hex(value as number)]),
    );
    const header = { header: true, format: 1, recorded_with: "uiommu", regs, ram: [[hex(RAM.base), hex(RAM.size)]] };
    return [header, ...this.recorder.lines];
  }

  // Devices and domains

  /** A device with one StreamID, a PCI requester id. It starts in the identity domain. */
  device(streamId: number): Device {
    const device = new Device({
      name: `device ${hex(streamId)}`,
      firmware: { instance: "smmu", streamIds: [streamId] },
    });
    this.run(this.core.probe(device));
    this.devices.push(device);
    return device;
  }

  /** An empty domain, of the kind that the HWPT flags ask for. */
  domain(flags = 0): PagingDomain {
    return this.run(this.driver.allocatePaging(this.devices[0], flags, undefined));
  }

  get identity(): Domain {
    return this.driver.identityDomain;
  }

  get blocked(): Domain {
    return this.driver.blockedDomain;
  }

  /** From whatever the device has, to `domain`. */
  attach(device: Device, domain: Domain): void {
    const group = groupOf(device);
    this.run(group.handle === undefined ? group.attach(domain, domain) : group.replace(domain, domain));
  }

  /** Back to the default, which is identity. */
  detach(device: Device): void {
    this.run(groupOf(device).detach());
  }

  /** `count` new pages in a row, the first a multiple of `align`; their content tells them apart. The address. */
  pages(count = 1, align = 1): number {
    const address = this.memory.allocate(count, align) * PAGE_SIZE;
    const content = new Uint8Array(count * PAGE_SIZE);
    // Where they are looked at: the beginning and the end of each page.
    for (let page = 0; page < count; page++) {
      for (let at = 0; at < 16; at++) {
        content[page * PAGE_SIZE + at] = (this.nextPattern * 7 + at) % DMA_BIT;
        content[(page + 1) * PAGE_SIZE - 1 - at] = (this.nextPattern * 11 + at) % DMA_BIT;
      }
      this.nextPattern++;
    }
    this.memory.write(address, content);
    return address;
  }

  map(domain: PagingDomain, iova: number, physical: number, size: number, prot: number = READ_WRITE): void {
    this.run(domain.map(BigInt(iova), physical, size, prot));
  }

  /** Once done, no device reaches the range. */
  unmap(domain: PagingDomain, iova: number, size: number): void {
    const gather = newGather();
    assert(this.run(domain.unmap(BigInt(iova), size, gather)) === size, () => `${hex(iova)} is not wholly mapped`);
    this.run(domain.sync(gather));
  }

  /** A guest whose memory `parent` shows, with this device. */
  guest(device: Device, parent: PagingDomain, asid: number): Guest {
    const known = BigInt(Guest.virtualId);
    const services: ViommuServices = {
      device: (virtualId) => (virtualId === known ? device : undefined),
      virtualId: (wanted) => (wanted === device ? known : undefined),
      report: () => undefined,
      publishWindow: () => 0n,
      retractWindow: () => undefined,
    };
    if (parent.translate(BigInt(USABLE.base)) === undefined) {
      this.run(showMemory(parent, USABLE.base, READ_WRITE));
    }
    const viommu = this.run(this.driver.allocateViommu(device, parent, VIOMMU_TYPE_ARM_SMMUV3, undefined, services));
    return new Guest(this.system, this.memory, device, viommu, asid);
  }

  /** Takes the SMMU out of use, all devices before it. */
  remove(): void {
    for (const device of this.devices.splice(0).reverse()) this.run(this.core.release(device));
    this.run(this.core.unregister(this.instance));
    this.run(this.driver.remove(this.instance));
  }

  // DMA

  /** A read must find what is at `physical`. */
  reads(device: Device, iova: number, physical: number, length = 16): void {
    const data = new Uint8Array(length);
    this.memory.read(physical, data);
    this.perform(device, iova, length, undefined, () => ({ ok: true, data, events: [] }));
  }

  /** A write must get to `physical`. */
  writes(device: Device, iova: number, physical: number, length = 16): void {
    const pattern = this.nextPattern++;
    const data = Uint8Array.from({ length }, (_, index) => DMA_BIT | ((pattern * 5 + index) % DMA_BIT));
    this.perform(device, iova, length, data, () => {
      const found = new Uint8Array(length);
      this.memory.read(physical, found);
      assert(isSame(found, data), () => `what was written to ${hex(iova)} is not at ${hex(physical)}`);
      return { ok: true, events: [] };
    });
  }

  /** An access of 4 bytes must be aborted, with the event of that name, or without one (`"aborted"`). */
  aborts(device: Device | number, iova: number, event: string, access: "read" | "write" = "read"): void {
    const data = access === "write" ? Uint8Array.of(0xff, 0xfe, 0xfd, 0xfc) : undefined;
    this.perform(device, iova, 4, data, () => {
      const [fault] = this.faults;
      assert(fault?.event === event, () => `${access} of ${hex(iova)} ended with ${fault?.event}, not ${event}`);
      return { ok: false, events: fault.record === undefined ? [] : [fault.record] };
    });
  }

  private run<T>(code: Task<T>): T {
    return this.system.run("scenario", code);
  }

  private perform(
    device: Device | number,
    iova: number,
    length: number,
    data: Uint8Array | undefined,
    expectation: () => { ok: boolean; data?: Uint8Array; events: readonly Uint32Array[] },
  ): void {
    const streamId = typeof device === "number" ? device : device.firmware!.streamIds[0];
    this.recorder.dma({ streamId, iova, length, data }, () => {
      this.faults = [];
      const bytes = data?.slice() ?? new Uint8Array(length);
      const access = this.hardware.access(streamId, undefined, BigInt(iova), bytes, data !== undefined);
      const ok = this.run(access);
      const expected = expectation();
      const label = `${data === undefined ? "read" : "write"} of ${hex(iova)} by stream ${hex(streamId)}`;
      assert(ok === expected.ok, () => `${label}: ${this.faults[0]?.event ?? "it went through"}`);
      assert(expected.data === undefined || isSame(bytes, expected.data), () => `${label}: other bytes than expected`);
      return expected;
    });
    this.system.tasks.drain();
  }
}

function isSame(left: Uint8Array, right: Uint8Array): boolean {
  return left.every((byte, index) => byte === right[index]);
}
