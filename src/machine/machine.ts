// Runs in a browser.
/**
 * A machine that runs: memory, IOMMUs with their drivers, a PCI host with its devices, and the files that clients see.
 *
 * Hardware and drivers are made side by side here and nowhere else: an IOMMU's driver gets its registers, its memory and
 * its interrupts (`iommus.ts`). Powering up goes as on a computer: hardware is put together, buses are enumerated, IOMMUs are probed,
 * then each device by the core, then drivers are bound; powering down is the mirror image.
 */
import { MockBus, MockDriver } from "../drivers/mock/index.ts";
import {
  Cpu,
  Device,
  type FirmwareSpec,
  finishReset,
  groupNodes,
  IommuCore,
  prepareReset,
  Sva,
  setFirmware,
  unuseDefaultDomain,
  useDefaultDomain,
} from "../iommu/index.ts";
import { IommufdContext } from "../iommufd/index.ts";
import { CHUNK_SIZE, type FileNode, PhysicalMemory } from "../memory/index.ts";
import { devicePath, MsiController, type PciFunction, PciHost, pciNodes } from "../pci/index.ts";
import { assert, type Clock, System, type Task } from "../runtime/index.ts";
import { testInterface } from "../selftest/index.ts";
import { VfioPciDriver, vfioNodes } from "../vfio/index.ts";
import type { DeviceDescription, IommuDescription, MachineDescription } from "./description.ts";
import { DmaRouter } from "./dma-router.ts";
import { FailureFiles } from "./failure-files.ts";
import { MachineFiles } from "./files.ts";
import { IommuMaker, type MachineFault, type MachineIommu } from "./iommus.ts";
import { EduKernelDriver } from "./kernel-driver.ts";
import { makeFunction } from "./models.ts";

/** Where writes become interrupts, before they reach an IOMMU: 1 MiB. */
const DOORBELL = { start: 0x0800_0000n, last: 0x080f_ffffn };

/** /dev/iommu and /dev/vfio/vfio, misc devices. */
const MISC_MAJOR = 10;
const IOMMU_MINOR = 125;
const VFIO_MINOR = 196;

export interface MachineOptions {
  /** Time; simulated, if absent. */
  readonly clock?: Clock;
  readonly seed?: number;
  /** With the mock IOMMU of Linux's own tests, and the ioctl by which tests drive it. */
  readonly mock?: boolean;
}

/** Builds a machine and powers it up. */
export function buildMachine(description: MachineDescription, options: MachineOptions = {}): Machine {
  const machine = new Machine(description, options);
  machine.system.run(`power-up of ${description.name}`, machine.powerUp());
  return machine;
}

export class Machine {
  readonly description: MachineDescription;
  readonly system: System;
  readonly memory: PhysicalMemory;
  readonly core: IommuCore;
  /** Where drivers let devices use the memory of processes. */
  readonly sva: Sva;
  readonly pci: PciHost;
  readonly vfio: VfioPciDriver;
  readonly files: MachineFiles;
  /** Where mock devices come and go, if the machine has any. */
  readonly mockBus: MockBus | undefined;
  /** Hears of every DMA that an IOMMU refused. */
  onFault: ((fault: MachineFault) => void) | undefined;
  private readonly eduDriver: EduKernelDriver;
  private readonly maker: IommuMaker;
  private readonly router: DmaRouter;
  private readonly iommuByName = new Map<string, MachineIommu>();
  private readonly deviceOf = new Map<PciFunction, Device>();
  /** What firmware tables would say of each device's way to an IOMMU. */
  private readonly firmware = new Map<Device, FirmwareSpec>();

  /** Puts the hardware together; {@link buildMachine} also powers it up. */
  constructor(description: MachineDescription, options: MachineOptions) {
    const { base, size } = description.memory;
    this.description = description;
    this.system = new System(options);
    // Right behind RAM, so that pages of clients are in reach of every output address size.
    this.memory = new PhysicalMemory(this.system, { ram: [{ base, size }], foreignBase: base + size + CHUNK_SIZE });
    this.core = new IommuCore(this.system, {
      defaultDomain: description.defaultDomain,
      configureDma: (device) => this.readFirmware(device),
    });
    const cpu = new Cpu(this.system, this.memory);
    this.sva = new Sva(this.system, cpu);
    this.router = new DmaRouter(this.memory);
    this.pci = new PciHost(this.system, { target: this.router, interrupts: new MsiController(DOORBELL) });
    this.maker = new IommuMaker(this.system, this.memory, {
      cpu,
      doorbell: DOORBELL,
      onFault: (fault) => this.onFault?.(fault),
    });
    if (options.mock) this.mockBus = new MockBus(this.core, new MockDriver(this.system, this.memory));
    const device = (member: PciFunction) => this.deviceOf.get(member);
    this.vfio = new VfioPciDriver(this.system, { device });
    this.eduDriver = new EduKernelDriver(this.system, { device });
    const ifKnown = (act: (device: Device) => Task<void>) =>
      function* (member: PciFunction): Task<void> {
        const known = device(member);
        if (known !== undefined) yield* act(known);
      };
    this.pci.drivers.kernelDma = { begin: ifKnown(useDefaultDomain), end: ifKnown(unuseDefaultDomain) };
    this.pci.resetWatch = { prepare: ifKnown(prepareReset), done: ifKnown(finishReset) };
    const failureFiles = new FailureFiles(this.system);
    this.files = new MachineFiles([
      () => this.characterDevices(),
      () => (options.mock ? failureFiles.nodes() : new Map()),
      () => pciNodes(this.pci),
      () => groupNodes(this.core, (device) => this.pathOf(device)),
      () => vfioNodes(this.vfio),
    ]);
  }

