// Runs in a browser.
/** Devices that were opened through their group (reference 5.3): one opening, shared by all files that were given out. */
import { compatIoas, type IommufdContext, type IommufdDevice } from "../iommufd/index.ts";
import type { File, Process } from "../memory/index.ts";
import type { PciFunction } from "../pci/index.ts";
import { assert, EINVAL, EPERM, refuse, type Task } from "../runtime/index.ts";
import { VFIO_DEVICE_BIND } from "../uapi/index.ts";
import { readBind } from "./bind.ts";
import type { BoundDevice, VfioDevice } from "./device.ts";
import { deviceIoctl } from "./device-ioctls.ts";
import type { VfioGroup } from "./group.ts";
import { groupOfFile } from "./group-file.ts";
import type { HotResetOwner } from "./hot-reset.ts";
import { type OpenDevice, openDevice } from "./open-device.ts";

/** A device that is bound to its group's container and attached to the container's address space. */
class GroupOpening implements BoundDevice {
  readonly opened: OpenDevice;
  readonly iommufd: IommufdDevice;
  files = 0;

  constructor(opened: OpenDevice, iommufd: IommufdDevice) {
    this.opened = opened;
    this.iommufd = iommufd;
  }
}

/**
 * One more file of the device. Only the first binds it, to `container`, and attaches it to the compatibility IOAS there;
 * whoever closes the last one gives it back. ENODEV: the driver is letting go of it. EINVAL: it is open through its own
 * character device. Then the refusals of binding, ENODEV if there is no compatibility IOAS any more, and those of
 * attaching.
 */
export function* openThroughGroup(
  device: VfioDevice,
  group: VfioGroup,
  container: IommufdContext,
  process: Process,
): Task<File> {
  group.mutex.assertHeld();
  yield* device.mutex.take();
  try {
    device.checkStays();
    device.system.failures.point("vfio.file.open");
    const opening = device.bound ?? (yield* open(device, container, process));
    if (!(opening instanceof GroupOpening)) {
      refuse(EINVAL, () => `${device.label} is open through its own character device`);
    }
    device.bound = opening;
    opening.files++;
    return new GroupDeviceFile(device, group, opening);
  } finally {
    device.mutex.release();
  }
}

function* open(device: VfioDevice, container: IommufdContext, process: Process): Task<GroupOpening> {
  const bound = yield* container.bindDevice(process, device.device, device);
  let opened: OpenDevice | undefined;
  try {
    opened = yield* openDevice(device.system, device.member);
    yield* bound.attach(compatIoas(container).id);
  } catch (error) {
    if (opened !== undefined) yield* opened.close();
    yield* bound.unbind();
    throw error;
  }
  device.tell("vfio.device.bind", { id: bound.id });
  return new GroupOpening(opened, bound);
}

/** What GET_DEVICE_FD gives: a device that needs no BIND, and knows no ATTACH and DETACH. */
class GroupDeviceFile implements File, HotResetOwner {
  readonly hasPosition = true;
  readonly inodeName = "vfio-device";
  readonly proof = "group";
  private readonly device: VfioDevice;
  private readonly group: VfioGroup;
  private readonly opening: GroupOpening;

  constructor(device: VfioDevice, group: VfioGroup, opening: GroupOpening) {
    this.device = device;
    this.group = group;
    this.opening = opening;
  }

  get label(): string {
    return this.device.label;
  }

  get member(): PciFunction {
    return this.device.member;
  }

  *ioctl(process: Process, request: number, argument: number): Task<number> {
    if (request === VFIO_DEVICE_BIND) {
      readBind(process, argument);
      refuse(EINVAL, () => `${this.label} was opened through ${this.group.label}: it is bound by that`);
    }
    return yield* deviceIoctl(this.opening.opened, this.device, this, process, request, argument);
  }

  *read(_process: Process, position: number, into: Uint8Array): Task<number> {
    return yield* this.opening.opened.access(position, into, "read");
  }

  *write(_process: Process, position: number, from: Uint8Array): Task<number> {
    return yield* this.opening.opened.access(position, from, "write");
  }

  *release(): Task<void> {
    const { device, opening } = this;
    yield* device.mutex.take();
    assert(device.bound === opening, () => `${device.label} is closed but not open`);
    if (--opening.files === 0) {
      yield* opening.iommufd.detach();
      yield* opening.opened.close();
      yield* opening.iommufd.unbind();
      device.tell("vfio.device.unbind", {});
      device.wasClosed();
    }
    device.mutex.release();
  }

  idOf(member: PciFunction): number {
    return this.device.deviceOf(member)?.group?.id ?? refuse(EPERM, () => `${member.name} has no group`);
  }

  owned(process: Process, fds: readonly number[]): (member: PciFunction) => boolean {
    const groups = fds.map((fd) => groupOfFile(process, fd));
    return (member) => {
      const device = this.device.companion(member);
      return device !== undefined && groups.some((group) => group.members.has(device));
    };
  }
}
