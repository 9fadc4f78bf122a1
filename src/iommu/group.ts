// Runs in a browser.
/**
 * A group: the devices that hardware cannot tell apart or keep apart, and so the unit that is given to a user.
 *
 * Always true: every member translates through `domain`; without a user that is the default domain. A group has an
 * `owner` exactly while somebody claimed it for himself; while `ownerCount` is above zero without an owner, kernel
 * drivers use the default domain. `handles` holds what the user gave with an attach, by PASID.
 * For a moment false: during a switch some members are already on the new domain; a member that is being reset is blocked.
 *
 * Everything here that is not read-only happens under `mutex` (class "iommu.group"), which each method takes itself.
 */

import type { PciFunction } from "../pci/index.ts";
import {
  assert,
  EBUSY,
  EINVAL,
  ENODEV,
  EPERM,
  EPROBE_DEFER,
  Mutex,
  RefCount,
  refuse,
  type System,
  type Task,
} from "../runtime/index.ts";
import { freeDomain } from "./default-domain.ts";
import type { Device } from "./device.ts";
import { type Domain, type IommuDriver, isDomainOf, type ReservedRegion } from "./driver.ts";
import { mergeRegions, reservedRegionsOf } from "./reserved.ts";
import { attachMember, switchAll, switchAllRegardless } from "./switching.ts";

/** The PASID of traffic without PASID: the device's own (RID). */
export const NO_PASID = 0;

export class Group {
  readonly id: number;
  readonly system: System;
  readonly mutex: Mutex;
  /** What it is for, where that has a name of its own (`name` in sysfs). */
  readonly name: string | undefined;
  /** One reference of each member. */
  readonly references: RefCount;
  /** What members translate through; undefined until the first is set up. */
  domain: Domain | undefined;
  /** Where members are while nobody owns the group; made with the first member, freed with the last. */
  defaultDomain: Domain | undefined;
  /** Where members are while owned but not attached; made when first needed, freed with the last member. */
  blockingDomain: Domain | undefined;
  /** Who claimed the group; undefined if nobody, or kernel drivers. */
  owner: object | undefined;
  ownerCount = 0;
  /** What users gave at attach, by PASID. */
  readonly handles = new Map<number, object>();
  /** What each attached PASID translates through; see `pasid.ts`. */
  readonly pasidDomains = new Map<number, Domain>();
  private readonly byFunction: Map<PciFunction, Group>;
  private readonly members = new Map<Device, string>();
  private readonly namesTaken = new Set<string>();
  private list: readonly Device[] = [];

  /** `byFunction`: where it is kept which group each PCI function is a member of. */
  constructor(system: System, id: number, byFunction: Map<PciFunction, Group>, name?: string) {
    this.system = system;
    this.id = id;
    this.byFunction = byFunction;
    this.name = name;
    this.mutex = new Mutex(system, "iommu.group");
    this.references = new RefCount(this.label);
  }

  get label(): string {
    return `group ${this.id}`;
  }

  /** In the order in which they joined. */
  get devices(): readonly Device[] {
    return this.list;
  }

  /** What the user gave with the attach of the members' own traffic. */
  get handle(): object | undefined {
    return this.handles.get(NO_PASID);
  }

  /** The driver of the members' IOMMU. A group without members has none. */
  get driver(): IommuDriver {
    assert(this.list.length > 0, () => `${this.label} has no member`);
    return this.list[0].iommu!.instance.driver;
  }

  /** The members with their names under `devices/` in sysfs. */
  get linkNames(): ReadonlyMap<Device, string> {
    return this.members;
  }

  /** Addresses that members must not be given, sorted and merged. */
  reservedRegions(): ReservedRegion[] {
    return mergeRegions(this.list.flatMap(reservedRegionsOf));
  }

  /** Adds a member, under its own name or, where that is taken, with `.0`, `.1`, … behind it. */
  addMember(device: Device): void {
    this.mutex.assertHeld();
    let name = device.name;
    for (let suffix = 0; this.namesTaken.has(name); suffix++) name = `${device.name}.${suffix}`;
    this.namesTaken.add(name);
    this.members.set(device, name);
    this.list = [...this.members.keys()];
    if (device.pci !== undefined) this.byFunction.set(device.pci, this);
  }

  removeMember(device: Device): void {
    this.mutex.assertHeld();
    this.namesTaken.delete(this.members.get(device)!);
    this.members.delete(device);
    if (device.pci !== undefined) this.byFunction.delete(device.pci);
    this.list = [...this.members.keys()];
  }

  // ---- DMA ownership (reference 2.6)

  /**
   * Claims the group for `owner` through one of its devices, or counts one more claim of the same owner; with the first, no
   * member can do DMA until {@link attach}. EPERM: someone else has it. EBUSY: not on its default domain, or PASIDs in
   * use. EINVAL: a member has direct regions that must stay mapped.
   */
  *claim(device: Device, owner: object): Task<void> {
    yield* this.mutex.take();
    try {
      if (this.ownerCount > 0) {
        if (this.owner !== owner) refuse(EPERM, () => `${device.label}: ${this.label} is in use by ${this.ownerLabel}`);
        this.ownerCount++;
      } else {
        yield* this.takeOwnership(owner);
      }
      this.tell("iommu.group.claim", { device: device.name, ownerCount: this.ownerCount });
    } finally {
      this.mutex.release();
    }
  }

