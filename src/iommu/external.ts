// Runs in a browser.
/**
 * Groups that no driver of an IOMMU makes (reference 1.3): somebody makes one, adds devices that nothing translates for, and
 * lets go of it. Who made it has one reference, each member one; the last one to go takes the group along.
 */
import { EEXIST, type Holder, refuse, type Task } from "../runtime/index.ts";
import type { IommuCore } from "./core.ts";
import type { Device } from "./device.ts";
import type { Group } from "./group.ts";

/** A group without members, kept by one reference of `maker`. Refusals of {@link IommuCore.newGroup}. */
export function createGroup(core: IommuCore, maker: Holder, name?: string): Group {
  const group = core.newGroup(name);
  group.references.get(maker);
  return group;
}

/** Makes a device a member. EEXIST: it is in a group already. */
export function* addDevice(core: IommuCore, group: Group, device: Device): Task<void> {
  yield* group.mutex.take();
  try {
    const other = device.group;
    if (other !== undefined) refuse(EEXIST, () => `${device.label} is in ${other.label} already`);
    core.system.failures.point("iommu.group.add");
    group.references.get(device);
    device.group = group;
    group.addMember(device);
  } finally {
    group.mutex.release();
  }
}

/** The mirror image of {@link addDevice}. Cannot fail. */
export function* removeDevice(core: IommuCore, device: Device): Task<void> {
  const group = device.group!;
  yield* group.mutex.take();
  group.removeMember(device);
  device.group = undefined;
  group.mutex.release();
  core.putGroup(group, device);
}
