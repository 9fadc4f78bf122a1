// Runs in a browser.
/**
 * What the devices of one group are attached to, within one context (reference 1.1 and 3.8): per PASID, one HWPT and the
 * devices that asked for it. PASID 0 stands for the devices' own traffic (RID).
 *
 * Always true: all devices of a group share the HWPT of a PASID; an attachment holds one user on its HWPT and one on its
 * device; the regions that an attached device reserves are reserved in the IOAS of its HWPT (of the parent, if nested).
 *
 * Lock order: IOAS mutex → igroup lock → group mutex.
 */
import {
  attachPasid,
  type Domain,
  detachPasid,
  type Group,
  NO_PASID,
  replacePasid,
  reservedRegionsOf,
} from "../iommu/index.ts";
import { EBUSY, EINVAL, type Holder, Mutex, refuse, type System, type Task } from "../runtime/index.ts";
import type { IommufdDevice } from "./device.ts";
import type { Hwpt, PagingHwpt } from "./hwpt.ts";
import type { IovaSpace } from "./iova-space.ts";

/** What the core keeps for us of an attachment: page requests of what is attached come with it. */
export interface AttachHandle {
  readonly label: string;
  /** The one that was attached first. */
  readonly device: IommufdDevice;
  readonly hwpt: Hwpt;
  readonly domain: Domain;
}

interface Attachment {
  hwpt: Hwpt;
  handle: AttachHandle;
  readonly devices: Map<IommufdDevice, Holder>;
}

/** Users that a HWPT is to lose once no lock is held: an automatic one may go with them. */
export interface FormerUsers {
  readonly hwpt: Hwpt;
  readonly holders: readonly Holder[];
}

export class IGroup {
  readonly group: Group;
  readonly lock: Mutex;
  /** Bound devices of this group. */
  readonly devices = new Set<IommufdDevice>();
  private readonly attachments = new Map<number, Attachment>();

  constructor(system: System, group: Group) {
    this.group = group;
    this.lock = new Mutex(system, "iommufd.igroup");
  }

  /** The HWPT that the device is attached to with this PASID. */
  hwptOf(device: IommufdDevice, pasid: number): Hwpt | undefined {
    const attachment = this.attachments.get(pasid);
    return attachment?.devices.has(device) ? attachment.hwpt : undefined;
  }

  /** The PASIDs that a device is attached with; 0 for the RID. */
  pasidsOf(device: IommufdDevice): number[] {
    return [...this.attachments].filter(([, { devices }]) => devices.has(device)).map(([pasid]) => pasid);
  }

  /** How many (device, PASID) are attached to a paging HWPT or to a nested HWPT on it. */
  attachedTo(paging: PagingHwpt): number {
    let count = 0;
    for (const { hwpt, devices } of this.attachments.values()) if (hwpt.paging === paging) count += devices.size;
    return count;
  }

  /** Attaches a device. Refusals in the order of reference 3.8; then nothing has changed. */
  *attach(device: IommufdDevice, pasid: number, hwpt: Hwpt): Task<void> {
    yield* this.lock.take();
    try {
      const attachment = this.attachments.get(pasid);
      if (attachment?.devices.has(device)) {
        refuse(EBUSY, () => `${device.label}${withPasid(pasid)} is attached already, to ${attachment.hwpt.label}`);
      }
      if (attachment !== undefined && attachment.hwpt !== hwpt) {
        refuse(
          EINVAL,
          () =>
            `${this.group.label}${withPasid(pasid)} is on ${attachment.hwpt.label}: no member can be on ${hwpt.label}`,
        );
      }
      if (pasid === NO_PASID) reserveRegions(device, spaceOf(hwpt));
      if (attachment !== undefined) {
        this.enter(attachment, device, pasid);
      } else {
        const handle = handleOf(device, hwpt);
        try {
          refuseSharedFaults(device, hwpt);
          this.checkPasids(pasid, hwpt);
          if (pasid === NO_PASID) yield* this.group.attach(hwpt.domain, handle);
          else yield* attachPasid(this.group, hwpt.domain, pasid, handle);
        } catch (error) {
          if (pasid === NO_PASID) spaceOf(hwpt).unreserve(device);
          throw error;
        }
        const fresh = { hwpt, handle, devices: new Map() };
        this.attachments.set(pasid, fresh);
        this.enter(fresh, device, pasid);
      }
      device.tell("iommufd.device.attach", { pasid, hwpt: hwpt.id });
    } finally {
      this.lock.release();
    }
  }

