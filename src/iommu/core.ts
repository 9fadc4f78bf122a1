// Runs in a browser.
/**
 * The IOMMU core: which IOMMUs there are, which devices they serve, and which groups the devices form.
 *
 * What may live where: a driver's instances in `instances`, by name, while registered; a probed device in its group and
 * in `devicesOf` its instance; a group in `groups` while it has a member. What a device translates through is the
 * group's business (`group.ts`), moving its members `switching.ts`'s, coming and leaving `probe.ts`'s.
 *
 * Always true: a device is probed completely or not at all; a device is a member of at most one group, the same one as
 * long as it is probed; an instance stays registered while it serves a device.
 *
 * Lock order: iommu.probe → iommu.group → (the driver's own).
 */
import type { PciFunction } from "../pci/index.ts";
import {
  assert,
  ENODEV,
  ENOSPC,
  type Holder,
  IdAllocator,
  Mutex,
  RefCount,
  Refusal,
  refuse,
  type System,
  type Task,
} from "../runtime/index.ts";
import {
  changeDefaultDomain,
  type DefaultDomainType,
  mapDirectRegions,
  setUpDefaultDomain,
  unmapDirectRegions,
} from "./default-domain.ts";
import type { Device } from "./device.ts";
import type { Domain, IommuDriver, IommuInstance } from "./driver.ts";
import { removeDevice } from "./external.ts";
import { Group } from "./group.ts";
import { deinitDevice, initDevice } from "./probe.ts";

export interface IommuCoreOptions {
  /** The default domain of groups whose driver has no wish; `dma` if absent. */
  readonly defaultDomain?: DefaultDomainType;
  /** The devices on all buses: those that wait for an instance are probed when it registers. */
  readonly devices?: () => Iterable<Device>;
  /** Reads what the firmware says of a device without a driver, and tells the core by `setFirmware`. Refusals of that. */
  readonly configureDma?: (device: Device) => Task<void>;
  /** Nanoseconds after which a page request that nobody answers is answered INVALID; never if absent, as in Linux. */
  readonly pageRequestTimeout?: number;
}

export class IommuCore {
  readonly system: System;
  readonly probeMutex: Mutex;
  /** IOMMUs that are not there may still get a driver: as long as a machine powers up. */
  waitsForDrivers = true;
  /** See {@link IommuCoreOptions}. */
  readonly pageRequestTimeout: number | undefined;
  private readonly options: IommuCoreOptions;
  private readonly registered = new Map<string, IommuInstance>();
  private readonly ready = new Set<IommuInstance>();
  private readonly served = new Map<IommuInstance, Set<Device>>();
  private readonly drivers = new Map<IommuDriver, RefCount>();
  /** Of PCI functions that are members of a group: which. */
  readonly groupByFunction: Map<PciFunction, Group> = new Map();
  private readonly groupsById = new Map<number, Group>();
  private readonly groupIds = new IdAllocator(0, 2 ** 31 - 1);

  constructor(system: System, options: IommuCoreOptions = {}) {
    this.system = system;
    this.options = options;
    this.pageRequestTimeout = options.pageRequestTimeout;
    this.probeMutex = new Mutex(system, "iommu.probe");
  }

  /** Registered instances by name. */
  get instances(): ReadonlyMap<string, IommuInstance> {
    return this.registered;
  }

  /** Groups by id. */
  get groups(): ReadonlyMap<number, Group> {
    return this.groupsById;
  }

  get configureDma(): ((device: Device) => Task<void>) | undefined {
    return this.options.configureDma;
  }

  /** Its devices that waited for it are probed: others may come. */
  isReady(instance: IommuInstance): boolean {
    return this.ready.has(instance);
  }

  /** The probed devices of a registered instance. */
  devicesOf(instance: IommuInstance): Set<Device> {
    const devices = this.served.get(instance);
    assert(devices !== undefined, () => `${instance.name} is not registered`);
    return devices;
  }

  /** References that keep a driver loaded: one of each probed device. */
  driverReferences(driver: IommuDriver): RefCount {
    let references = this.drivers.get(driver);
    if (references === undefined) this.drivers.set(driver, (references = new RefCount(`driver ${driver.name}`)));
    return references;
  }

  /** Makes an instance known and probes the devices that waited for it. If one fails, the instance is unknown again. */
  *register(instance: IommuInstance): Task<void> {
    assert(!this.registered.has(instance.name), () => `two IOMMUs are named ${instance.name}`);
    this.system.failures.point("iommu.instance.register");
    this.registered.set(instance.name, instance);
    this.served.set(instance, new Set());
    try {
      yield* this.scan();
    } catch (error) {
      yield* this.unregister(instance);
      throw error;
    }
    this.ready.add(instance);
    this.tell("iommu.instance.register", { instance: instance.name });
  }

  /** Releases the instance's devices, then forgets it. Cannot fail. */
  *unregister(instance: IommuInstance): Task<void> {
    for (const device of [...this.devicesOf(instance)].reverse()) yield* this.release(device);
    this.ready.delete(instance);
    this.served.delete(instance);
    this.registered.delete(instance.name);
    this.tell("iommu.instance.unregister", { instance: instance.name });
  }

