// Runs in a browser.
/**
 * Moving the members of a group from one domain to another, the only place where the core calls `attachDevice`.
 *
 * Always true afterwards: either every member translates through the new domain, or a Refusal is on its way and every
 * member is back on the old one. In between, each member is on one of the two, never on a third (invariant 8). Two kinds of
 * members are left out: one that is being reset follows when its reset is done (reset-window.ts); one whose attach is
 * deferred follows to no default domain (invariant 14).
 */
import { assert, EINVAL, Refusal, refuse, type System, type Task } from "../runtime/index.ts";
import type { Device } from "./device.ts";
import type { Domain } from "./driver.ts";

/** What a switch needs to know of the group whose members it moves. */
export interface SwitchContext {
  readonly system: System;
  readonly devices: readonly Device[];
  readonly defaultDomain: Domain | undefined;
  readonly blockingDomain: Domain | undefined;
  /** Where a member goes that can neither go on nor back. Made if need be. */
  ensureBlockingDomain(): Task<Domain>;
}

/** Moves all members, or none. Throws the Refusal of the first member that could not move. */
export function* switchAll(group: SwitchContext, to: Domain, from: Domain | undefined): Task<void> {
  for (const [index, device] of group.devices.entries()) {
    if (isResetting(device)) continue;
    try {
      group.system.failures.point("iommu.domain.attach");
      yield* attachMember(group, device, to, from);
    } catch (error) {
      for (const moved of group.devices.slice(0, index)) {
        if (!isResetting(moved)) yield* moveBack(group, moved, from, to);
      }
      throw error;
    }
  }
}

/** Moves all members whatever happens: one that refuses goes to the blocking domain, and the switch counts as done. */
export function* switchAllRegardless(group: SwitchContext, to: Domain, from: Domain | undefined): Task<void> {
  for (const device of group.devices) {
    if (isResetting(device)) continue;
    try {
      yield* attachMember(group, device, to, from);
    } catch (error) {
      yield* fallBackToBlocking(group, device, from, error);
    }
  }
}

function isResetting(device: Device): boolean {
  return device.iommu!.resetDepth > 0;
}

/** One member. EINVAL where the device has direct regions that must stay mapped and the target blocks (invariant 13). */
export function* attachMember(group: SwitchContext, device: Device, to: Domain, from: Domain | undefined): Task<void> {
  const { system } = group;
  const iommu = device.iommu!;
  if (iommu.attachDeferred && to === group.defaultDomain) return;
  if (iommu.requireDirect && (to.type === "blocked" || to === group.blockingDomain)) {
    refuse(EINVAL, () => `${device.label} has direct-mapped regions that must stay mapped; ${to.label} blocks them`);
  }
  yield* to.attachDevice(device, from);
  iommu.attachDeferred = iommu.stranded = false;
  if (system.events.on) {
    system.events.emit({ kind: "iommu.domain.attach", device: device.name, domain: to.label, old: from?.label });
  }
}

/** Undoes {@link attachMember}. Without an old domain the device was never attached before: its release follows. */
function* moveBack(group: SwitchContext, device: Device, to: Domain | undefined, from: Domain): Task<void> {
  if (to === undefined) return;
  try {
    yield* to.attachDevice(device, from);
  } catch (error) {
    yield* fallBackToBlocking(group, device, from, error);
  }
}

/**
 * A driver that refuses what must succeed is at fault; the device must at least not stay on a domain about to be freed
 * (invariant 9). Direct regions do not count any more.
 */
export function* fallBackToBlocking(
  group: SwitchContext,
  device: Device,
  from: Domain | undefined,
  error: unknown,
): Task<void> {
  if (!(error instanceof Refusal)) throw error;
  warn(group, device, `must not refuse, but did: ${error}`);
  device.iommu!.stranded = true;
  try {
    const blocking = yield* group.ensureBlockingDomain();
    if (blocking !== from) yield* blocking.attachDevice(device, from);
  } catch (second) {
    assert(second instanceof Refusal, () => `${device.label} cannot even be blocked: ${String(second)}`);
    warn(group, device, `cannot even be blocked: ${second}`);
  }
}

function warn({ system }: SwitchContext, device: Device, text: string): void {
  if (system.events.on) system.events.emit({ kind: "iommu.warning", device: device.name, text });
}
