// Runs in a browser.
import { ensureCompatIoas } from "../iommufd/index.ts";
import { type File, ownFile, PAGE_SIZE, type Process } from "../memory/index.ts";
import { EINVAL, ENODEV, ENOTTY, refuse, type Task } from "../runtime/index.ts";
import {
  GROUP_FLAGS_CONTAINER_SET,
  GROUP_FLAGS_VIABLE,
  GroupStatus,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
} from "../uapi/index.ts";
import type { VfioDevice } from "./device.ts";
import type { VfioGroup } from "./group.ts";
import { readArgument } from "./info.ts";
import { iommufdOf } from "./iommufd-of.ts";
import { checkToken, parseTokenOption } from "./vf-token.ts";

/** The one open file of a group: what gives its devices out (reference 5.3). */
export class GroupFile implements File {
  readonly hasPosition = true;
  readonly group: VfioGroup;

  constructor(group: VfioGroup) {
    this.group = group;
  }

  get label(): string {
    return this.group.label;
  }

  *ioctl(process: Process, request: number, argument: number): Task<number> {
    switch (request) {
      case VFIO_GROUP_GET_STATUS:
        this.getStatus(process, argument);
        return 0;
      case VFIO_GROUP_SET_CONTAINER:
        return yield* this.locked(() => this.setContainer(process, argument));
      case VFIO_GROUP_UNSET_CONTAINER:
        return yield* this.locked(() => this.unsetContainer());
      case VFIO_GROUP_GET_DEVICE_FD:
        return yield* this.locked(() => this.getDevice(process, argument));
      default:
        return refuse(ENOTTY, () => `0x${request.toString(16)} is no ioctl of a VFIO group`);
    }
  }

  /** Devices that were opened through it stay open. */
  *release(): Task<void> {
    yield* this.locked(() => this.group.setContainer(undefined));
    this.group.closed(this);
  }

  private *locked<T>(code: () => Task<T>): Task<T> {
    yield* this.group.mutex.take();
    try {
      return yield* code();
    } finally {
      this.group.mutex.release();
    }
  }

  /** Viable is what nobody has claimed. With a container it is taken for granted. */
  private getStatus(process: Process, argument: number): void {
    const status = readArgument(process, argument, new GroupStatus(), GroupStatus.size);
    const { group } = this;
    if (group.isGone) this.refuseGone();
    if (group.container !== undefined) status.flags = GROUP_FLAGS_VIABLE | GROUP_FLAGS_CONTAINER_SET;
    else status.flags = group.group.ownerCount === 0 ? GROUP_FLAGS_VIABLE : 0;
    process.memory.write(argument, status.$bytes);
  }

  private *setContainer(process: Process, argument: number): Task<number> {
    const { group } = this;
    const bytes = new Uint8Array(4);
    process.memory.read(argument, bytes);
    const fd = new DataView(bytes.buffer).getInt32(0, true);
    const container = iommufdOf(process, fd, () => {
      if (group.container !== undefined)
        refuse(EINVAL, () => `${this.label} has a container: ${group.container?.label}`);
      if (group.isGone) this.refuseGone();
    });
    ensureCompatIoas(container);
    yield* group.setContainer(container);
    return 0;
  }

  private *unsetContainer(): Task<number> {
    if (this.group.container === undefined) refuse(EINVAL, () => `${this.label} has no container`);
    yield* this.group.setContainer(undefined);
    return 0;
  }

  /** The argument is a name: that of a PCI function, and behind it maybe the one option that there is, a token. */
  private *getDevice(process: Process, argument: number): Task<number> {
    const name = readText(process, argument);
    const device = this.memberOf(name);
    const options = name.slice(device.member.name.length).trim();
    checkToken(device, options === "" ? undefined : parseTokenOption(options));
    const file = yield* this.group.openDevice(device, process);
    try {
      return process.installFileAsResult(file);
    } catch (error) {
      yield* file.release();
      throw error;
    }
  }

  private memberOf(name: string): VfioDevice {
    const [first] = name.split(" ", 1);
    for (const device of this.group.members) if (device.member.name === first) return device;
    return refuse(ENODEV, () => `${this.label} has no device "${first}"`);
  }

  private refuseGone(): never {
    refuse(ENODEV, () => `${this.label} has no devices left`);
  }
}

/** A string of a client, without its end. EFAULT; EINVAL if it is longer than a page. */
function readText(process: Process, address: number): string {
  let text = "";
  const chunk = new Uint8Array(64);
  for (let at = 0; at < PAGE_SIZE; ) {
    // No byte behind the end need be readable.
    const part = chunk.subarray(0, Math.min(64 - ((address + at) % 64), PAGE_SIZE - at));
    process.memory.read(address + at, part);
    const end = part.indexOf(0);
    for (const byte of end < 0 ? part : part.subarray(0, end)) text += String.fromCharCode(byte);
    if (end >= 0) return text;
    at += part.length;
  }
  return refuse(EINVAL, () => `the name of the device is longer than ${PAGE_SIZE - 1} bytes`);
}

/** The group whose open file a descriptor of the client is. EBADF if it is not open, EINVAL if it is something else. */
export function groupOfFile(process: Process, fd: number): VfioGroup {
  const file = ownFile(process, fd);
  if (file instanceof GroupFile) return file.group;
  return refuse(EINVAL, () => `file descriptor ${fd} is no VFIO group`);
}
