// Runs in a browser.
/**
 * VFIO: a PCI function as a file, for programs that drive it themselves.
 *
 * A *VfioDevice* is a function bound to vfio-pci; its character device `/dev/vfio/devices/vfioN` may be opened often, each
 * open giving a *DeviceFile* (device-file.ts). One of them may BIND the device to an iommufd: from then on that file has an
 * *OpenDevice* (open-device.ts), which is the function in the client's hands: regions.ts, virtual-config.ts, interrupts.ts
 * and the small ioctls. Attaching the device to address spaces is iommufd's affair; this room only keeps which PASIDs were
 * attached before, since the first time is an attach and every later one a replace.
 *
 * Always true: at most one file of a device is bound; while one is, the function is enabled, owned through the iommufd,
 * and everything that the client installed hangs on its OpenDevice. Closing the file gives all of it back.
 *
 * Lock order: VfioDevice mutex → iommufd's locks.
 */
import type { Device } from "../iommu/index.ts";
import type { File, Process } from "../memory/index.ts";
import type { PciFunction } from "../pci/index.ts";
import { assert, ENODEV, Mutex, refuse, type System, type Task, WaitQueue } from "../runtime/index.ts";
import { DeviceFile } from "./device-file.ts";

/** A PCI function that is bound to vfio-pci. */
export class VfioDevice {
  readonly system: System;
  readonly member: PciFunction;
  /** The same function, as the IOMMU core knows it. */
  readonly device: Device;
  /** N of `/dev/vfio/devices/vfioN`. */
  readonly number: number;
  /** Held over bind, attach, detach, reset and close. */
  readonly mutex: Mutex;
  /** The one open file that is bound to an iommufd. */
  bound: DeviceFile | undefined;
  /** Every VFIO device of the machine by its function: whom a bus reset would take along. */
  readonly siblings: ReadonlyMap<PciFunction, VfioDevice>;
  private readonly closed: WaitQueue;
  private leaving = false;

  constructor(
    system: System,
    options: { device: Device; number: number; siblings: ReadonlyMap<PciFunction, VfioDevice> },
  ) {
    const { device, number, siblings } = options;
    assert(device.pci !== undefined, () => `${device.label} is no PCI function`);
    this.system = system;
    this.member = device.pci;
    this.device = device;
    this.number = number;
    this.siblings = siblings;
    this.mutex = new Mutex(system, "vfio.device");
    this.closed = new WaitQueue(system, `close of ${this.name}`);
  }

  /** `"vfio0"`. */
  get name(): string {
    return `vfio${this.number}`;
  }

  get label(): string {
    return `${this.name} (${this.member.name})`;
  }

  /** One open of the character device. ENODEV if the driver is letting go of the device. */
  *open(_process: Process): Task<File> {
    yield* this.system.tasks.point();
    if (this.leaving) refuse(ENODEV, () => `${this.label} is going away`);
    this.system.failures.point("vfio.file.open");
    return new DeviceFile(this);
  }

  /** A bound file let go of the device. */
  wasClosed(): void {
    this.closed.wake();
  }

  /** The driver lets go: nobody can open it any more; asks the client to close it, and waits until it did. */
  *leave(): Task<void> {
    this.leaving = true;
    this.bound?.opened.interrupts.askToRelease();
    yield* this.closed.until(() => this.bound === undefined);
  }
}
