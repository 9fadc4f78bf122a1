// Runs in a browser.
/**
 * iommufd: the user API of the IOMMU core. A context is what one open of `/dev/iommu` gives.
 *
 * Words: an *IOAS* is an address space that a client fills; a *HWPT* shows it (or a guest's own tables) to devices by a
 * domain of the core; a bound *device* is attached to HWPTs, its own traffic (RID) and each PASID apart; an *igroup* is
 * what the devices of one group are attached to.
 *
 * Where things live: `objects.ts` knows ids and lifetimes, `iova-space.ts` what is mapped where, `page-set.ts` which memory
 * is pinned, `igroup.ts` who is attached to what, `device.ts` how a device finds its HWPT. Each `…-commands.ts` checks what
 * a client asks, in Linux's order, and calls these. Rows and layouts of all commands are in uapi/iommufd.ts, who executes
 * each in `commands.ts`.
 *
 * Always true: a client finds an object only when nothing of it can fail any more; destroying never fails; a call that
 * fails leaves everything as it was, except that an UNMAP keeps what it removed before its error, and a mapping stays if
 * only its result could not be written.
 *
 * Lock order: IOAS mutex → igroup lock → group mutex; IOAS mutex → domains lock (iova-space.ts).
 */
import type { Device, Group, IommuCore } from "../iommu/index.ts";
import { accountModeOf, type File, type PhysicalMemory, type Process } from "../memory/index.ts";
import { type Holder, RefCount, type System, type Task } from "../runtime/index.ts";
import { copyIn } from "../uapi/index.ts";
import { Call } from "./call.ts";
import { type AnyCommand, entries } from "./commands.ts";
import { containerIoctl } from "./container.ts";
import { bindDevice, type DeviceUser, type IommufdDevice } from "./device.ts";
import { IGroup } from "./igroup.ts";
import type { Ioas } from "./ioas.ts";
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
}

export class IommufdContext implements File {
  readonly seekable = false;
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
  private readonly options: IommufdOptions;
  /** By number, views of structs that no call uses: making one costs as much as a small command. */
  private readonly spareViews: AnyCommand[][] = [];
  /** The open file, and every bound device: with the last the context goes. */
  private readonly holders: RefCount;

  constructor(system: System, core: IommuCore, options: IommufdOptions) {
    this.system = system;
    this.core = core;
    this.options = options;
    this.memory = options.memory;
    this.label = options.label ?? "iommufd";
    this.perProcessAccounting = options.perProcessAccounting ?? false;
    this.objects = new ObjectTable(system);
    this.holders = new RefCount(this.label);
    this.holders.get("its file");
  }

  *ioctl(process: Process, request: number, argument: number): Task<number> {
    const entry = entries.get(request % 256);
    if (entry === undefined) return yield* containerIoctl(this, process, request, argument);
    const { row, execute } = entry;
    const spare = (this.spareViews[request % 256] ??= []);
    const command = spare.pop() ?? new row.struct();
    try {
      const given = copyIn(process.memory, argument, request, row, command.$bytes);
      const task = execute(new Call(this, process, command, argument, given));
      if (task !== undefined) yield* task;
      return 0;
    } finally {
      spare.push(command);
    }
  }

  /** The last descriptor is closed. Bound devices keep the context until they are unbound. */
  *release(): Task<void> {
    yield* this.drop("its file");
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
