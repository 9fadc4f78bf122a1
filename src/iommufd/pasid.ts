// Runs in a browser.
/**
 * One PASID of a group: which domain its traffic translates through (reference 2.5). The members that have PASIDs move
 * together; those without are skipped. Everything happens under the group mutex; `group.handles` says what is attached.
 */
import { type Device, type Domain, type Group, isDomainOf, NO_PASID } from "../iommu/index.ts";
import { EBUSY, EINVAL, EOPNOTSUPP, refuse, type Task } from "../runtime/index.ts";

/** What `group.handles` keeps for a PASID: the domain is needed to leave it again. */
interface PasidHandle {
  readonly domain: Domain;
}

/** Refusals in order: EOPNOTSUPP, EINVAL (other driver, PASID out of a member's range), EBUSY, the driver's own. */
export function* attachPasid(group: Group, domain: Domain, pasid: number, handle: PasidHandle): Task<void> {
  yield* group.mutex.take();
  try {
    checkDomain(group, domain);
    checkPasid(group, pasid);
    if (group.handles.has(pasid)) refuse(EBUSY, () => `${group.label} PASID ${pasid} is attached already`);
    yield* moveMembers(group, pasid, domain, undefined);
    group.handles.set(pasid, handle);
  } finally {
    group.mutex.release();
  }
}

/** Refusals in order: EOPNOTSUPP, EINVAL (other driver, nothing attached), the driver's own. Then nothing has changed. */
export function* replacePasid(group: Group, domain: Domain, pasid: number, handle: PasidHandle): Task<void> {
  yield* group.mutex.take();
  try {
    checkDomain(group, domain);
    const old = group.handles.get(pasid) as PasidHandle | undefined;
    if (old === undefined) refuse(EINVAL, () => `${group.label} PASID ${pasid} is not attached`);
    if (old.domain !== domain) yield* moveMembers(group, pasid, domain, old.domain);
    group.handles.set(pasid, handle);
  } finally {
    group.mutex.release();
  }
}

/** To the driver's blocked domain. Cannot fail. */
export function* detachPasid(group: Group, pasid: number): Task<void> {
  yield* group.mutex.take();
  const { domain } = group.handles.get(pasid) as PasidHandle;
  for (const device of membersWithPasids(group)) yield* blockedDomain(group).setDevicePasid!(device, pasid, domain);
  group.handles.delete(pasid);
  group.mutex.release();
}

function* moveMembers(group: Group, pasid: number, domain: Domain, old: Domain | undefined): Task<void> {
  const moved: Device[] = [];
  try {
    for (const device of membersWithPasids(group)) {
      yield* domain.setDevicePasid!(device, pasid, old);
      moved.push(device);
    }
  } catch (error) {
    for (const device of moved) yield* (old ?? blockedDomain(group)).setDevicePasid!(device, pasid, domain);
    throw error;
  }
}

function checkDomain(group: Group, domain: Domain): void {
  const { driver } = group;
  if (domain.setDevicePasid === undefined || driver.blockedDomain?.setDevicePasid === undefined) {
    refuse(EOPNOTSUPP, () => `driver ${driver.name} cannot attach ${domain.label} to a PASID`);
  }
  if (!isDomainOf(domain, driver)) {
    refuse(EINVAL, () => `${domain.label} belongs to another driver than ${group.label}, which is ${driver.name}'s`);
  }
}

function checkPasid(group: Group, pasid: number): void {
  if (pasid === NO_PASID) refuse(EINVAL, () => "PASID 0 is the device's own traffic");
  for (const device of membersWithPasids(group)) {
    const { maxPasids } = device.iommu!;
    if (pasid >= maxPasids) refuse(EINVAL, () => `${device.label} has PASIDs below ${maxPasids}, not ${pasid}`);
  }
}

function membersWithPasids(group: Group): Device[] {
  return group.devices.filter((device) => device.iommu!.maxPasids > 0);
}

function blockedDomain(group: Group): Domain {
  return group.driver.blockedDomain!;
}
