// Runs in a browser.
/**
 * Bound devices, and how they come to a HWPT by the id of an IOAS or of a HWPT: the interface for VFIO and others that
 * hand devices to user space (reference 3.8).
 */
import { type Device, groupOf, NO_PASID } from "../iommu/index.ts";
import type { Process } from "../memory/index.ts";
import { EINVAL, EPERM, Refusal, refuse, type Task } from "../runtime/index.ts";
import type { IommufdContext } from "./context.ts";
import { abandonPagingHwpt, buildPagingHwpt, Hwpt, type PagingHwpt } from "./hwpt.ts";
import type { FormerUsers, IGroup } from "./igroup.ts";
import { Ioas } from "./ioas.ts";
import { IommufdObject } from "./objects.ts";
import type { Vdevice } from "./vdevice.ts";

/** Who binds a device: named where the device cannot be destroyed. */
export interface DeviceUser {
  readonly label: string;
  /** It is an object of the context itself: then the device does not keep the context. */
  readonly insideContext?: boolean;
}

/** A device bound to a context. */
export class IommufdDevice extends IommufdObject {
  static readonly noun = "device";
  readonly kind = "DEVICE";
  readonly context: IommufdContext;
  readonly device: Device;
  readonly igroup: IGroup;
  /** How a guest sees it, if one does. */
  vdevice: Vdevice | undefined;
  /** Being unbound: nothing new is made for it. */
  isLeaving = false;
  private readonly user: DeviceUser;
  /** The process that bound it: attaching may pin memory in its name. */
  private readonly process: Process;

  constructor(id: number, context: IommufdContext, process: Process, device: Device, igroup: IGroup, user: DeviceUser) {
    super(id, IommufdDevice.noun, device.name);
    this.context = context;
    this.device = device;
    this.igroup = igroup;
    this.user = user;
    this.process = process;
  }

  /** True while the device's own traffic is attached. */
  get attached(): boolean {
    return this.igroup.hwptOf(this, NO_PASID) !== undefined;
  }

  /** The HWPT that the device is attached to with this PASID (0: its own traffic). */
  hwpt(pasid: number = NO_PASID): Hwpt | undefined {
    return this.igroup.hwptOf(this, pasid);
  }

  /**
   * First attach, to the HWPT `ptId`, or to a fitting automatic HWPT of the IOAS `ptId`; returns the id of the HWPT.
   * ENOENT: no such id. EINVAL: neither IOAS nor HWPT. Then the table of reference 3.8.
   */
  attach(ptId: number, pasid: number = NO_PASID): Task<number> {
    return this.changeTo(ptId, pasid, attaching);
  }

  /** From what is attached to `ptId`, without a gap; otherwise as {@link attach}. EINVAL if nothing is attached. */
  replace(ptId: number, pasid: number = NO_PASID): Task<number> {
    return this.changeTo(ptId, pasid, replacing);
  }

  /** Nothing if it is not attached. Cannot fail. */
  *detach(pasid: number = NO_PASID): Task<void> {
    const former = yield* this.igroup.detach(this, pasid);
    if (former !== undefined) yield* this.dismiss(former);
  }

  /**
   * Detaches all and gives the device back to the core; the object is gone. What a guest saw of it goes too, but keeps its
   * id: nobody is to find something else there. Cannot fail.
   */
  *unbind(): Task<void> {
    const { context, igroup } = this;
    this.isLeaving = true;
    for (const pasid of igroup.pasidsOf(this).sort((a, b) => b - a)) yield* this.detach(pasid);
    // What is being made of it right now is complete, or given up, when the lock is free.
    yield* igroup.lock.take();
    const { vdevice } = this;
    igroup.lock.release();
    if (vdevice !== undefined) yield* context.objects.bury(vdevice);
    this.users.put(this.user);
    yield* context.objects.remove(this);
    if (!this.user.insideContext) yield* context.drop(this);
  }

  *destroy(): Task<void> {
    this.igroup.devices.delete(this);
    this.context.forgetEmptyGroup(this.igroup);
    yield* this.igroup.group.disclaim(this.device);
  }

  describe(): Record<string, unknown> {
    const attachments = this.igroup.pasidsOf(this).map((pasid) => ({ pasid, hwpt: this.hwpt(pasid)!.id }));
    return { device: this.device.name, group: this.igroup.group.id, attachments };
  }

  tell(kind: string, fields: Record<string, unknown>): void {
    const { events } = this.context.system;
    if (events.on) events.emit({ kind, id: this.id, device: this.device.name, ...fields });
  }

  private *changeTo(ptId: number, pasid: number, change: Change): Task<number> {
    const { objects } = this.context;
    const target = objects.useAny(ptId);
    let former: FormerUsers | undefined;
    let id: number;
    try {
      if (target instanceof Hwpt) {
        former = yield* change.move(this, pasid, target);
        id = target.id;
      } else if (target instanceof Ioas) {
        [id, former] = yield* this.changeToIoas(target, pasid, change);
      } else {
        refuse(EINVAL, () => `${target.label} is neither an IOAS nor a HWPT`);
      }
    } finally {
      objects.release(target);
    }
    if (former !== undefined) yield* this.dismiss(former);
    return id;
  }

