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
  type ReservedRegion,
  Sva,
  setFirmware,
  unuseDefaultDomain,
  useDefaultDomain,
} from "../iommu/index.ts";
import { IommufdContext } from "../iommufd/index.ts";
import { CHUNK_SIZE, type FileNode, PhysicalMemory } from "../memory/index.ts";
import { devicePath, dmaAliases, HotPlug, MsiController, type PciFunction, PciHost, pciNodes } from "../pci/index.ts";
import { type Clock, EINVAL, ENODEV, Refusal, refuse, System, type Task } from "../runtime/index.ts";
import { testInterface } from "../selftest/index.ts";
import { UacceDriver, uacceNodes, uaccePath } from "../uacce/index.ts";
import { VfioPciDriver, vfioNodes } from "../vfio/index.ts";
import { type DeviceInput, describePlugged } from "./description/plugged.ts";
import type {
  FunctionDescription,
  IommuDescription,
  MachineDescription,
  PlatformDescription,
  RegionDescription,
} from "./description.ts";
import { DmaRouter } from "./dma-router.ts";
import { FailureFiles } from "./failure-files.ts";
import { MachineFiles } from "./files.ts";
import { IommuMaker, type MachineFault, type MachineIommu } from "./iommus.ts";
import { EduKernelDriver } from "./kernel-driver.ts";
import { kernelNodes, MISC_MAJOR, type MiscDevice } from "./kernel-files.ts";
import { makeFunction } from "./models.ts";
import { PlatformDevice, platformNodes, platformPath } from "./platform.ts";

/** Where writes become interrupts, before they reach an IOMMU. */
const DOORBELL_SIZE = 0x10_0000;

const iommuDevice: MiscDevice = { name: "iommu", path: "iommu", minor: 125, mode: 0o660 };
const vfioDevice: MiscDevice = { name: "vfio", path: "vfio/vfio", minor: 196, mode: 0o666 };

