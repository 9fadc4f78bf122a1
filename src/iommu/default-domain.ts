// Runs in a browser.
/**
 * Which domain the members of a group use while nobody owns it (reference 2.4), and its 1:1 mappings (2.9).
 *
 * The members' wishes come first, then what was asked for, then what the machine says. A new default domain replaces the
 * old one in this order: allocate, map direct regions, move the members, free the old one. So direct regions are mapped at
 * all times, and whatever fails, the group has the default domain that it had before. A group's first one stays even if
 * a member refuses it: its members are about to be released, and the last one frees it.
 */
import { EINVAL, EOPNOTSUPP, EPERM, Refusal, refuse, type System, type Task } from "../runtime/index.ts";
import type { Device } from "./device.ts";
import { ALLOC_PASID, type DefaultDomainWish, type Domain, PagingDomain, PROT_READ, PROT_WRITE } from "./driver.ts";
import { newGather } from "./gather.ts";
import type { Group } from "./group.ts";
import { reservedRegionsOf } from "./reserved.ts";

/**
 * `identity`: DMA addresses are physical ones. `dma`: an address space of the kernel's own. `dma-fq`: the same, but the
 * hardware may remember for a moment what the kernel took out of it (a queue is flushed later).
 */
export type DefaultDomainType = "identity" | "dma" | "dma-fq";

/**
 * Changes the type of a group's default domain; `auto` is what its members and the machine wish for. From `dma` to
 * `dma-fq` it works while the group is in use. EINVAL: the group has no default domain, or its members need another type.
 * EPERM: no members, or somebody uses the group. Otherwise as {@link setUpDefaultDomain}.
 */
export function* changeDefaultDomain(
  group: Group,
  to: DefaultDomainType | "auto",
  machineWide: DefaultDomainType,
): Task<void> {
  group.mutex.assertHeld();
  const { defaultDomain } = group;
  if (defaultDomain === undefined) refuse(EINVAL, () => `${group.label} has no default domain`);
  if (to === "dma-fq" && defaultDomain instanceof PagingDomain && defaultDomain.type === "dma") {
    defaultDomain.type = "dma-fq";
    return;
  }
  if (group.devices.length === 0) refuse(EPERM, () => `${group.label} has no members`);
  if (group.ownerCount > 0) refuse(EPERM, () => `${group.label} is in use by ${group.ownerLabel}`);
  yield* setUpDefaultDomain(group, machineWide, to === "auto" ? undefined : to);
}

/**
 * Gives the group a default domain: of the type `requested`, else as its members wish, else as the machine says. EINVAL:
 * its members cannot have that. EOPNOTSUPP: the driver has no such domain. Otherwise what allocating, mapping and
 * attaching answer. Then the group is as it was before, unless this is its first domain.
 */
export function* setUpDefaultDomain(
  group: Group,
  machineWide: DefaultDomainType,
  requested?: DefaultDomainType,
): Task<void> {
  const { defaultDomain: old } = group;
  const domain = yield* allocateDefaultDomain(group, machineWide, requested);
  if (domain === old) return;
  const unmapped = yield* refusalOf(mapAllDirectRegions(group, domain));
  group.defaultDomain = domain;
  try {
    if (group.domain === undefined) yield* group.setFirstDomain(domain);
    else yield* group.setDomain(domain);
    // Some drivers want to know the device first.
    if (unmapped !== undefined) yield* mapAllDirectRegions(group, domain);
  } catch (error) {
    if (old !== undefined) {
      yield* group.setDomainRegardless(old);
      group.defaultDomain = old;
      freeDomain(domain);
    }
    throw error;
  }
  yield* freeDefaultDomain(old);
  const { events } = group.system;
  if (events.on) events.emit({ kind: "iommu.group.default-domain", group: group.id, type: domain.type });
}

function* mapAllDirectRegions(group: Group, domain: Domain): Task<void> {
  for (const device of group.devices) yield* mapDirectRegions(device, domain);
}

