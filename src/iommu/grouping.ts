// Runs in a browser.
/**
 * Which group a device belongs to (reference 2.3): drivers choose one of these for `deviceGroup`.
 *
 * For PCI each rule is a function. It starts at the *candidate*, the function that stands for the device: the device
 * itself, or the bridge nearest to the root that hides or exposes it. It answers with a group that exists, or nothing; the
 * first answer counts. What answered, and which bits decided, stays with the device: `device.iommu.grouping`.
 */
import { areDmaAliases, dmaAliases, type Isolation, isolationOf, type PciBus, type PciFunction } from "../pci/index.ts";
import type { IommuCore } from "./core.ts";
import type { Device } from "./device.ts";
import type { Group } from "./group.ts";

/** A function that does not keep others apart, and why. */
export interface Gap {
  readonly pci: PciFunction;
  readonly isolation: Isolation;
}

/** Why a device is in its group. `partner` was a member before; a device without one made the group. */
export type Grouping =
  | { readonly rule: "alone" }
  /** Its requests carry the requester id of the bridge `partner`. */
  | { readonly rule: "requester id"; readonly partner: PciFunction }
  /** The first gap on the way from the bridge `partner`, above the device, to the root. */
  | { readonly rule: "path"; readonly partner: PciFunction; readonly gap: Gap }
  /** One of `candidate` and `partner` does DMA under the number of the other. */
  | { readonly rule: "shared number"; readonly partner: PciFunction; readonly candidate: PciFunction }
  /** Two functions of one device, or of aliases of it, that can reach each other. */
  | { readonly rule: "functions"; readonly partner: PciFunction; readonly gaps: readonly [Gap, Gap] };

/** Each device for itself. */
export function singleDeviceGroup(_device: Device, core: IommuCore): Group {
  return core.newGroup();
}

/** With whatever hardware cannot keep it apart from on its way to the IOMMU, else for itself. */
export function pciDeviceGroup(device: Device, core: IommuCore): Group {
  const { group, grouping } = new GroupSearch(core).of(device.pci!);
  if (device.iommu !== undefined) device.iommu.grouping = grouping;
  return group ?? core.newGroup();
}

interface Found {
  readonly group: Group | undefined;
  readonly grouping: Grouping;
}

/** The search for the group of one device. */
class GroupSearch {
  private readonly groupByFunction: ReadonlyMap<PciFunction, Group>;
  /** Functions looked at by the rules that follow aliases: each once. */
  private readonly visited = new Set<PciFunction>();

  constructor(core: IommuCore) {
    this.groupByFunction = core.groupByFunction;
  }

  of(pci: PciFunction): Found {
    const bearers = this.byRequesterId(pci);
    if ("group" in bearers) return bearers;
    const path = this.byPath(bearers.candidate);
    if ("group" in path) return path;
    const { candidate } = path;
    return (
      this.bySharedNumber(candidate) ?? this.byFunctions(candidate) ?? { group: undefined, grouping: { rule: "alone" } }
    );
  }

  /** The first of those under whose ids its requests travel that has a group; else the last stands for it. */
  private byRequesterId(pci: PciFunction): Found | { candidate: PciFunction } {
    let candidate = pci;
    for (const { bearer } of dmaAliases(pci)) {
      candidate = bearer;
      const group = this.groupByFunction.get(bearer);
      if (group !== undefined) return { group, grouping: { rule: "requester id", partner: bearer } };
    }
    return { candidate };
  }

  /** Upwards, until the rest of the way isolates: each bridge before that stands for all below it. */
  private byPath(from: PciFunction): Found | { candidate: PciFunction } {
    let candidate = from;
    for (let bus: PciBus | undefined = from.place!.bus; bus !== undefined; bus = bus.parent) {
      if (bus.bridge === undefined) continue;
      const gap = firstGap(bus.bridge);
      if (gap === undefined) break;
      candidate = bus.bridge;
      const group = this.groupByFunction.get(candidate);
      if (group !== undefined) return { group, grouping: { rule: "path", partner: candidate, gap } };
    }
    return { candidate };
  }

  /** Functions of the same bus that use the candidate's number, or it theirs; then those that share theirs. */
  private bySharedNumber(candidate: PciFunction): Found | undefined {
    const partner = this.sharingNumbers(candidate);
    return partner && this.found(partner, { rule: "shared number", partner, candidate });
  }

  /** Functions of one device can reach each other inside it, unless they isolate. */
  private byFunctions(candidate: PciFunction): Found | undefined {
    if (!candidate.multifunction) return undefined;
    const own = gapOf(candidate);
    if (own === undefined) return undefined;
    const { bus, device } = candidate.place!;
    for (const other of bus.slot(device)) {
      if (other === candidate) continue;
      const gap = gapOf(other);
      const partner = gap && this.sharingNumbers(other);
      if (partner) return this.found(partner, { rule: "functions", partner, gaps: [own, gap] });
    }
    return undefined;
  }

  /** The function itself, or one that it shares numbers with over any number of steps, that has a group. */
  private sharingNumbers(pci: PciFunction): PciFunction | undefined {
    if (this.visited.has(pci)) return undefined;
    this.visited.add(pci);
    if (this.groupByFunction.has(pci)) return pci;
    for (const other of pci.place!.bus.functions) {
      const found = other !== pci && areDmaAliases(pci, other) ? this.sharingNumbers(other) : undefined;
      if (found !== undefined) return found;
    }
    return undefined;
  }

  private found(partner: PciFunction, grouping: Grouping): Found {
    return { group: this.groupByFunction.get(partner), grouping };
  }
}

/** The first function from `bridge` up to the root that does not isolate. */
function firstGap(bridge: PciFunction): Gap | undefined {
  for (let port: PciFunction | undefined = bridge; port !== undefined; port = bridgeAbove(port)) {
    const gap = gapOf(port);
    if (gap !== undefined) return gap;
  }
  return undefined;
}

function bridgeAbove(pci: PciFunction): PciFunction | undefined {
  let bus: PciBus | undefined = pci.place!.bus;
  while (bus !== undefined && bus.bridge === undefined) bus = bus.parent;
  return bus?.bridge;
}

function gapOf(pci: PciFunction): Gap | undefined {
  const isolation = isolationOf(pci);
  return isolation.isolated ? undefined : { pci, isolation };
}