  /** The first automatic HWPT of the IOAS that fits, or a new one. EINVAL means: does not fit; other errors end it. */
  private *changeToIoas(ioas: Ioas, pasid: number, change: Change): Task<[number, FormerUsers | undefined]> {
    const { objects } = this.context;
    yield* ioas.mutex.take();
    try {
      for (const hwpt of ioas.hwpts) {
        if (!hwpt.automatic || !objects.isPublished(hwpt)) continue;
        try {
          return [hwpt.id, yield* change.move(this, pasid, hwpt)];
        } catch (error) {
          if (!(error instanceof Refusal && error.errno === EINVAL)) throw error;
        }
      }
      const fresh = yield* buildPagingHwpt(this.context, {
        ioas,
        device: this,
        flags: 0,
        data: undefined,
        automatic: true,
      });
      let former: FormerUsers | undefined;
      try {
        former = yield* change.moveToFresh(this, pasid, fresh, this.process);
      } catch (error) {
        yield* abandonPagingHwpt(this.context, fresh);
        throw error;
      }
      objects.publish(fresh);
      return [fresh.id, former];
    } finally {
      ioas.mutex.release();
    }
  }

  /** Takes users from the HWPT that they left: an automatic one goes with the last. With no locks held. */
  private *dismiss({ hwpt, holders }: FormerUsers): Task<void> {
    for (const holder of holders) {
      if (hwpt.automatic) yield* this.context.objects.putAndRemove(hwpt, holder);
      else hwpt.users.put(holder);
    }
  }
}

/** How a device comes to a HWPT: by a first attach, or by a replace. */
interface Change {
  move(device: IommufdDevice, pasid: number, hwpt: Hwpt): Task<FormerUsers | undefined>;
  /** To a HWPT that is not linked to its IOAS yet, and links it. All or nothing. */
  moveToFresh(device: IommufdDevice, pasid: number, hwpt: PagingHwpt, caller: Process): Task<FormerUsers | undefined>;
}

/** Errors of the attach win over those of the link: the attach comes first. */
const attaching: Change = {
  *move(device, pasid, hwpt) {
    yield* device.igroup.attach(device, pasid, hwpt);
    return undefined;
  },
  *moveToFresh(device, pasid, hwpt, caller) {
    yield* device.igroup.attach(device, pasid, hwpt);
    try {
      yield* hwpt.link(caller);
    } catch (error) {
      const former = yield* device.igroup.detach(device, pasid);
      for (const holder of former!.holders) hwpt.users.put(holder);
      throw error;
    }
    return undefined;
  },
};

/** Errors of the link win over those of the replace: nothing may be unmapped for a moment, so the link comes first. */
const replacing: Change = {
  move: (device, pasid, hwpt) => device.igroup.replace(device, pasid, hwpt),
  *moveToFresh(device, pasid, hwpt, caller) {
    yield* hwpt.link(caller);
    return yield* device.igroup.replace(device, pasid, hwpt);
  },
};

/** Device users of a paging HWPT (reference 1.1): 1, and one for each attachment to it or to a nested HWPT on it. */
export function devicesUsers(hwpt: PagingHwpt): number {
  let users = 1;
  for (const igroup of hwpt.ioas.context.igroups.values()) users += igroup.attachedTo(hwpt);
  return users;
}

/**
 * Binds a device to the context: nobody else may use it, and it can do no DMA until it is attached. EINVAL: no cache
 * coherency. ENODEV: no group. EPERM: interrupts are not isolated, or somebody else has the group. EBUSY: the group is not
 * at rest. EINVAL: the device has regions that must stay mapped.
 */
export function* bindDevice(
  context: IommufdContext,
  process: Process,
  device: Device,
  user: DeviceUser,
): Task<IommufdDevice> {
  if (!(device.iommu?.instance.driver.capable(device, "cache-coherency") ?? false)) {
    refuse(EINVAL, () => `DMA of ${device.label} is not coherent with the CPU's caches`);
  }
  const group = groupOf(device);
  if (!context.interruptsAreSafe(device)) {
    refuse(EPERM, () => `interrupts of ${device.label} are not isolated, and unsafe interrupts are not allowed`);
  }
  const id = context.objects.reserve();
  try {
    yield* group.claim(device, context);
  } catch (error) {
    context.objects.abort(id);
    throw error;
  }
  const igroup = context.igroupOf(group);
  const bound = new IommufdDevice(id, context, process, device, igroup, user);
  igroup.devices.add(bound);
  bound.users.get(user);
  if (!user.insideContext) context.hold(bound);
  context.objects.publish(bound);
  bound.tell("iommufd.device.bind", {});
  return bound;
}