function* refusalOf(code: Task<void>): Task<Refusal | undefined> {
  try {
    yield* code;
    return undefined;
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
}

function* allocateDefaultDomain(
  group: Group,
  machineWide: DefaultDomainType,
  requested: DefaultDomainType | undefined,
): Task<Domain> {
  group.system.failures.point("iommu.default-domain.allocate");
  const type = chooseType(group, requested);
  const { defaultDomain: fixed } = group.driver;
  if (fixed !== undefined) {
    if (type !== undefined && type !== fixed.type) {
      refuse(EINVAL, () => `the default domain of ${group.label} is always ${fixed.label}, never ${type}`);
    }
    return fixed;
  }
  if (type !== undefined) return yield* allocate(group, type);
  try {
    return yield* allocate(group, machineWide);
  } catch (error) {
    if (!(error instanceof Refusal) || machineWide === "dma") throw error;
    warn(group, `no ${machineWide} default domain (${error}): a dma one instead`);
    return yield* allocate(group, "dma");
  }
}

/** What the members allow of what was requested, or what they wish. Undefined: nobody cares. EINVAL: they do not allow it. */
function chooseType(group: Group, requested: DefaultDomainType | undefined): DefaultDomainType | undefined {
  let wish = wishOf(group);
  const untrusted = group.devices.find((device) => device.untrusted);
  if (untrusted !== undefined) {
    if (wish === "identity") {
      refuse(EINVAL, () => `${untrusted.label} is not trusted, but others of ${group.label} need an identity domain`);
    }
    wish = "dma";
  }
  if (requested === undefined) return wish;
  if (wish !== undefined && requested !== wish) {
    refuse(EINVAL, () => `members of ${group.label} need a ${wish} default domain, never ${requested}`);
  }
  return requested;
}

/** The type that the members' driver wishes for; where wishes conflict identity wins. Undefined: no wish. */
function wishOf(group: Group): DefaultDomainWish | undefined {
  const { driver } = group;
  let wished: DefaultDomainWish | undefined = driver.defaultDomain?.type === "identity" ? "identity" : undefined;
  for (const device of group.devices) {
    const wish = driver.defaultDomainType?.(device) ?? device.defaultDomain;
    if (wish === undefined || wish === wished) continue;
    if (wished !== undefined) {
      warn(group, `${device.label} wishes for a ${wish} default domain, others for ${wished}: identity wins`);
      wished = "identity";
    } else {
      wished = wish;
    }
  }
  return wished;
}

function* allocate(group: Group, type: DefaultDomainType): Task<Domain> {
  const { driver, devices } = group;
  if (type === "identity") {
    return driver.identityDomain ?? refuse(EOPNOTSUPP, () => `${driver.name} has no identity domain`);
  }
  const domain = yield* allocatePaging(group);
  const isLazy = type === "dma-fq" && devices.every((device) => driver.capable(device, "deferred-flush"));
  domain.type = isLazy ? "dma-fq" : "dma";
  return domain;
}

/** Fit for PASIDs beside it, where the driver has such domains. */
function* allocatePaging({ driver, devices: [first] }: Group): Task<PagingDomain> {
  if (first.iommu!.maxPasids > 0) {
    try {
      return yield* driver.allocatePaging(first, ALLOC_PASID, undefined);
    } catch (error) {
      if (!(error instanceof Refusal) || error.errno !== EOPNOTSUPP) throw error;
    }
  }
  return yield* driver.allocatePaging(first, 0, undefined);
}

interface DirectMapping {
  readonly start: number;
  readonly size: number;
}

/**
 * Maps the device's direct regions 1:1 into `domain`, pages already mapped excepted, and notes whether the device needs
 * them always. Nothing to map where the domain has no page table. Returns what it mapped; a Refusal leaves nothing mapped.
 */
export function* mapDirectRegions(device: Device, domain: Domain): Task<readonly DirectMapping[]> {
  const mapped: DirectMapping[] = [];
  try {
    for (const region of reservedRegionsOf(device)) {
      if (region.type === "direct") device.iommu!.requireDirect = true;
      if (region.type !== "direct" && region.type !== "direct-relaxable") continue;
      if (!(domain instanceof PagingDomain)) continue;
      for (const hole of unmappedPages(domain, region.start, region.last + 1n)) {
        yield* domain.map(BigInt(hole.start), hole.start, hole.size, PROT_READ | PROT_WRITE);
        mapped.push(hole);
      }
    }
  } catch (error) {
    yield* unmapDirectRegions(domain, mapped);
    throw error;
  }
  return mapped;
}

/** Undoes {@link mapDirectRegions}. Cannot fail. */
export function* unmapDirectRegions(domain: Domain, mapped: readonly DirectMapping[]): Task<void> {
  if (!(domain instanceof PagingDomain)) return;
  const gather = newGather();
  for (const { start, size } of mapped) yield* domain.unmap(BigInt(start), size, gather);
  yield* domain.sync(gather);
}

/** Runs of pages that are not mapped. Start and end are rounded up, so that a region of less than a page may have none. */
function unmappedPages(domain: PagingDomain, start: bigint, end: bigint): DirectMapping[] {
  const page = domain.pageSizes[0];
  const roundUp = (address: bigint): number => Math.ceil(Number(address) / page) * page;
  const runs: { start: number; size: number }[] = [];
  for (let address = roundUp(start); address < roundUp(end); address += page) {
    if (domain.translate(BigInt(address)) !== undefined) continue;
    const last = runs.at(-1);
    if (last !== undefined && last.start + last.size === address) last.size += page;
    else runs.push({ start: address, size: page });
  }
  return runs;
}

/** Frees a default domain, when all is forgotten that was unmapped in it. */
export function* freeDefaultDomain(domain: Domain | undefined): Task<void> {
  if (domain instanceof PagingDomain && domain.dmaSpace !== undefined) yield* domain.dmaSpace.flush();
  freeDomain(domain);
}

/** Frees a domain that a driver made; its static ones belong to nobody. */
export function freeDomain(domain: Domain | undefined): void {
  if (domain?.owner !== undefined) domain.free();
}

function warn({ system, id }: { system: System; id: number }, text: string): void {
  if (system.events.on) system.events.emit({ kind: "iommu.warning", group: id, text });
}
