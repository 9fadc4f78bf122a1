// Runs in a browser.
/**
 * Attaching one PASID of a group's members to a domain of its own (reference 2.5). Members without PASIDs are skipped. As
 * with the members' own traffic: all members that count, or none.
 */
import { EBUSY, EINVAL, EOPNOTSUPP, Refusal, refuse, type Task } from "../runtime/index.ts";
import type { Device } from "./device.ts";
import { type Domain, isDomainOf } from "./driver.ts";
import { type Group, NO_PASID } from "./group.ts";

/**
 * Refusals: EOPNOTSUPP where domain or driver know no PASIDs; EINVAL for a foreign domain or PASID 0; EBUSY while a member is
 * being reset; EINVAL for a PASID that a member does not reach; EBUSY if something is attached; the driver's own.
 */
export function* attachPasid(group: Group, domain: Domain, pasid: number, handle: object): Task<void> {
  yield* group.mutex.take();
  try {
    checkOperands(group, domain, pasid);
    group.checkReset();
    for (const device of membersWithPasids(group)) {
      const { maxPasids } = device.iommu!;
      if (pasid >= maxPasids) refuse(EINVAL, () => `PASID ${pasid}: ${device.label} has only ${maxPasids}`);
    }
    if (group.handles.has(pasid)) refuse(EBUSY, () => `PASID ${pasid} of ${group.label} is attached already`);
    yield* switchPasid(group, pasid, domain, undefined);
    group.handles.set(pasid, handle);
  } finally {
    group.mutex.release();
  }
}

/**
 * Refusals: EOPNOTSUPP and EINVAL as {@link attachPasid}, EINVAL without a handle, EBUSY while a member is being reset, EINVAL
 * with nothing attached or with the same handle; the driver's own.
 */
export function* replacePasid(group: Group, domain: Domain, pasid: number, handle: object): Task<void> {
  yield* group.mutex.take();
  try {
    checkOperands(group, domain, pasid);
    if (handle === undefined) refuse(EINVAL, () => `${group.label}: a replace needs a handle`);
    group.checkReset();
    const old = group.pasidDomains.get(pasid);
    if (old === undefined) refuse(EINVAL, () => `PASID ${pasid} of ${group.label} is not attached`);
    if (group.handles.get(pasid) === handle)
      refuse(EINVAL, () => `PASID ${pasid} of ${group.label} has this handle already`);
    if (old !== domain) yield* switchPasid(group, pasid, domain, old);
    group.handles.set(pasid, handle);
  } finally {
    group.mutex.release();
  }
}

/** Blocks the PASID, where a reset has not done so already; nothing happens if it is not attached. Cannot fail. */
export function* detachPasid(group: Group, pasid: number): Task<void> {
  yield* group.mutex.take();
  try {
    const old = group.pasidDomains.get(pasid);
    if (old === undefined) return;
    for (const device of membersWithPasids(group)) {
      if (device.iommu!.resetDepth === 0) yield* block(group, device, pasid, old);
    }
    group.pasidDomains.delete(pasid);
    group.handles.delete(pasid);
  } finally {
    group.mutex.release();
  }
}

function membersWithPasids(group: Group): Device[] {
  return group.devices.filter((device) => device.iommu!.maxPasids > 0);
}

function checkOperands(group: Group, domain: Domain, pasid: number): void {
  const { driver } = group;
  if (domain.setDevicePasid === undefined || driver.blockedDomain?.setDevicePasid === undefined) {
    refuse(EOPNOTSUPP, () => `${domain.label} cannot be attached to a PASID: ${driver.name} does not do that`);
  }
  if (!isDomainOf(domain, driver)) refuse(EINVAL, () => `${domain.label} is not ${driver.name}'s`);
  if (pasid === NO_PASID) refuse(EINVAL, () => `PASID ${NO_PASID} stands for traffic without PASID`);
}

function* switchPasid(group: Group, pasid: number, to: Domain, from: Domain | undefined): Task<void> {
  const moved: Device[] = [];
  for (const device of membersWithPasids(group)) {
    try {
      group.system.failures.point("iommu.pasid.attach");
      yield* to.setDevicePasid!(device, pasid, from);
    } catch (error) {
      for (const other of moved) yield* moveBack(group, other, pasid, from, to);
      throw error;
    }
    moved.push(device);
  }
  group.pasidDomains.set(pasid, to);
  const { events } = group.system;
  if (events.on) events.emit({ kind: "iommu.group.pasid", group: group.id, pasid, domain: to.label, old: from?.label });
}

function* moveBack(group: Group, device: Device, pasid: number, to: Domain | undefined, from: Domain): Task<void> {
  try {
    if (to !== undefined) return yield* to.setDevicePasid!(device, pasid, from);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
  }
  yield* block(group, device, pasid, from);
}

function* block(group: Group, device: Device, pasid: number, from: Domain): Task<void> {
  yield* group.driver.blockedDomain!.setDevicePasid!(device, pasid, from);
}