  /** Claims the group as a whole, once: as {@link claim}, but EPERM also for who has it already. */
  *claimWhole(owner: object): Task<void> {
    yield* this.mutex.take();
    try {
      if (this.ownerCount > 0) refuse(EPERM, () => `${this.label} is in use by ${this.ownerLabel}`);
      yield* this.takeOwnership(owner);
      this.tell("iommu.group.claim", { ownerCount: this.ownerCount });
    } finally {
      this.mutex.release();
    }
  }

  /** Gives back one claim; with the last, members return to the default domain. Cannot fail. */
  *disclaim(device?: Device): Task<void> {
    yield* this.mutex.take();
    try {
      assert(this.ownerCount > 0 && this.owner !== undefined, () => `${this.label} is not claimed`);
      if (this.ownerCount === 1) {
        assert(this.handles.size === 0, () => `${this.label} is given back while something is attached`);
        this.owner = undefined;
        yield* this.setDomainRegardless(this.defaultDomain!);
      }
      this.ownerCount--;
      this.tell("iommu.group.disclaim", { device: device?.name, ownerCount: this.ownerCount });
    } finally {
      this.mutex.release();
    }
  }

  /**
   * A kernel driver is bound to `device` and uses the default domain. EPROBE_DEFER: there is none yet. EBUSY: somebody owns
   * the group, or its members are not on the default domain.
   */
  *useDefaultDomain(device: Device): Task<void> {
    yield* this.mutex.take();
    try {
      if (this.defaultDomain === undefined) {
        refuse(EPROBE_DEFER, () => `${device.label}: ${this.label} has no default domain yet`);
      }
      if (this.ownerCount > 0 && (this.owner !== undefined || !this.atRest)) {
        refuse(EBUSY, () => `${device.label}: ${this.label} is in use by ${this.ownerLabel}`);
      }
      this.ownerCount++;
    } finally {
      this.mutex.release();
    }
  }

  /** The mirror image of {@link useDefaultDomain}. */
  *unuseDefaultDomain(): Task<void> {
    yield* this.mutex.take();
    assert(this.ownerCount > 0 && this.owner === undefined, () => `${this.label} is not used by kernel drivers`);
    this.ownerCount--;
    this.mutex.release();
  }

  // ---- What the owner lets the members translate through (reference 2.5)

  /**
   * Attaches all members to `domain`. `handle` is visible once the hardware accepted. EBUSY: something is attached
   * already, or a member is being reset. EINVAL: the domain belongs to another driver, or no handle.
   */
  *attach(domain: Domain, handle: object): Task<void> {
    yield* this.mutex.take();
    try {
      if (handle === undefined) refuse(EINVAL, () => `${this.label}: an attach needs a handle`);
      if (this.handles.has(NO_PASID))
        refuse(EBUSY, () => `${this.label} is attached already: to ${this.domain!.label}`);
      if (this.domain !== this.defaultDomain && this.domain !== this.blockingDomain) {
        refuse(EBUSY, () => `${this.label} is attached already: to ${this.domain!.label}`);
      }
      this.checkDriver(domain);
      this.checkReset();
      yield* this.setDomain(domain);
      this.handles.set(NO_PASID, handle);
    } finally {
      this.mutex.release();
    }
  }

  /**
   * From whatever is attached to `domain`, without a gap. EINVAL: no domain, no handle, or another driver's domain (which
   * Linux leaves to the drivers). EBUSY: a member is being reset. Otherwise the driver's own.
   */
  *replace(domain: Domain, handle: object): Task<void> {
    if (!this.mutex.tryTake()) yield* this.mutex.take();
    try {
      if (domain === undefined || handle === undefined) refuse(EINVAL, () => `${this.label}: no domain or no handle`);
      this.checkDriver(domain);
      this.checkReset();
      yield* this.setDomain(domain);
      this.handles.set(NO_PASID, handle);
    } finally {
      this.mutex.release();
    }
  }

  /** Members leave the user's domain: for the blocking one if the group has an owner, else the default. Cannot fail. */
  *detach(): Task<void> {
    yield* this.mutex.take();
    try {
      const rest = this.owner === undefined ? this.defaultDomain : this.blockingDomain;
      assert(rest !== undefined, () => `${this.label} has no domain of its own`);
      yield* this.setDomainRegardless(rest);
      this.handles.delete(NO_PASID);
    } finally {
      this.mutex.release();
    }
  }

  /** The first DMA of a member whose attach was deferred: now it is attached. EBUSY: it is being reset. */
  *attachDeferred(device: Device): Task<void> {
    yield* this.mutex.take();
    try {
      if (!device.iommu!.attachDeferred) return;
      this.checkReset();
      yield* this.domain!.attachDevice(device, undefined);
      device.iommu!.attachDeferred = false;
    } finally {
      this.mutex.release();
    }
  }

