// Runs in a browser.
import { IommufdContext } from "../iommufd/index.ts";
import type { File, Process } from "../memory/index.ts";
import type { PciFunction } from "../pci/index.ts";
import { assert, EBADFD, EINVAL, ENOTTY, refuse, type Task } from "../runtime/index.ts";
import {
  BIND_FLAG_TOKEN,
  BindIommufd,
  copyIn,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_DETACH,
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_IOEVENTFD,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
} from "../uapi/index.ts";
import { Attachments } from "./attachments.ts";
import type { VfioDevice } from "./device.ts";
import { type HotResetOwner, hotReset, hotResetInfo } from "./hot-reset.ts";
import { OpenDevice } from "./open-device.ts";

const BIND_ROW = {
  name: "VFIO_DEVICE_BIND",
  number: VFIO_DEVICE_BIND,
  minimum: BindIommufd.endOf("out_devid"),
} as const;

/** One open of a device's character device. Until it is bound to an iommufd it answers EINVAL to all but BIND. */
export class DeviceFile implements File, HotResetOwner {
  readonly seekable = true;
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

  *ioctl(process: Process, request: number, argument: number): Task<number> {
    if (request === VFIO_DEVICE_BIND) return yield* this.bind(process, argument);
    const { opened, attachments } = this.granted();
    switch (request) {
      case VFIO_DEVICE_ATTACH:
        return yield* this.locked(() => attachments.attach(process, argument));
      case VFIO_DEVICE_DETACH:
        return yield* this.locked(() => attachments.detach(process, argument));
      case VFIO_DEVICE_GET_INFO:
        opened.getInfo(process, argument);
        return 0;
      case VFIO_DEVICE_GET_REGION_INFO:
        opened.getRegionInfo(process, argument);
        return 0;
      case VFIO_DEVICE_GET_IRQ_INFO:
        opened.getIrqInfo(process, argument);
        return 0;
      case VFIO_DEVICE_SET_IRQS:
        return opened.setIrqs(process, argument);
      case VFIO_DEVICE_RESET:
        opened.reset();
        return 0;
      case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
        hotResetInfo(process, argument, this);
        return 0;
      case VFIO_DEVICE_PCI_HOT_RESET:
        hotReset(process, argument, this);
        return 0;
      case VFIO_DEVICE_IOEVENTFD:
        opened.setIoEventFd(process, argument);
        return 0;
      case VFIO_DEVICE_FEATURE:
        opened.feature(process, argument);
        return 0;
      default:
        return refuse(ENOTTY, () => `0x${request.toString(16)} is no ioctl of a VFIO device`);
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
    if (this.open === undefined) return;
    yield* this.locked(() => this.unbind());
  }

  /** Of a function that shares a bus reset with this one: see {@link HotResetOwner}. */
  idOf(member: PciFunction): number | undefined {
    const mine = this.attachments?.bound;
    const other = this.vfio.siblings.get(member);
    if (mine === undefined || other === undefined) return undefined;
    const theirs = other.bound?.attachments?.bound;
    if (theirs?.context === mine.context) return theirs.id;
    const owned = other.device.group !== undefined && mine.context.igroups.has(other.device.group);
    return owned ? 0 : undefined;
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
    const request = new BindIommufd();
    copyIn(process.memory, argument, VFIO_DEVICE_BIND, BIND_ROW, request.$bytes);
    const { iommufd, flags } = request;
    if (iommufd < 0) refuse(EINVAL, () => `iommufd is ${iommufd}, no file descriptor`);
    if (flags & ~BIND_FLAG_TOKEN) refuse(EINVAL, () => `flags 0x${flags.toString(16)} has unknown bits`);
    return yield* this.locked(() => this.bindLocked(process, argument, request));
  }

  private *bindLocked(
    process: Process,
    argument: number,
    { iommufd, flags, token_uuid_ptr }: { iommufd: number; flags: number; token_uuid_ptr: bigint },
  ): Task<number> {
    const { vfio } = this;
    if (this.open) refuse(EINVAL, () => `${this.label} is bound through this file already`);
    if (flags & BIND_FLAG_TOKEN) {
      process.memory.read(token_uuid_ptr, new Uint8Array(16));
      refuse(EINVAL, () => `${this.label} has no virtual functions: it takes no token`);
    }
    const context = iommufdOf(process, iommufd);
    if (vfio.bound) refuse(EINVAL, () => `${this.label} is bound through another open file`);
    const bound = yield* context.bindDevice(process, vfio.device, vfio);
    try {
      this.open = new OpenDevice(vfio.system, vfio.member);
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
      yield* this.unbind();
      throw error;
    }
    this.tell("vfio.device.bind", { id: bound.id });
    return 0;
  }

  /** The mirror image of binding. Cannot fail. */
  private *unbind(): Task<void> {
    const { opened, attachments } = this.granted();
    yield* attachments.release();
    opened.close();
    this.open = this.attachments = undefined;
    this.vfio.bound = undefined;
    this.tell("vfio.device.unbind", {});
    this.vfio.wasClosed();
  }

  private tell(kind: string, fields: Record<string, unknown>): void {
    const { events } = this.vfio.system;
    if (events.on) events.emit({ kind, device: this.vfio.name, ...fields });
  }
}

/** EBADF if the descriptor is not open, EBADFD if it is not an iommufd. */
function iommufdOf(process: Process, fd: number): IommufdContext {
  const file = process.file(fd);
  if (file.kind === "ours" && file.file instanceof IommufdContext) return file.file;
  if (file.kind === "eventfd") file.event.release();
  return refuse(EBADFD, () => `file descriptor ${fd} is not an iommufd`);
}