export interface MachineOptions {
  /** Time; simulated, if absent. */
  readonly clock?: Clock;
  readonly seed?: number;
  /** With the mock IOMMU of Linux's own tests, and the ioctl by which tests drive it. */
  readonly mock?: boolean;
  /** Nanoseconds after which a page request that nobody answers is answered INVALID; never if absent, as in Linux. */
  readonly pageRequestTimeout?: number;
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
  /** How functions come and go while it runs. */
  readonly hotPlug: HotPlug;
  readonly vfio: VfioPciDriver;
  readonly uacce: UacceDriver;
  readonly files: MachineFiles;
  /** Where mock devices come and go, if the machine has any. */
  readonly mockBus: MockBus | undefined;
  /** Hears of every DMA that an IOMMU refused. */
  onFault: ((fault: MachineFault) => void) | undefined;
  private readonly eduDriver: EduKernelDriver;
  private readonly maker: IommuMaker;
  private readonly router: DmaRouter;
  private readonly iommuByName = new Map<string, MachineIommu>();
  private readonly described = new Map<PciFunction, FunctionDescription>();
  private readonly deviceByFunction = new Map<PciFunction, Device>();
  private readonly platformByName = new Map<string, PlatformDevice>();
  private readonly unserved = new Map<Device, string>();
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
      pageRequestTimeout: options.pageRequestTimeout,
      configureDma: (device) => this.readFirmware(device),
    });
    const cpu = new Cpu(this.system, this.memory);
    this.sva = new Sva(this.system, cpu);
    this.router = new DmaRouter(this.memory);
    const doorbell = {
      start: BigInt(description.doorbell),
      last: BigInt(description.doorbell + DOORBELL_SIZE - 1),
    };
    this.pci = new PciHost(this.system, { target: this.router, interrupts: new MsiController(doorbell) });
    this.maker = new IommuMaker(this.system, this.memory, {
      cpu,
      doorbell,
      onFault: (fault) => this.onFault?.(fault),
      requesters: this.pci,
    });
    if (options.mock) this.mockBus = new MockBus(this.core, new MockDriver(this.system, this.memory));
    const device = (member: PciFunction) => this.deviceOf(member);
    this.vfio = new VfioPciDriver(this.system, {
      device,
      onChange: (member) => this.files.touch(`${devicePath(member)}/enable`),
    });
    this.uacce = new UacceDriver(this.system, {
      memory: this.memory,
      device,
      sva: this.sva,
      onChange: (changed) => this.files.touch(`${uaccePath(changed)}/available_instances`),
    });
    this.eduDriver = new EduKernelDriver(this.system, { device });
    const ifKnown = (act: (device: Device) => Task<void>) =>
      function* (member: PciFunction): Task<void> {
        const known = device(member);
        if (known !== undefined) yield* act(known);
      };
    this.pci.drivers.kernelDma = { begin: ifKnown(useDefaultDomain), end: ifKnown(unuseDefaultDomain) };
    this.pci.resetWatch = { prepare: ifKnown(prepareReset), done: ifKnown(finishReset) };
    this.hotPlug = new HotPlug(this.system, this.pci, {
      adopt: (member) => this.adopt(member),
      release: (member) => this.release(member),
      dismantled: (member) => void this.described.delete(member),
    });
    const failureFiles = new FailureFiles(this.system);
    this.files = new MachineFiles([
      () => this.characterDevices(),
      () => (options.mock ? failureFiles.nodes() : new Map()),
      () => kernelNodes([iommuDevice, vfioDevice]),
      () => pciNodes(this.pci, this.hotPlug),
      () => platformNodes(this.platformDevices),
      () => groupNodes(this.core, (device) => this.pathOf(device)),
      () => vfioNodes(this.vfio),
      () => uacceNodes(this.uacce),
    ]);
  }

  /** IOMMUs in the order of the description. */
  get iommus(): readonly MachineIommu[] {
    return [...this.iommuByName.values()];
  }

  /** Devices that the core knows, in the order in which they were probed. */
  get devices(): readonly Device[] {
    return [...this.platformDevices.map(({ device }) => device), ...this.deviceByFunction.values()];
  }

  /** Platform devices in the order of the description. */
  get platformDevices(): readonly PlatformDevice[] {
    return [...this.platformByName.values()];
  }

  /** The platform device of that name. ENODEV: there is none. */
  platform(name: string): PlatformDevice {
    return this.platformByName.get(name) ?? refuse(ENODEV, () => `there is no platform device ${name}`);
  }

  /** What the description says of a function. */
  descriptionOf(member: PciFunction): FunctionDescription {
    return this.described.get(member)!;
  }

  /** The same function, as the core knows it. */
  deviceOf(member: PciFunction): Device | undefined {
    return this.deviceByFunction.get(member);
  }

  /** Why a device is behind no IOMMU although the firmware names one for it. */
  whyUnserved(device: Device): string | undefined {
    return this.unserved.get(device);
  }

  *powerUp(): Task<void> {
    for (const bridge of this.description.bridges) this.pci.addBus(bridge.buses.first, this.install(bridge));
    for (const device of this.description.devices) this.install(device);
    this.pci.enumerate();
    for (const driver of [this.vfio, this.uacce, this.eduDriver]) this.pci.drivers.register(driver);
    for (const iommu of this.description.iommus) yield* this.startIommu(iommu);
    if (this.mockBus !== undefined) yield* this.core.register(this.mockBus.driver.instance);
    // As Linux goes through its buses when an IOMMU comes: the platform's first.
    for (const device of this.description.platform) yield* this.takePlatformIntoCare(device);
    for (const member of this.pci.scanOrder) {
      yield* this.takeIntoCare(member);
      yield* this.bindDriver(member);
    }
    for (const member of this.pci.functions) yield* this.turnOnVirtual(member);
    this.core.waitsForDrivers = false;
    this.pci.drivers.listen(() => this.files.refresh());
    this.hotPlug.listen(() => this.files.refresh());
    this.files.refresh();
  }

  /**
   * Plugs a device in, as an entry under `devices` in a machine file describes it; its driver is bound. Throws a MachineError for
   * what cannot be. ENOSPC: its bus has no room for its registers.
   */
  *plug(input: DeviceInput): Task<readonly PciFunction[]> {
    const members = yield* this.hotPlug.insert(() => {
      const present = [...this.described].filter(([{ virtual }]) => virtual === undefined).map(([, one]) => one);
      return describePlugged(input, present, this.description.iommus).map((one) => this.install(one));
    });
    for (const member of members) {
      yield* this.bindDriver(member);
      yield* this.turnOnVirtual(member);
    }
    return members;
  }

  /**
   * Pulls out the device of the function called `"0000:00:01.0"`, with all its functions and all that is behind it. Orderly,
   * its users are asked to let go and waited for before; by surprise it is gone at once, and they are waited for after.
   * EINVAL: it is a virtual function.
   */
  *unplug(name: string, how: "orderly" | "surprise" = "orderly"): Task<void> {
    const member = [...this.described.keys()].find((one) => one.name === name && !one.isGone);
    if (member === undefined) refuse(ENODEV, () => `there is no PCI function ${name}`);
    if (member.virtual !== undefined) {
      const { physical } = member.virtual.of;
      refuse(EINVAL, () => `${name} is no hardware of its own, but a virtual function of ${physical.name}`);
    }
    const { bus, device } = member.place!;
    yield* this.hotPlug.extract(bus, device, how);
  }

  /** The mirror image of {@link powerUp}; no file of the machine may be open. */
  *powerDown(): Task<void> {
    for (const member of [...this.pci.functions].reverse()) {
      yield* this.pci.drivers.unbind(member);
      yield* this.release(member);
    }
    for (const { name, device } of this.platformDevices.toReversed()) {
      yield* this.forgetDevice(device);
      this.platformByName.delete(name);
    }
    if (this.mockBus !== undefined) yield* this.core.unregister(this.mockBus.driver.instance);
    for (const [name, iommu] of [...this.iommuByName].reverse()) {
      yield* this.core.unregister(iommu.instance);
      yield* iommu.remove();
      this.iommuByName.delete(name);
    }
    this.files.refresh();
  }

  /** Puts a function into its place. */
  private install(description: FunctionDescription): PciFunction {
    const { bus, device, function: number } = description.address;
    const member = makeFunction(this.system, description);
    this.pci.buses.find((one) => one.number === bus)!.add(member, device, number);
    this.described.set(member, description);
    if (!("driver" in description) || description.virtualFunctions === undefined) return member;
    const { driver } = description.virtualFunctions;
    const theirs = { ...description, driver, multifunction: false, virtualFunctions: undefined };
    for (const virtual of member.virtualFunctions!.functions) {
      const { bus: on, ...place } = virtual.place!;
      this.described.set(virtual, { ...theirs, address: { ...place, bus: on.number } });
    }
    return member;
  }

  /** What the description wants on at power-up, as if somebody had written that into `sriov_numvfs`, with the drivers that it names. */
  private *turnOnVirtual(member: PciFunction): Task<void> {
    const description = this.descriptionOf(member);
    const { virtualFunctions: virtual } = member;
    if (virtual === undefined || !("driver" in description)) return;
    const { enabled } = description.virtualFunctions!;
    if (enabled === 0 || member.driver === undefined) return;
    if (member.driver === this.vfio) this.vfio.enablesVirtualFunctions = true;
    virtual.bindsDrivers = false;
    yield* this.hotPlug.setVirtualFunctions(member, enabled);
    virtual.bindsDrivers = true;
    for (const one of virtual.present) if (one.driver === undefined) yield* this.bindDriver(one);
  }

  private *startIommu(description: IommuDescription): Task<void> {
    const behind = this.pci.functions.filter((member) => this.descriptionOf(member).iommu === description.name);
    const requesters = new Set(behind.flatMap(requesterIds));
    const iommu = yield* this.maker.make(description, [...requesters]);
    this.iommuByName.set(description.name, iommu);
    yield* this.core.register(iommu.instance);
  }

  /** A function was found while the machine runs: whatever the core says of it, it is there. */
  private *adopt(member: PciFunction): Task<void> {
    try {
      yield* this.takeIntoCare(member);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      this.leaveUnserved(this.deviceOf(member)!, error);
    }
  }

  /** The core gets to know a function. ENODEV of its IOMMU, which cannot tell it from another, leaves it without group. */
  private *takeIntoCare(member: PciFunction): Task<void> {
    const description = this.descriptionOf(member);
    const iommu = this.iommuOf(description);
    // Of bridges the firmware says no more than which IOMMU they are behind.
    const endpoint = "driver" in description ? description : undefined;
    const { untrusted, defaultDomain, canStall } = endpoint ?? {};
    const device = new Device({ name: member.name, pci: member, untrusted, defaultDomain });
    this.deviceByFunction.set(member, device);
    this.router.route(member.idAtRoot, iommu?.hardware);
    if (iommu === undefined) return;
    const reserved = endpoint && reservedRegions(endpoint.reserved);
    yield* this.probe(device, iommu, { streamIds: requesterIds(member), canStall, ats: "supported", reserved });
  }

  /** The core gets to know a platform device: its stream ids are nobody else's, as the description was checked. */
  private *takePlatformIntoCare(description: PlatformDescription): Task<void> {
    const { name, streams, defaultDomain, canStall } = description;
    const iommu = this.iommuOf(description);
    const device = new Device({ name, defaultDomain });
    this.platformByName.set(name, new PlatformDevice(description, device, iommu?.hardware ?? this.router.untranslated));
    if (iommu === undefined) return;
    const pasidBits = description.pasidBits || undefined;
    const reserved = reservedRegions(description.reserved);
    yield* this.probe(device, iommu, { streamIds: streams, canStall, pasidBits, reserved });
  }

  /** The firmware says that a device is behind an IOMMU. ENODEV of the IOMMU leaves the device without group. */
  private *probe(device: Device, iommu: MachineIommu, spec: Omit<FirmwareSpec, "instance">): Task<void> {
    iommu.connect(spec.streamIds);
    this.firmware.set(device, { instance: iommu.instance.name, ...spec });
    try {
      yield* this.core.probe(device);
    } catch (error) {
      if (!(error instanceof Refusal && error.errno === ENODEV)) throw error;
      this.leaveUnserved(device, error);
    }
  }

  private leaveUnserved(device: Device, refusal: Refusal): void {
    this.unserved.set(device, refusal.reason);
    const { events } = this.system;
    if (events.on) events.emit({ kind: "machine.device.unserved", device: device.name, reason: refusal.reason });
  }

  /** Binds the driver that the description names; not to a device that its IOMMU does not serve. */
  private *bindDriver(member: PciFunction): Task<void> {
    const description = this.descriptionOf(member);
    const wanted = "driver" in description ? description.driver : undefined;
    const driver = [this.vfio, this.uacce, this.eduDriver].find(({ name }) => name === wanted);
    if (driver === undefined || this.unserved.has(this.deviceOf(member)!)) return;
    if (driver === this.vfio) member.driverOverride = driver.name;
    yield* this.pci.drivers.bind(member, driver);
  }

  /** The mirror image of {@link takeIntoCare}. */
  private *release(member: PciFunction): Task<void> {
    const device = this.deviceByFunction.get(member);
    if (device === undefined) return;
    yield* this.forgetDevice(device);
    this.deviceByFunction.delete(member);
    member.driverOverride = undefined;
  }

  private iommuOf({ iommu }: FunctionDescription | PlatformDescription): MachineIommu | undefined {
    return iommu === undefined ? undefined : this.iommuByName.get(iommu)!;
  }

  private *forgetDevice(device: Device): Task<void> {
    if (device.iommu !== undefined) yield* this.core.release(device);
    this.firmware.delete(device);
    this.unserved.delete(device);
  }

  private *readFirmware(device: Device): Task<void> {
    const spec = this.firmware.get(device);
    if (spec !== undefined) setFirmware(this.core, device, spec);
  }

  /** The same implementation twice: a container is an iommufd that accounts memory to processes, as VFIO did. */
  private characterDevices(): Map<string, FileNode> {
    const extension = this.mockBus && testInterface(this.mockBus);
    const node = ({ minor, mode }: MiscDevice, label: string, perProcessAccounting: boolean): FileNode => ({
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
      [`/dev/${iommuDevice.path}`, node(iommuDevice, "iommufd", false)],
      [`/dev/${vfioDevice.path}`, node(vfioDevice, "container", true)],
    ]);
  }

  private pathOf(device: Device): string {
    if (device.pci !== undefined) return devicePath(device.pci);
    const isPlatform = this.platformByName.get(device.name)?.device === device;
    return isPlatform ? platformPath(device.name) : `/sys/devices/${device.name}`;
  }
}

function reservedRegions(regions: readonly RegionDescription[]): ReservedRegion[] {
  return regions.map(({ type, start, size }) => ({ type, start: BigInt(start), last: BigInt(start + size - 1) }));
}

/** Under all numbers that an IOMMU may see of it. */
function requesterIds(member: PciFunction): number[] {
  return [...new Set(dmaAliases(member).map(({ requesterId }) => requesterId))];
}