  // ---- Under the mutex

  /** A new member joins what the others translate through. */
  *attachNewMember(device: Device): Task<void> {
    this.mutex.assertHeld();
    this.system.failures.point("iommu.domain.attach");
    yield* attachMember(this, device, this.domain!, undefined);
  }

  /** Moves all members to `domain`, or none. */
  *setDomain(domain: Domain): Task<void> {
    this.mutex.assertHeld();
    const old = this.domain;
    if (old === domain) return;
    yield* switchAll(this, domain, old);
    this.domain = domain;
    this.tell("iommu.group.domain", { domain: domain.label, old: old?.label });
  }

  /** The members' first domain: it stays even if one refuses it, since then they are all released. */
  *setFirstDomain(domain: Domain): Task<void> {
    this.mutex.assertHeld();
    this.domain = domain;
    for (const device of this.list) yield* this.attachNewMember(device);
    this.tell("iommu.group.domain", { domain: domain.label });
  }

  /** Moves all members to `domain`, those that refuse to the blocking domain. Cannot fail. */
  *setDomainRegardless(domain: Domain): Task<void> {
    this.mutex.assertHeld();
    const old = this.domain;
    if (old === domain) return;
    yield* switchAllRegardless(this, domain, old);
    this.domain = domain;
    this.tell("iommu.group.domain", { domain: domain.label, old: old?.label });
  }

  /** The domain in which nothing reaches memory: the driver's own, else an empty one. Refusals of its allocation. */
  *ensureBlockingDomain(): Task<Domain> {
    if (this.blockingDomain === undefined) {
      this.system.failures.point("iommu.group.blocking-domain");
      this.blockingDomain =
        this.driver.blockedDomain ?? (yield* this.driver.allocatePaging(this.list[0], 0, undefined));
    }
    return this.blockingDomain;
  }

  /** Does something with the blocking domain, which stays if that succeeds; if not, it is freed unless it was there before. */
  *withBlockingDomain(use: (blocking: Domain) => Task<void>): Task<void> {
    const before = this.blockingDomain;
    const blocking = yield* this.ensureBlockingDomain();
    try {
      yield* use(blocking);
    } catch (error) {
      if (before === undefined && !this.list.some((device) => device.iommu!.stranded)) {
        this.blockingDomain = undefined;
        freeDomain(blocking);
      }
      throw error;
    }
  }

  /** A member that is being reset neither attaches nor detaches: nothing new may be attached until it is done. EBUSY. */
  checkReset(): void {
    const resetting = this.list.find((device) => (device.iommu?.resetDepth ?? 0) > 0);
    if (resetting !== undefined) refuse(EBUSY, () => `${this.label}: ${resetting.label} is being reset`);
  }

  /** Nobody owns it, and its members are on the default domain. */
  get isUnused(): boolean {
    return this.ownerCount === 0 && this.atRest;
  }

  private get atRest(): boolean {
    return this.domain === this.defaultDomain && this.handles.size === 0;
  }

  private *takeOwnership(owner: object): Task<void> {
    if (this.defaultDomain === undefined) refuse(ENODEV, () => `${this.label}: no IOMMU translates for it`);
    if (!this.atRest) refuse(EBUSY, () => `${this.label} is not on its default domain but on ${this.domain?.label}`);
    yield* this.withBlockingDomain((blocking) => this.setDomain(blocking));
    this.owner = owner;
    this.ownerCount = 1;
  }

  private checkDriver(domain: Domain): void {
    for (const device of this.list) {
      const { driver } = device.iommu!.instance;
      if (!isDomainOf(domain, driver)) {
        refuse(
          EINVAL,
          () => `${domain.label} belongs to another driver than ${device.label}, which is ${driver.name}'s`,
        );
      }
    }
  }

  /** For people: who uses the group. */
  get ownerLabel(): string {
    const { owner } = this;
    if (owner === undefined) return "kernel drivers";
    return "label" in owner ? String(owner.label) : "another owner";
  }

  private tell(kind: string, fields: Record<string, unknown>): void {
    if (this.system.events.on) this.system.events.emit({ kind, group: this.id, ...fields });
  }
}

/** The group of a probed device. Refusal ENODEV if it has none: nothing translates for it. */
export function groupOf(device: Device): Group {
  return device.group ?? refuse(ENODEV, () => `${device.label} has no group: no IOMMU serves it`);
}

/** A kernel driver is to use the device: see {@link Group.useDefaultDomain}. Without a group everybody may. */
export function* useDefaultDomain(device: Device): Task<void> {
  if (device.group !== undefined) yield* device.group.useDefaultDomain(device);
}

/** The mirror image of {@link useDefaultDomain}. */
export function* unuseDefaultDomain(device: Device): Task<void> {
  if (device.group !== undefined) yield* device.group.unuseDefaultDomain();
}
