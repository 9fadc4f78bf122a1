// Runs in a browser.
/** Questions to a topology: what would be, if some devices isolated, or were not there. The answer is another topology. */
import {
  EXTENDED_ACS,
  type ExpressType,
  type PciFunction,
  withIsolation,
  withOfferedIsolation,
} from "../../pci/index.ts";
import { System } from "../../runtime/index.ts";
import { type BuiltTopology, buildTopology, type Topology, TopologyError } from "./topology.ts";

export interface Changes {
  /** What Linux does where there is an IOMMU: every ACS capability has on what it offers of isolation. */
  readonly enableAcs: boolean;
  /** What the kernel patch "pcie_acs_override" does: functions of these kinds without ACS are taken to have it. */
  readonly override: readonly ("downstream" | "multifunction")[];
  /** Functions taken to have all of ACS, enabled. */
  readonly assumeAcs: readonly string[];
  /** Functions taken out, or devices with all functions (`"05:00"`), with everything below them. */
  readonly without: readonly string[];
}

export function isNoChange({ enableAcs, override, assumeAcs, without }: Changes): boolean {
  return !enableAcs && override.length + assumeAcs.length + without.length === 0;
}

/** The topology as it would be. Throws a {@link TopologyError} for functions that are not there or cannot have ACS. */
export function changed(topology: Topology, changes: Changes): Topology {
  const built = buildTopology(new System(), topology);
  const isolating = new Set([...built.functions.values()].filter((pci) => isOverridden(pci, changes.override)));
  for (const name of changes.assumeAcs) {
    for (const pci of find(built, name)) {
      if (!pci.isExpress) throw new TopologyError(`${pci.name} is conventional PCI, which has no ACS`);
      isolating.add(pci);
    }
  }
  const removed = new Set(changes.without.flatMap((name) => find(built, name)));
  const functions = topology.functions
    .filter(({ name }) => !isBelow(built.functions.get(name)!, removed))
    .map((recorded) => {
      const pci = built.functions.get(recorded.name)!;
      if (isolating.has(pci)) return { ...recorded, config: withIsolation(pci) };
      return changes.enableAcs ? { ...recorded, config: withOfferedIsolation(pci) } : recorded;
    });
  return { ...topology, functions };
}

const kinds = {
  downstream: ["rootPort", "downstreamPort"],
  multifunction: ["endpoint", "legacyEndpoint", "integratedEndpoint", "upstreamPort"],
} as const satisfies Record<Changes["override"][number], readonly ExpressType[]>;

function isOverridden(pci: PciFunction, override: Changes["override"]): boolean {
  if (!pci.isExpress || pci.extendedCapability(EXTENDED_ACS) !== undefined) return false;
  return override.some((kind) => {
    const types: readonly (ExpressType | undefined)[] = kinds[kind];
    return types.includes(pci.expressType) && (kind === "downstream" || pci.multifunction);
  });
}

/** The functions that `05:00.0`, `0000:05:00.0` or `05:00` names. */
function find({ functions }: BuiltTopology, name: string): PciFunction[] {
  const lower = name.toLowerCase();
  const full = /^[0-9a-f]{4,8}:[0-9a-f]{2}:/.test(lower) ? lower : `0000:${lower}`;
  const found = [...functions].filter(([one]) => one === full || one.replace(/\.[0-7]$/, "") === full);
  if (found.length === 0) throw new TopologyError(`there is no PCI function ${name} in this topology`);
  return found.map(([, pci]) => pci);
}

/** True for one of `removed` and all that is reached through one. */
function isBelow(pci: PciFunction, removed: ReadonlySet<PciFunction>): boolean {
  if (removed.has(pci)) return true;
  for (let bus = pci.place?.bus; bus !== undefined; bus = bus.parent) {
    if (bus.bridge !== undefined && removed.has(bus.bridge)) return true;
  }
  return false;
}
