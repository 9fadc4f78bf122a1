// Runs in a browser.
import type { IommufdDevice } from "../iommufd/index.ts";
import type { File, Process } from "../memory/index.ts";
import type { PciFunction } from "../pci/index.ts";
import { assert, EINVAL, refuse, type Task } from "../runtime/index.ts";
import {
  BIND_FLAG_TOKEN,
  BindIommufd,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_DETACH,
} from "../uapi/index.ts";
import { Attachments } from "./attachments.ts";
import { type BindRequest, readBind } from "./bind.ts";
import type { BoundDevice, VfioDevice } from "./device.ts";
import { deviceIoctl } from "./device-ioctls.ts";
import type { HotResetOwner } from "./hot-reset.ts";
import { iommufdOf } from "./iommufd-of.ts";
import { type OpenDevice, openDevice } from "./open-device.ts";
import { checkToken, TOKEN_SIZE } from "./vf-token.ts";

/** One open of a device's character device. Until it is bound to an iommufd it answers EINVAL to all but BIND. */
export class DeviceFile implements File, HotResetOwner, BoundDevice {
  readonly hasPosition = true;
  readonly proof = "iommufd";
  readonly vfio: VfioDevice;
  /** Both set while bound. */
  private open: OpenDevice | undefined;
  private attachments: Attachments | undefined;

  constructor(vfio: VfioDevice) {
    this.vfio = vfio;
  }

  get label(): string {
    return this.vfio.label;
  }

  get member(): PciFunction {
    return this.vfio.member;
  }

  /** The function in this client's hands. Only while bound. */
  get opened(): OpenDevice {
    assert(this.open !== undefined, () => `${this.label} is not bound through this file`);
    return this.open;
  }

  /** The device in the iommufd that it is bound to. Only while bound. */
  get iommufd(): IommufdDevice {
    assert(this.attachments !== undefined, () => `${this.label} is not bound through this file`);
    return this.attachments.bound;
  }

  *ioctl(process: Process, request: number, argument: number): Task<number> {
    if (request === VFIO_DEVICE_BIND) return yield* this.bind(process, argument);
    const { opened, attachments } = this.granted();
    switch (request) {
      case VFIO_DEVICE_ATTACH:
        return yield* this.locked(() => attachments.attach(process, argument));
      case VFIO_DEVICE_DETACH:
        return yield* this.locked(() => attachments.detach(process, argument));
      default:
        return yield* deviceIoctl(opened, this.vfio, this, process, request, argument);
    }
  }

  *read(_process: Process, position: number, into: Uint8Array): Task<number> {
    return yield* this.granted().opened.access(position, into, "read");
  }

  *write(_process: Process, position: number, from: Uint8Array): Task<number> {
    return yield* this.granted().opened.access(position, from, "write");
  }

  /** Everything that the client had of the device goes back. */
  *release(): Task<void> {
    if (this.open !== undefined) yield* this.locked(() => this.unbind());
    this.vfio.fileClosed();
  }

  /** Of a function that shares a bus reset with this one: see {@link HotResetOwner}. */
  idOf(member: PciFunction): number | undefined {
    const mine = this.attachments?.bound;
    const other = this.vfio.companion(member);
    if (mine === undefined || other === undefined) return undefined;
    const theirs = other.bound?.iommufd;
    if (theirs?.context === mine.context) return theirs.id;
    const owned = other.device.group !== undefined && mine.context.igroups.has(other.device.group);
    return owned ? 0 : undefined;
  }

  owned(): (member: PciFunction) => boolean {
    return (member) => this.idOf(member) !== undefined;
  }

  private granted(): { opened: OpenDevice; attachments: Attachments } {
    const { open, attachments } = this;
    if (open === undefined || attachments === undefined) {
      refuse(EINVAL, () => `device is not bound: BIND of ${this.label} to an iommufd comes first`);
    }
    return { opened: open, attachments };
  }

  private *locked<T>(code: () => Task<T>): Task<T> {
    yield* this.vfio.mutex.take();
    try {
      return yield* code();
    } finally {
      this.vfio.mutex.release();
    }
  }

  /** BIND_IOMMUFD, checks in the order of reference 5.2. */
  private *bind(process: Process, argument: number): Task<number> {
    const request = readBind(process, argument);
    return yield* this.locked(() => this.bindLocked(process, argument, request));
  }

  private *bindLocked(process: Process, argument: number, request: BindRequest): Task<number> {
    const { vfio } = this;
    vfio.group.blockFor(vfio);
    try {
      yield* this.bindBlocked(process, argument, request);
    } catch (error) {
      vfio.group.unblock();
      throw error;
    }
    return 0;
  }

  /** No file of the group is open, and none can be opened. */
  private *bindBlocked(
    process: Process,
    argument: number,
    { iommufd, flags, token_uuid_ptr }: BindRequest,
  ): Task<void> {
    const { vfio } = this;
    if (this.open) refuse(EINVAL, () => `${this.label} is bound through this file already`);
    let token: Uint8Array | undefined;
    if (flags & BIND_FLAG_TOKEN) process.memory.read(token_uuid_ptr, (token = new Uint8Array(TOKEN_SIZE)));
    checkToken(vfio, token);
    const context = iommufdOf(process, iommufd);
    if (vfio.bound) refuse(EINVAL, () => `${this.label} is bound through another open file`);
    const bound = yield* context.bindDevice(process, vfio.device, vfio);
    try {
      this.open = yield* openDevice(vfio.system, vfio.member);
    } catch (error) {
      yield* bound.unbind();
      throw error;
    }
    this.attachments = new Attachments(this.label, bound);
    vfio.bound = this;
    try {
      const id = new Uint8Array(4);
      new DataView(id.buffer).setUint32(0, bound.id, true);
      process.memory.write(argument + BindIommufd.offsets.out_devid, id);
    } catch (error) {
      yield* this.giveBack();
      throw error;
    }
    vfio.tell("vfio.device.bind", { id: bound.id });
  }

  /** The mirror image of binding. Cannot fail. */
  private *unbind(): Task<void> {
    yield* this.giveBack();
    this.vfio.group.unblock();
    this.vfio.tell("vfio.device.unbind", {});
  }

  private *giveBack(): Task<void> {
    const { opened, attachments } = this.granted();
    yield* attachments.release();
    yield* opened.close();
    this.open = this.attachments = undefined;
    this.vfio.wasClosed();
  }
}
