// Runs in a browser.
/**
 * iommufd: the user API of the IOMMU core. A context is what one open of `/dev/iommu` gives.
 *
 * Words: an *IOAS* is an address space that a client fills; a *HWPT* shows it (or a guest's own tables) to devices by a
 * domain of the core; a bound *device* is attached to HWPTs, its own traffic (RID) and each PASID apart; an *igroup* is
 * what the devices of one group are attached to.
 *
 * A guest's tables are a *nested* HWPT on a parent; what a guest sees of an IOMMU is a *viommu*, of a device a *vdevice*.
 * An *access* reaches mapped memory without an IOMMU. Page requests wait for user space in a *fault queue*, events for a
 * guest in an *event queue* of its viommu: both are objects and files.
 *
 * Where things live: `objects.ts` knows ids and lifetimes, `iova-space.ts` what is mapped where, `page-set.ts` which memory
 * is pinned, `igroup.ts` who is attached to what, `device.ts` how a device finds its HWPT. Each `…-commands.ts` checks what
 * a client asks, in Linux's order, and calls these. Rows and layouts of all commands are in uapi/iommufd.ts, who executes
 * each in `commands.ts`; others add commands by `extension.ts`.
 *
 * Always true: a client finds an object only when nothing of it can fail any more; destroying never fails; a call that
 * fails leaves everything as it was, except that an UNMAP keeps what it removed before its error, and a mapping stays if
 * only its result could not be written.
 *
 * Lock order: IOAS mutex → igroup lock → group mutex; IOAS mutex or access mutex → domains lock (iova-space.ts). What others
 * give to be called (unmap of an access) is called with none of these.
 */
import type { Device, Group, IommuCore } from "../iommu/index.ts";
import {
  accountModeOf,
  type File,
  type FileWindow,
  type MmapRequest,
  type PhysicalMemory,
  type Process,
} from "../memory/index.ts";
import { done, type Holder, RefCount, type System, type Task } from "../runtime/index.ts";
import { copyIn } from "../uapi/index.ts";
import { Access, type AccessUser } from "./access.ts";
import { Call } from "./call.ts";
import { type AnyCommand, type Entry, entries, withExtension } from "./commands.ts";
import { containerIoctl } from "./container.ts";
import { bindDevice, type DeviceUser, type IommufdDevice } from "./device.ts";
import type { IommufdExtension } from "./extension.ts";
import { IGroup } from "./igroup.ts";
import type { Ioas } from "./ioas.ts";
import { MmapWindows } from "./mmap-windows.ts";
import { ObjectTable } from "./objects.ts";
import { PageSet, type PageSource } from "./page-set.ts";

export interface IommufdOptions {
  readonly memory: PhysicalMemory;
  /** For people: `"iommufd 1"`. */
  readonly label?: string;
  /** RLIMIT_MODE at the start: 1 for a context opened through `/dev/vfio/vfio`. */
  readonly perProcessAccounting?: boolean;
  /** True for a device whose interrupts cannot reach others; all, unless said otherwise. */
  readonly interruptsIsolated?: (device: Device) => boolean;
  /** Module parameter allow_unsafe_interrupts. */
  readonly allowUnsafeInterrupts?: boolean;
  /** Commands besides iommufd's own, such as those of a test interface. */
  readonly extension?: IommufdExtension;
}

export class IommufdContext implements File {
  readonly hasPosition = true;
  readonly label: string;
  readonly system: System;
  readonly core: IommuCore;
  readonly memory: PhysicalMemory;
  readonly objects: ObjectTable;
  /** Of the groups that bound devices are in. */
  readonly igroups = new Map<Group, IGroup>();
  /** Charge locked memory to the process instead of the user (RLIMIT_MODE). */
  perProcessAccounting: boolean;
  /** What the VFIO container ioctls work on. */
  compatIoas: Ioas | undefined;
  /** What a client can map of the file. */
  readonly windows: MmapWindows = new MmapWindows();
  private readonly options: IommufdOptions;
  private readonly entries: ReadonlyMap<number, Entry>;
  /** By number, views of structs that no call uses: making one costs as much as a small command. A refused call keeps its own. */
  private readonly spareViews: AnyCommand[][] = [];
  /** Its open file, those of its queues, every device that is bound and every access: with the last the context goes. */
  private readonly holders: RefCount;