  /**
   * Moves all devices attached with this PASID to another HWPT, without a gap; undefined if they are on it already. EINVAL
   * if the device is not attached, EADDRINUSE if a device's region is mapped there, then the compatibility of PASIDs and
   * the driver's own. Then everything is as before, reservations included.
   */
  *replace(device: IommufdDevice, pasid: number, hwpt: Hwpt): Task<FormerUsers | undefined> {
    if (!this.lock.tryTake()) yield* this.lock.take();
    try {
      const attachment = this.attachments.get(pasid);
      if (!attachment?.devices.has(device)) {
        return refuse(EINVAL, () => `${device.label}${withPasid(pasid)} is not attached: nothing to replace`);
      }
      const old = attachment.hwpt;
      if (old === hwpt) return undefined;
      const moves = pasid === NO_PASID && spaceOf(old) !== spaceOf(hwpt);
      const handle = handleOf(device, hwpt);
      try {
        if (moves) for (const member of attachment.devices.keys()) reserveRegions(member, spaceOf(hwpt));
        refuseSharedFaults(device, hwpt);
        this.checkPasids(pasid, hwpt);
        if (pasid === NO_PASID) yield* this.group.replace(hwpt.domain, handle);
        else yield* replacePasid(this.group, hwpt.domain, pasid, handle);
      } catch (error) {
        if (moves) for (const member of attachment.devices.keys()) spaceOf(hwpt).unreserve(member);
        throw error;
      }
      // No page request comes by the old attachment any more: those that are not answered are (invariant 24).
      if (old.faultQueue !== undefined) yield* old.faultQueue.discard(attachment.handle);
      if (moves) for (const member of attachment.devices.keys()) spaceOf(old).unreserve(member);
      const holders = [...attachment.devices.values()];
      for (const holder of holders) hwpt.users.get(holder);
      attachment.hwpt = hwpt;
      attachment.handle = handle;
      device.tell("iommufd.device.replace", { pasid, old: old.id, hwpt: hwpt.id });
      return { hwpt: old, holders };
    } finally {
      this.lock.release();
    }
  }

  /** Detaches a device; undefined if it was not attached. Cannot fail. */
  *detach(device: IommufdDevice, pasid: number): Task<FormerUsers | undefined> {
    yield* this.lock.take();
    const attachment = this.attachments.get(pasid);
    const holder = attachment?.devices.get(device);
    if (attachment !== undefined && holder !== undefined) {
      attachment.devices.delete(device);
      if (attachment.devices.size === 0) {
        this.attachments.delete(pasid);
        if (pasid === NO_PASID) yield* this.group.detach();
        else yield* detachPasid(this.group, pasid);
        const { faultQueue } = attachment.hwpt;
        if (faultQueue !== undefined) yield* faultQueue.discard(attachment.handle);
      }
      if (pasid === NO_PASID) spaceOf(attachment.hwpt).unreserve(device);
      device.users.put(holder);
      device.tell("iommufd.device.detach", { pasid, hwpt: attachment.hwpt.id });
    }
    this.lock.release();
    return attachment === undefined || holder === undefined ? undefined : { hwpt: attachment.hwpt, holders: [holder] };
  }

  private enter(attachment: Attachment, device: IommufdDevice, pasid: number): void {
    const holder = { label: `${device.label}${withPasid(pasid)}` };
    attachment.devices.set(device, holder);
    attachment.hwpt.users.get(holder);
    device.users.get(holder);
  }

  /** Invariant 25: PASIDs and the RID beside them only on HWPTs that were allocated for it. */
  private checkPasids(pasid: number, hwpt: Hwpt): void {
    if (pasid === NO_PASID) {
      if (hwpt.pasidCompatible) return;
      for (const other of this.attachments.keys()) {
        if (other === NO_PASID) continue;
        refuse(
          EINVAL,
          () => `${hwpt.label} was allocated without PASID, but PASID ${other} of ${this.group.label} is attached`,
        );
      }
      return;
    }
    if (!hwpt.pasidCompatible) refuse(EINVAL, () => `${hwpt.label} was allocated without PASID: no PASID can use it`);
    const own = this.attachments.get(NO_PASID)?.hwpt;
    if (own !== undefined && !own.pasidCompatible) {
      refuse(EINVAL, () => `${this.group.label} is on ${own.label}, which was allocated without PASID`);
    }
  }
}

function spaceOf(hwpt: Hwpt): IovaSpace {
  return hwpt.paging.ioas.space;
}

function handleOf(device: IommufdDevice, hwpt: Hwpt): AttachHandle {
  return { label: hwpt.label, device, hwpt, domain: hwpt.domain };
}

/** An answer that a virtual function's user got wrong would stop the page requests of all the others: EINVAL. */
function refuseSharedFaults({ label, device }: IommufdDevice, hwpt: Hwpt): void {
  if (hwpt.faultQueue === undefined || !device.sharesPageRequests) return;
  refuse(
    EINVAL,
    () => `${label} shares its page requests with other functions: ${hwpt.label} cannot have their faults`,
  );
}

function withPasid(pasid: number): string {
  return pasid === NO_PASID ? "" : ` PASID ${pasid}`;
}

/** Reserves what the device must not be given, but for regions that only kernel drivers need. All or nothing. */
function reserveRegions(device: IommufdDevice, space: IovaSpace): void {
  try {
    device.context.system.failures.point("iommufd.device.reserve", EINVAL);
    for (const { start, last, type } of reservedRegionsOf(device.device)) {
      if (type !== "direct-relaxable") space.reserve(start, last, device);
    }
  } catch (error) {
    space.unreserve(device);
    throw error;
  }
}
