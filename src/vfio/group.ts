// Runs in a browser.
import type { Group } from "../iommu/index.ts";
import type { IommufdContext } from "../iommufd/index.ts";
import type { File, Process } from "../memory/index.ts";
import { assert, EBUSY, EINVAL, ENODEV, Mutex, refuse, type System, type Task } from "../runtime/index.ts";
import type { VfioDevice } from "./device.ts";
import { openThroughGroup } from "./group-device.ts";
import { GroupFile } from "./group-file.ts";

/**
 * The devices of one group that are bound to vfio-pci, behind the one node `/dev/vfio/GROUP` (reference 5.3): the older
 * way to a device, by a container and its group.
 *
 * Always true: one file of the group is open at most; while it is, no cdev of a member can be bound, and while a cdev is
 * bound, the group cannot be opened. Devices that were opened through a group stay open when its file is closed.
 *
 * Lock order: VfioGroup mutex → VfioDevice mutex → iommufd's locks.
 */
export class VfioGroup {
  readonly system: System;
  readonly group: Group;
  /** The node's minor number. */
  readonly number: number;
  /** Held while the container is set, unset, or used to open a device. */
  readonly mutex: Mutex;
  readonly members: Set<VfioDevice> = new Set();
  /** What devices are opened with. It is held while it is here. */
  container: IommufdContext | undefined;
  private file: GroupFile | undefined;
  private boundCdevs = 0;

  constructor(system: System, group: Group, number: number) {
    this.system = system;
    this.group = group;
    this.number = number;
    this.mutex = new Mutex(system, "vfio.group");
  }

  /** Of its nodes: the group's id. */
  get name(): string {
    return `${this.group.id}`;
  }

  get label(): string {
    return `VFIO ${this.group.label}`;
  }

  /** True while no member is bound to vfio-pci any more. */
  get isGone(): boolean {
    return this.members.size === 0;
  }

  // ---- A group file excludes cdevs, and the other way round

  /** Opens the node. ENODEV: no device is left. EBUSY: it is open, or a member's cdev is bound. */
  *open(_process: Process): Task<File> {
    yield* this.system.tasks.point();
    if (this.isGone) refuse(ENODEV, () => `${this.label} has no devices left`);
    if (this.boundCdevs > 0)
      refuse(EBUSY, () => `a device of ${this.label} is in use through its own character device`);
    if (this.file !== undefined) refuse(EBUSY, () => `${this.label} is open already`);
    this.system.failures.point("vfio.group.open");
    this.file = new GroupFile(this);
    return this.file;
  }

  closed(file: GroupFile): void {
    assert(this.file === file, () => `${this.label} is closed by a file that is not open`);
    this.file = undefined;
  }

  /** A member's cdev is being bound: from now on the group cannot be opened. EBUSY if it is open. */
  blockFor(device: VfioDevice): void {
    if (this.file !== undefined)
      refuse(EBUSY, () => `${device.label} may be used through ${this.label}, which is open`);
    this.boundCdevs++;
  }

  /** The mirror image of {@link blockFor}. */
  unblock(): void {
    assert(this.boundCdevs > 0, () => `${this.label} is not blocked`);
    this.boundCdevs--;
  }

  // ---- The container, and devices that are opened with it

  /** Gives a member out, with the mutex held. EINVAL without a container; then see {@link openThroughGroup}. */
  *openDevice(device: VfioDevice, process: Process): Task<File> {
    const { container } = this;
    if (container === undefined) {
      refuse(EINVAL, () => `${this.label} has no container: SET_CONTAINER comes before GET_DEVICE_FD`);
    }
    return yield* openThroughGroup(device, this, container, process);
  }

  /** Sets or unsets the container, with the mutex held. Cannot fail. */
  *setContainer(container: IommufdContext | undefined): Task<void> {
    this.mutex.assertHeld();
    const before = this.container;
    container?.hold(this);
    this.container = container;
    if (before !== undefined) yield* before.drop(this);
    if (this.system.events.on) {
      this.system.events.emit({ kind: "vfio.group.container", group: this.group.id, container: container?.label });
    }
  }
}