  /**
   * Takes a device into care: afterwards it has a group and translates through that group's domain. A probed device is
   * left alone. Refusals: ENODEV without a registered IOMMU; ENOMEM; the driver's own. Then nothing has changed.
   */
  *probe(device: Device): Task<void> {
    yield* this.probeMutex.take();
    try {
      if (device.group !== undefined) return;
      yield* initDevice(this, device);
      yield* holding(device.group!.mutex, this.join(device, device.group!, "set up the domain"));
      this.tell("iommu.device.probe", { device: device.name, group: device.group!.id });
    } finally {
      this.probeMutex.release();
    }
  }

  /**
   * The mirror image of {@link probe}, and of adding a device to a group by hand; a device that is in no group is left alone.
   * Cannot fail.
   */
  *release(device: Device): Task<void> {
    yield* this.probeMutex.take();
    try {
      const { group } = device;
      if (group === undefined) return;
      if (device.iommu === undefined) return yield* removeDevice(this, device);
      if (group.devices.length === 1 && !group.isUnused && this.system.events.on) {
        this.tell("iommu.warning", { group: group.id, text: `the last device goes while ${group.label} is in use` });
      }
      yield* holding(group.mutex, this.leave(device, group));
      this.tell("iommu.device.release", { device: device.name, group: group.id });
    } finally {
      this.probeMutex.release();
    }
  }

  /** A group without members, with the lowest free id. It lives as long as somebody holds a reference. */
  newGroup(name?: string): Group {
    this.system.failures.point("iommu.group.allocate");
    const id = this.groupIds.allocate();
    if (id === undefined) refuse(ENOSPC, () => "no group id is free");
    const group = new Group(this.system, id, this.groupByFunction, name);
    this.groupsById.set(id, group);
    this.tell("iommu.group.create", { group: id });
    return group;
  }

  /** Gives back a reference on a group; with the last, the group is gone. */
  putGroup(group: Group, holder: Holder): void {
    if (group.references.put(holder) > 0) return;
    assert(group.devices.length === 0 && group.domain === undefined, () => `${group.label} is still in use`);
    this.groupsById.delete(group.id);
    this.groupIds.free(group.id);
    this.tell("iommu.group.remove", { group: group.id });
  }

  /** Changes the type of a group's default domain: what writing `type` in sysfs does. Refusals: see default-domain.ts. */
  *setDefaultDomainType(group: Group, type: DefaultDomainType | "auto"): Task<void> {
    yield* holding(group.mutex, changeDefaultDomain(group, type, this.defaultDomain));
  }

  /**
   * Probes the devices that wait. A new group gets its default domain once all its members are there, so that each has
   * its say. Devices without an IOMMU are none of the scan's business; any other failure ends it.
   */
  private *scan(): Task<void> {
    yield* this.probeMutex.take();
    try {
      for (const device of this.options.devices?.() ?? []) {
        if (device.group !== undefined) continue;
        try {
          yield* initDevice(this, device);
        } catch (error) {
          if (error instanceof Refusal && error.errno === ENODEV) continue;
          throw error;
        }
        yield* holding(device.group!.mutex, this.join(device, device.group!, "wait for the others"));
        this.tell("iommu.device.probe", { device: device.name, group: device.group!.id });
      }
      for (const group of this.groupsById.values()) {
        if (group.domain !== undefined || group.devices[0]?.iommu === undefined) continue;
        yield* holding(group.mutex, setUpDefaultDomain(group, this.defaultDomain));
      }
    } finally {
      this.probeMutex.release();
    }
  }

  /**
   * Makes an initialised device a member of its group; what the others translate through, it does from now on. The first
   * member sets up the default domain, unless that is to wait. On failure the device is not initialised any more.
   */
  private *join(device: Device, group: Group, first: "set up the domain" | "wait for the others"): Task<void> {
    try {
      this.system.failures.point("iommu.group.add");
      group.addMember(device);
      if (group.domain !== undefined) yield* this.follow(device, group, group.defaultDomain!);
      else if (first === "set up the domain") yield* setUpDefaultDomain(group, this.defaultDomain);
    } catch (error) {
      yield* this.leave(device, group);
      throw error;
    }
  }

  /** A new member translates through what the others do, its direct regions mapped in their default domain. */
  private *follow(device: Device, group: Group, defaultDomain: Domain): Task<void> {
    const mapped = yield* mapDirectRegions(device, defaultDomain);
    try {
      yield* group.attachNewMember(device);
    } catch (error) {
      yield* unmapDirectRegions(defaultDomain, mapped);
      throw error;
    }
  }

  private *leave(device: Device, group: Group): Task<void> {
    group.removeMember(device);
    yield* deinitDevice(this, device);
  }

  private get defaultDomain(): DefaultDomainType {
    return this.options.defaultDomain ?? "dma";
  }

  private tell(kind: string, fields: Record<string, unknown>): void {
    if (this.system.events.on) this.system.events.emit({ kind, ...fields });
  }
}

/** Runs `body` with `mutex` held. */
function* holding(mutex: Mutex, body: Task<void>): Task<void> {
  yield* mutex.take();
  try {
    yield* body;
  } finally {
    mutex.release();
  }
}
