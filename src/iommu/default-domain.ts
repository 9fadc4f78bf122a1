// Runs in a browser.
/** Which domain the members of a group use while nobody owns it (reference 2.4), and its 1:1 mappings (2.9). */
import { EOPNOTSUPP, Refusal, refuse, type System, type Task } from "../runtime/index.ts";
import type { Device } from "./device.ts";
import { ALLOC_PASID, type Domain, PagingDomain, PROT_READ, PROT_WRITE } from "./driver.ts";
import type { Group } from "./group.ts";

/** `identity`: DMA addresses are physical ones. `dma`: an address space of the kernel's own. */
export type DefaultDomainType = "identity" | "dma";

/** The type that the members' driver wishes for; where wishes conflict identity wins. Undefined: no wish. */
function wishedType(group: Group): DefaultDomainType | undefined {
  let wished: DefaultDomainType | undefined;
  for (const device of group.devices) {
    const wish = group.driver.defaultDomainType?.(device);
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

/** A new default domain for the group: as its members wish, else as the machine says; where that cannot be had, `dma`. */
export function* allocateDefaultDomain(group: Group, machineWide: DefaultDomainType): Task<Domain> {
  group.system.failures.point("iommu.default-domain.allocate");
  if (group.driver.defaultDomain !== undefined) return group.driver.defaultDomain;
  const wish = wishedType(group);
  if (wish !== undefined) return yield* allocate(group, wish);
  try {
    return yield* allocate(group, machineWide);
  } catch (error) {
    if (!(error instanceof Refusal) || machineWide === "dma") throw error;
    warn(group, `no ${machineWide} default domain (${error}): a dma one instead`);
    return yield* allocate(group, "dma");
  }
}

function* allocate(group: Group, type: DefaultDomainType): Task<Domain> {
  const { driver } = group;
  if (type === "identity") {
    return driver.identityDomain ?? refuse(EOPNOTSUPP, () => `${driver.name} has no identity domain`);
  }
  const [first] = group.devices;
  if (first.iommu!.maxPasids > 0) {
    try {
      return yield* driver.allocatePaging(first, ALLOC_PASID, undefined);
    } catch (error) {
      if (!(error instanceof Refusal) || error.errno !== EOPNOTSUPP) throw error;
    }
  }
  return yield* driver.allocatePaging(first, 0, undefined);
}

/**
 * Maps the device's direct regions 1:1 into `domain`, pages already mapped excepted, and notes whether the device needs
 * them always. Nothing to map where the domain has no page table.
 */
export function* mapDirectRegions(device: Device, domain: Domain): Task<void> {
  const { iommu } = device;
  for (const region of iommu!.instance.driver.reservedRegions(device)) {
    if (region.type === "direct") iommu!.requireDirect = true;
    if (region.type !== "direct" && region.type !== "direct-relaxable") continue;
    if (!(domain instanceof PagingDomain)) continue;
    const page = domain.pageSizes[0];
    const roundUp = (address: bigint): number => Math.ceil(Number(address) / page) * page;
    const end = roundUp(region.last + 1n);
    for (let address = roundUp(region.start); address < end; address += page) {
      if (domain.translate(BigInt(address)) !== undefined) continue;
      yield* domain.map(BigInt(address), address, page, PROT_READ | PROT_WRITE);
    }
  }
}

/** Frees a domain that a driver made; its static ones belong to nobody. */
export function freeDomain(domain: Domain | undefined): void {
  if (domain?.owner !== undefined) domain.free();
}

function warn({ system, id }: { system: System; id: number }, text: string): void {
  if (system.events.on) system.events.emit({ kind: "iommu.warning", group: id, text });
}
