// Runs in a browser.
/**
 * Shared virtual addressing: devices that use a process's own addresses (reference 2.7).
 *
 * A *binding* is counted in a handle, one for each (group, mm). The handle is what the mm's PASID is attached with in the
 * group, so the group itself remembers it. A *domain* shows the mm's table to the devices of one IOMMU; handles share it.
 *
 * Always true, with the mutex free:
 * - an mm has one PASID from its first bind until it is freed, the same on all devices, and nobody else has it;
 * - a handle is attached in its group exactly while somebody has it bound: with the last unbind its device is detached, at
 *   once, whoever else uses the domain (invariants 26, 27);
 * - a domain is in its mm's list exactly while a handle uses it, and holds the mm;
 * - a page request of a PASID is answered once: by what the process itself would get, INVALID if it would get nothing, and
 *   INVALID if the binding ends first (invariant 24).
 * When the process ends its bindings stay, and translate nothing, until they are unbound.
 *
 * Lock order: iommu.sva → iommu.group → (the driver's own).
 */

import type { AddressSpace } from "../memory/index.ts";
import {
  assert,
  EBUSY,
  EINVAL,
  ENOSPC,
  EOPNOTSUPP,
  EOVERFLOW,
  IdAllocator,
  Mutex,
  Refusal,
  refuse,
  type System,
  type Task,
} from "../runtime/index.ts";
import type { Cpu } from "./cpu.ts";
import type { Device } from "./device.ts";
import type { SvaDomain } from "./driver.ts";
import {
  cancelPageRequests,
  type PageRequestGroup,
  REQUEST_PASID_VALID,
  REQUEST_PRIVILEGED,
  RESPONSE_INVALID,
  RESPONSE_SUCCESS,
} from "./faults.ts";
import { type Group, groupOf } from "./group.ts";
import type { Mm } from "./mm.ts";
import { attachPasid, detachPasid } from "./pasid.ts";

/** PASIDs have 20 bits; 0 stands for none. */
const FIRST_PASID = 1;
const LAST_PASID = 2 ** 20 - 1;

/** One process's memory on one device. Bound as often as {@link Sva.bind} gave it. */
export interface SvaHandle {
  readonly label: string;
  readonly device: Device;
  readonly mm: Mm;
  readonly pasid: number;
  readonly domain: SvaDomain;
  /** Binds that are not unbound yet. */
  readonly users: number;
}

class Handle implements SvaHandle {
  readonly device: Device;
  readonly group: Group;
  readonly mm: Mm;
  readonly pasid: number;
  readonly domain: SvaDomain;
  users = 1;

  constructor(device: Device, group: Group, mm: Mm, pasid: number, domain: SvaDomain) {
    this.device = device;
    this.group = group;
    this.mm = mm;
    this.pasid = pasid;
    this.domain = domain;
  }

  get label(): string {
    return `${this.mm.label} on ${this.device.label}`;
  }
}

/** What an mm has once it was bound. */
interface Shared {
  readonly pasid: number;
  /** With how many handles use each. */
  readonly domains: Map<SvaDomain, number>;
}

export class Sva {
  private readonly system: System;
  private readonly cpu: Cpu;
  private readonly mutex: Mutex;
  private readonly pasids = new IdAllocator(FIRST_PASID, LAST_PASID);
  private readonly shared = new Map<Mm, Shared>();

  constructor(system: System, cpu: Cpu) {
    this.system = system;
    this.cpu = cpu;
    this.mutex = new Mutex(system, "iommu.sva");
  }

  /** The mms that devices use now. */
  get mms(): readonly Mm[] {
    return [...this.shared].filter(([, { domains }]) => domains.size > 0).map(([mm]) => mm);
  }

  /** The PASID of a process's memory, if it was ever bound. */
  pasidOf(mm: Mm): number | undefined {
    return this.shared.get(mm)?.pasid;
  }

  /**
   * Lets `device` use the addresses of a process, under the PASID of the handle. Bound again, the same handle counts one more.
   *
   * Refusals in this order (reference 2.7): ENODEV without a group; EBUSY if the CPU's tables are not for devices; EINVAL if
   * the process is gone without trace; EOVERFLOW if the device does not reach the mm's PASID, ENOSPC if it can have none;
   * EBUSY if something else is attached there; the error of a new domain: EOPNOTSUPP where the driver has none, EINVAL for
   * a process that is gone, the driver's own.
   */
  *bind(device: Device, space: AddressSpace): Task<SvaHandle> {
    yield* this.mutex.take();
    try {
      const group = groupOf(device);
      if (!this.cpu.sharesTables) refuse(EBUSY, () => "the CPU's page tables are not such that devices can walk them");
      const mm = this.cpu.mmOf(space);
      const shared = this.shared.get(mm) ?? this.share(mm, device);
      const { pasid } = shared;
      const { maxPasids } = device.iommu!;
      if (pasid >= maxPasids) {
        refuse(EOVERFLOW, () => `${mm.label} has PASID ${pasid}, and ${device.label} only ${maxPasids} PASIDs`);
      }
      const known = group.handles.get(pasid);
      if (known instanceof Handle && known.mm === mm) {
        known.users++;
        return known;
      }
      if (known !== undefined) refuse(EBUSY, () => `PASID ${pasid} of ${group.label} is in use by something else`);
      return yield* this.attach(shared, device, group, mm);
    } finally {
      this.mutex.release();
    }
  }