  /** IOMMUs in the order of the description. */
  get iommus(): readonly MachineIommu[] {
    return [...this.iommuByName.values()];
  }

  /** Devices that the core knows, in the order in which they were probed. */
  get devices(): readonly Device[] {
    return [...this.deviceOf.values()];
  }

  *powerUp(): Task<void> {
    for (const device of this.description.devices) this.plug(device);
    this.pci.enumerate();
    this.pci.drivers.register(this.vfio);
    this.pci.drivers.register(this.eduDriver);
    for (const iommu of this.description.iommus) yield* this.startIommu(iommu);
    if (this.mockBus !== undefined) yield* this.core.register(this.mockBus.driver.instance);
    for (const device of this.description.devices) yield* this.startDevice(device);
    this.core.waitsForDrivers = false;
    this.pci.drivers.listen(() => this.files.refresh());
    this.files.refresh();
  }

  /** The mirror image of {@link powerUp}; no file of the machine may be open. */
  *powerDown(): Task<void> {
    for (const member of [...this.pci.functions].reverse()) {
      yield* this.pci.drivers.unbind(member);
      const device = this.deviceOf.get(member);
      if (device?.iommu !== undefined) yield* this.core.release(device);
      this.deviceOf.delete(member);
    }
    this.firmware.clear();
    if (this.mockBus !== undefined) yield* this.core.unregister(this.mockBus.driver.instance);
    for (const [name, iommu] of [...this.iommuByName].reverse()) {
      yield* this.core.unregister(iommu.instance);
      yield* iommu.remove();
      this.iommuByName.delete(name);
    }
    this.files.refresh();
  }

  private plug(description: DeviceDescription): void {
    const { bus, device, function: number } = description.address;
    assert(bus === 0, () => `there is no way to bus ${bus}`);
    this.pci.root.add(makeFunction(this.system, description), device, number);
  }

  private *startIommu(description: IommuDescription): Task<void> {
    const behind = this.description.devices.filter(({ iommu }) => iommu === description.name);
    const requesters = behind.map((device) => this.memberAt(device).requesterId);
    const iommu = yield* this.maker.make(description, requesters);
    this.iommuByName.set(description.name, iommu);
    yield* this.core.register(iommu.instance);
  }

  private *startDevice(description: DeviceDescription): Task<void> {
    const member = this.memberAt(description);
    const iommu = description.iommu === undefined ? undefined : this.iommuByName.get(description.iommu)!;
    const reserved = description.reserved.map(({ type, start, size }) => {
      return { type, start: BigInt(start), last: BigInt(start + size - 1) };
    });
    const { untrusted, defaultDomain } = description;
    const device = new Device({ name: member.name, pci: member, untrusted, defaultDomain });
    this.deviceOf.set(member, device);
    if (iommu !== undefined) {
      this.firmware.set(device, {
        instance: iommu.instance.name,
        streamIds: [member.requesterId],
        canStall: description.canStall,
        reserved,
      });
      this.router.route(member.requesterId, iommu.hardware);
      yield* this.core.probe(device);
    }
    if (description.driver === "vfio-pci") {
      member.driverOverride = this.vfio.name;
      yield* this.pci.drivers.bind(member, this.vfio);
    } else if (description.driver === "edu") {
      yield* this.pci.drivers.bind(member, this.eduDriver);
    }
  }

  private *readFirmware(device: Device): Task<void> {
    const spec = this.firmware.get(device);
    if (spec !== undefined) setFirmware(this.core, device, spec);
  }

  private memberAt({ address }: DeviceDescription): PciFunction {
    return this.pci.root.slot(address.device).find((one) => one.place?.function === address.function)!;
  }

  /** The same implementation twice: a container is an iommufd that accounts memory to processes, as VFIO did. */
  private characterDevices(): Map<string, FileNode> {
    const extension = this.mockBus && testInterface(this.mockBus);
    const node = (minor: number, mode: number, label: string, perProcessAccounting: boolean): FileNode => ({
      kind: "device",
      major: MISC_MAJOR,
      minor,
      mode,
      open: function* (this: Machine): Task<IommufdContext> {
        const { system, core, memory } = this;
        return new IommufdContext(system, core, { memory, label, perProcessAccounting, extension });
      }.bind(this),
    });
    return new Map([
      ["/dev/iommu", node(IOMMU_MINOR, 0o660, "iommufd", false)],
      ["/dev/vfio/vfio", node(VFIO_MINOR, 0o666, "container", true)],
    ]);
  }

  private pathOf(device: Device): string {
    return device.pci === undefined ? `/sys/devices/${device.name}` : devicePath(device.pci);
  }
}
