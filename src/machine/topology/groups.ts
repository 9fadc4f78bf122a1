// Runs in a browser.
import { Device, type Group, groupReasons, IommuCore } from "../../iommu/index.ts";
import type { PciFunction, PciHost } from "../../pci/index.ts";
import { System } from "../../runtime/index.ts";
import { ObservingDriver, observingInstance } from "./observer.ts";
import { buildTopology, type RecordedPci, type Topology } from "./topology.ts";

/** The groups of a topology, as the core formed them. */
export interface TopologyGroups {
  readonly topology: Topology;
  readonly hosts: readonly PciHost[];
  /** By id. */
  readonly groups: ReadonlyMap<number, Group>;
  /** What was recorded of each function. */
  readonly recorded: ReadonlyMap<PciFunction, RecordedPci>;
  groupOf(pci: PciFunction): Group;
}

/** Puts the topology together and has the core probe each function, in the order in which Linux finds them. */
export function formGroups(topology: Topology): TopologyGroups {
  const system = new System();
  const { hosts, functions } = buildTopology(system, topology);
  const recorded = new Map(topology.functions.map((one) => [functions.get(one.name)!, one]));
  const driver = new ObservingDriver(({ pci }) => recorded.get(pci!)?.regions ?? []);
  const instance = observingInstance(driver);
  const devices = hosts.flatMap(({ scanOrder }) =>
    scanOrder.map(
      (pci) => new Device({ name: pci.name, pci, firmware: { instance: instance.name, streamIds: [pci.requesterId] } }),
    ),
  );
  const core = new IommuCore(system, { devices: () => devices });
  system.run("probe of a recorded topology", core.register(instance));
  const byFunction = new Map(devices.map((device) => [device.pci!, device.group!]));
  const groups = new Map([...core.groups].sort(([left], [right]) => left - right));
  return { topology, hosts, groups, recorded, groupOf: (pci) => byFunction.get(pci)! };
}

/** What tools want to know: ids, members by address, the reason in words. */
export function summary({ groups }: TopologyGroups): { groups: { id: number; devices: string[]; reason: string }[] } {
  return {
    groups: [...groups.values()].map((group) => ({
      id: group.id,
      devices: group.devices.map(({ name }) => name).sort(),
      reason: groupReasons(group).join("; "),
    })),
  };
}
