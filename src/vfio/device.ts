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
 * The older way to a device is by its group (group.ts): a group's file is given an iommufd as its *container* and then gives
 * out device files that are bound and attached already.
 *
 * Always true: at most one file of a device is bound, or only files that its group gave out; while one is, the function is enabled, owned through the iommufd,
 * and everything that the client installed hangs on its OpenDevice. Closing the file gives all of it back.
 *
 * Lock order: VfioGroup mutex → VfioDevice mutex → iommufd's locks.
 */
import type { Device } from "../iommu/index.ts";
import type { IommufdDevice } from "../iommufd/index.ts";
import type { File, Process } from "../memory/index.ts";
import type { PciFunction } from "../pci/index.ts";
import { assert, ENODEV, Mutex, refuse, type System, type Task, WaitQueue } from "../runtime/index.ts";
import { DeviceFile } from "./device-file.ts";
import type { VfioGroup } from "./group.ts";
import type { OpenDevice } from "./open-device.ts";
import { unknownToken } from "./vf-token.ts";

/** Nanoseconds between two requests to close a device. */
const REQUEST_INTERVAL = 10e9;

/** A device in a client's hands. */
export interface BoundDevice {
  readonly opened: OpenDevice;
  /** The same, as the iommufd knows it. */
  readonly iommufd: IommufdDevice;
}

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
  /** The devices of its IOMMU group that are bound to vfio-pci. */
  readonly group: VfioGroup;
  /** In whose hands it is: those of one cdev's file, or of the files that its group gave out. */
  bound: BoundDevice | undefined;
  /** Of a physical function of SR-IOV: what its virtual ones are opened with. See vf-token.ts. */
  token: Uint8Array | undefined;
  /** Every VFIO device of the machine by its function. */
  readonly siblings: ReadonlyMap<PciFunction, VfioDevice>;
  /** What the IOMMU core has of a function, whatever driver that has. */
  readonly deviceOf: (member: PciFunction) => Device | undefined;
  private readonly onChange: ((member: PciFunction) => void) | undefined;
  private readonly closed: WaitQueue;
  private leaving = false;
  /** Open files of the character device, bound or not. */
  private files = 0;

  constructor(
    system: System,
    options: {
      device: Device;
      number: number;
      group: VfioGroup;
      siblings: ReadonlyMap<PciFunction, VfioDevice>;
      deviceOf: (member: PciFunction) => Device | undefined;
      /** It was bound, or given back. */
      onChange?: ((member: PciFunction) => void) | undefined;
    },
  ) {
    const { device, number, group, siblings, deviceOf, onChange } = options;
    assert(device.pci !== undefined, () => `${device.label} is no PCI function`);
    this.system = system;
    this.member = device.pci;
    this.device = device;
    this.number = number;
    this.group = group;
    this.siblings = siblings;
    this.deviceOf = deviceOf;
    this.onChange = onChange;
    if (device.pci.virtualFunctions !== undefined) this.token = unknownToken(system);
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
    this.checkStays();
    this.system.failures.point("vfio.file.open");
    this.files++;
    return new DeviceFile(this);
  }

  /** A file of the character device was closed. */
  fileClosed(): void {
    this.files--;
    this.closed.wake();
  }

  /** ENODEV if the driver is letting go of the device. */
  checkStays(): void {
    if (this.leaving) refuse(ENODEV, () => `${this.label} is going away`);
  }

  /** Whoever had the device in hand gave it back. */
  wasClosed(): void {
    this.bound = undefined;
    this.closed.wake();
  }

  /**
   * The driver lets go: nobody can open the device any more. Asks the client to close it, at once and again every ten seconds,
   * and waits until all its files are closed.
   */
  *leave(): Task<void> {
    this.leaving = true;
    const stopAsking = this.keepAsking();
    yield* this.closed.untilUninterrupted(() => this.bound === undefined && this.files === 0);
    stopAsking();
  }

  private keepAsking(): () => void {
    let cancel = (): void => {};
    const ask = (): void => {
      this.bound?.opened.interrupts.askToRelease();
      cancel = this.system.clock.after(REQUEST_INTERVAL, ask);
    };
    ask();
    return () => cancel();
  }

  /** The VFIO device of a function that a reset of its bus takes along with this one. One of a virtual function is alone. */
  companion(member: PciFunction): VfioDevice | undefined {
    const isAlone = member !== this.member && (member.isVirtual || this.member.isVirtual);
    return isAlone ? undefined : this.siblings.get(member);
  }

  /** It was bound, or given back. */
  tell(kind: "vfio.device.bind" | "vfio.device.unbind", fields: Record<string, unknown>): void {
    const { events } = this.system;
    if (events.on) events.emit({ kind, device: this.name, ...fields });
    this.onChange?.(this.member);
  }
}