  constructor(system: System, core: IommuCore, options: IommufdOptions) {
    this.system = system;
    this.core = core;
    this.options = options;
    this.entries = options.extension === undefined ? entries : withExtension(options.extension);
    this.memory = options.memory;
    this.label = options.label ?? "iommufd";
    this.perProcessAccounting = options.perProcessAccounting ?? false;
    this.objects = new ObjectTable(system);
    this.holders = new RefCount(this.label);
    this.holders.get("its file");
  }

  *ioctl(process: Process, request: number, argument: number): Task<number> {
    const entry = this.entries.get(request % 256);
    if (entry === undefined) return yield* containerIoctl(this, process, request, argument);
    const spare = (this.spareViews[request % 256] ??= []);
    const command = spare.pop() ?? new entry.row.struct();
    const outcome = this.execute(entry, process, request, argument, command);
    const value = outcome === undefined || outcome === done || typeof outcome === "number" ? outcome : yield* outcome;
    spare.push(command);
    return typeof value === "number" ? value : 0;
  }

  private execute(
    { row, execute }: Entry,
    process: Process,
    request: number,
    argument: number,
    command: AnyCommand,
  ): ReturnType<Entry["execute"]> {
    const given = copyIn(process.memory, argument, request, row, command.$bytes);
    return execute(new Call(this, process, command, argument, given));
  }

  /** The last descriptor is closed. Bound devices keep the context until they are unbound. */
  *release(): Task<void> {
    yield* this.drop("its file");
  }

  /** A window that a driver published for this file. EINVAL, EPERM, ENXIO: see {@link MmapWindows.map}. */
  mmap(_process: Process, request: MmapRequest): FileWindow {
    return this.windows.map(request);
  }

  /** For somebody who reaches mapped memory without an IOMMU; it keeps the context until its `destroyByUser`. */
  createAccess(user: AccessUser, { pins }: { readonly pins: boolean }): Access {
    return this.objects.create((id) => new Access(id, this, user, { pins, holdsContext: true }));
  }

  /** Binds a device for somebody who hands devices to user space: see {@link bindDevice}. */
  *bindDevice(process: Process, device: Device, user: DeviceUser): Task<IommufdDevice> {
    return yield* bindDevice(this, process, device, user);
  }

  /** What is in it, as plain data: for inspection. */
  snapshot(): Record<string, unknown> {
    return {
      label: this.label,
      perProcessAccounting: this.perProcessAccounting,
      compatIoas: this.compatIoas?.id,
      objects: this.objects.list().map((object) => ({
        id: object.id,
        kind: object.kind,
        users: object.users.holders(),
        ...object.describe(),
      })),
    };
  }

  // ---- For the rest of this room

  /** What others added. */
  get extension(): IommufdExtension | undefined {
    return this.options.extension;
  }

  /** Keeps the context alive until {@link drop}. */
  hold(holder: Holder): void {
    this.holders.get(holder);
  }

  *drop(holder: Holder): Task<void> {
    if (this.holders.put(holder) === 0) yield* this.objects.destroyAll();
  }

  newPageSet(creator: Process, source: PageSource, writable: boolean): PageSet {
    return new PageSet(this, source, writable, creator, accountModeOf(creator, this.perProcessAccounting));
  }

  igroupOf(group: Group): IGroup {
    let igroup = this.igroups.get(group);
    if (igroup === undefined) {
      igroup = new IGroup(this.system, group);
      this.igroups.set(group, igroup);
    }
    return igroup;
  }

  forgetEmptyGroup(igroup: IGroup): void {
    if (igroup.devices.size === 0) this.igroups.delete(igroup.group);
  }

  interruptsAreSafe(device: Device): boolean {
    return (this.options.allowUnsafeInterrupts ?? false) || (this.options.interruptsIsolated?.(device) ?? true);
  }
}
