// Runs in a browser.
/**
 * While a PCI function is being reset it answers nothing, invalidations of its translation cache included: one that uses
 * ATS must not have any translations then (reference 2.5). Between {@link prepareReset} and {@link finishReset} it is
 * blocked, its PASIDs too. For its group nothing changes: neither its domain nor what its PASIDs are attached to, and what
 * those become meanwhile is what the device gets back. Resets may be nested; the outermost one counts.
 */
import { assert, Refusal, type Task } from "../runtime/index.ts";
import type { Device } from "./device.ts";
import type { Domain } from "./driver.ts";
import type { Group } from "./group.ts";
import { attachMember, fallBackToBlocking } from "./switching.ts";

/**
 * The device is about to be reset: from now on it is blocked. ENOMEM, EINVAL for a device whose direct regions must stay
 * mapped, or the driver's own; then it must not be reset, and nothing has changed.
 */
export function* prepareReset(device: Device): Task<void> {
  const { group, iommu } = device;
  if (group === undefined || iommu === undefined || !device.usesAts) return;
  yield* group.mutex.take();
  try {
    if (iommu.resetDepth === 0) {
      group.system.failures.point("iommu.reset.prepare");
      yield* group.withBlockingDomain(function* (blocking) {
        if (group.domain !== blocking) yield* attachMember(group, device, blocking, group.domain);
      });
      for (const [pasid, domain] of pasidsOf(group, device)) yield* blockPasid(group, device, pasid, domain);
      tell(group, device, "iommu.reset.prepare");
    }
    iommu.resetDepth++;
  } finally {
    group.mutex.release();
  }
}

/** The reset is done: the device translates through what its group does by now, and its PASIDs too. Cannot fail. */
export function* finishReset(device: Device): Task<void> {
  const { group, iommu } = device;
  if (group === undefined || iommu === undefined || !device.usesAts) return;
  yield* group.mutex.take();
  assert(iommu.resetDepth > 0, () => `${device.label} is not being reset`);
  if (--iommu.resetDepth === 0) {
    const { blockingDomain } = group;
    if (group.domain !== blockingDomain) {
      try {
        yield* attachMember(group, device, group.domain!, blockingDomain);
      } catch (error) {
        yield* fallBackToBlocking(group, device, blockingDomain, error);
      }
    }
    for (const [pasid, domain] of pasidsOf(group, device)) {
      try {
        yield* domain.setDevicePasid!(device, pasid, undefined);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        tell(group, device, "iommu.warning", {
          text: `PASID ${pasid} stays blocked: must not refuse, but did: ${error}`,
        });
      }
    }
    tell(group, device, "iommu.reset.done");
  }
  group.mutex.release();
}

function pasidsOf(group: Group, { iommu }: Device): Iterable<[number, Domain]> {
  return iommu!.maxPasids > 0 ? group.pasidDomains : [];
}

function* blockPasid(group: Group, device: Device, pasid: number, from: Domain): Task<void> {
  yield* group.driver.blockedDomain!.setDevicePasid!(device, pasid, from);
}

function tell(group: Group, device: Device, kind: string, more?: Record<string, unknown>): void {
  const { events } = group.system;
  if (events.on) events.emit({ kind, group: group.id, device: device.name, ...more });
}