  /** The mirror image of one {@link bind}. With the last one the device is detached when it returns. Cannot fail. */
  *unbind(bound: SvaHandle): Task<void> {
    yield* this.mutex.take();
    try {
      const handle = bound as Handle;
      assert(handle.users > 0, () => `${handle.label} is not bound`);
      if (--handle.users > 0) return;
      const { device, group, pasid, domain, mm } = handle;
      yield* detachPasid(group, pasid);
      for (const member of group.devices) yield* cancelPageRequests(member, handle);
      this.tell("iommu.sva.unbind", { device: device.name, mm: mm.space.label, pasid });
      this.leave(domain);
    } finally {
      this.mutex.release();
    }
  }

  /** Tables of the kernel's own addresses are about to be freed: hardware may have kept parts of them with any mm. */
  kernelTablesFreed(): void {
    for (const mm of this.mms) mm.invalidateAll();
  }

  /** Gives an mm its PASID, one that `device` can use. */
  private share(mm: Mm, device: Device): Shared {
    this.system.failures.point("iommu.sva.pasid");
    const limit = device.iommu!.maxPasids;
    const pasid = this.pasids.allocate();
    if (pasid === undefined || pasid >= limit) {
      if (pasid !== undefined) this.pasids.free(pasid);
      refuse(ENOSPC, () =>
        limit === 0 ? `${device.label} has no PASIDs` : `no PASID below ${limit} is free for ${device.label}`,
      );
    }
    const shared = { pasid, domains: new Map<SvaDomain, number>() };
    this.shared.set(mm, shared);
    mm.whenFreed(() => {
      this.shared.delete(mm);
      this.pasids.free(pasid);
    });
    return shared;
  }

  /** With a domain that the mm has, if one fits the device, else with a new one, whose error counts (invariant 28). */
  private *attach(shared: Shared, device: Device, group: Group, mm: Mm): Task<Handle> {
    const { pasid, domains } = shared;
    for (const domain of domains.keys()) {
      const handle = new Handle(device, group, mm, pasid, domain);
      try {
        yield* attachPasid(group, domain, pasid, handle);
      } catch (error) {
        if (error instanceof Refusal) continue;
        throw error;
      }
      return this.join(shared, handle);
    }
    const domain = yield* this.newDomain(device, mm);
    const handle = new Handle(device, group, mm, pasid, domain);
    try {
      yield* attachPasid(group, domain, pasid, handle);
    } catch (error) {
      this.giveBack(domain);
      throw error;
    }
    return this.join(shared, handle);
  }

  private *newDomain(device: Device, mm: Mm): Task<SvaDomain> {
    const { driver } = device.iommu!.instance;
    if (driver.allocateSva === undefined) {
      refuse(EOPNOTSUPP, () => `${driver.name} cannot show the memory of processes to devices`);
    }
    if (mm.released) refuse(EINVAL, () => `${mm.label} is gone`);
    this.system.failures.point("iommu.sva.domain");
    const domain = yield* driver.allocateSva(device, mm);
    mm.get(domain);
    domain.pageRequestHandler = (group) => {
      this.system.tasks.start(`page request of ${group.device.label}`, answer(mm, group));
    };
    return domain;
  }

  private join({ domains }: Shared, handle: Handle): Handle {
    const { device, domain, mm, pasid } = handle;
    domains.set(domain, (domains.get(domain) ?? 0) + 1);
    this.tell("iommu.sva.bind", { device: device.name, mm: mm.space.label, pasid });
    return handle;
  }

  private leave(domain: SvaDomain): void {
    const { domains } = this.shared.get(domain.mm)!;
    const left = domains.get(domain)! - 1;
    if (left > 0) {
      domains.set(domain, left);
    } else {
      domains.delete(domain);
      this.giveBack(domain);
    }
  }

  private giveBack(domain: SvaDomain): void {
    const { mm } = domain;
    domain.free();
    mm.put(domain);
  }

  private tell(kind: string, fields: Record<string, unknown>): void {
    if (this.system.events.on) this.system.events.emit({ kind, ...fields });
  }
}

/** Brings in what a group of requests asks for. The first that the process has no right to ends it (reference 2.8). */
function* answer(mm: Mm, group: PageRequestGroup): Task<void> {
  mm.get(group.device);
  try {
    for (const { flags, address, rights } of group.requests) {
      if (group.isAnswered) return;
      if ((flags & REQUEST_PASID_VALID) === 0) refuse(EINVAL, () => "without a PASID no process is meant");
      yield* mm.handleFault(address, rights & ~REQUEST_PRIVILEGED);
    }
    yield* group.respond(RESPONSE_SUCCESS);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    yield* group.respond(RESPONSE_INVALID);
  } finally {
    mm.put(group.device);
  }
}
