/** All that the core keeps, and all that it shows, as plain data that can be compared. */
import type { FileNode } from "../memory/index.ts";
import type { IommuCore } from "./core.ts";
import type { Device } from "./device.ts";
import type { Domain, IommuDriver } from "./driver.ts";
import type { Group } from "./group.ts";
import { groupNodes } from "./sysfs.ts";

/** Everything about instances, groups and these devices, sysfs included. */
export function stateOfCore(core: IommuCore, devices: Iterable<Device>): unknown {
  const instances = [...core.instances.values()];
  return {
    references: driversOf(core).map((driver) => [driver.name, core.driverReferences(driver).holders().sort()]),
    instances: instances.map((instance) => [
      instance.name,
      core.isReady(instance),
      [...core.devicesOf(instance)].map(({ name }) => name),
    ]),
    groups: [...core.groups.values()].map(stateOfGroup),
    devices: [...devices].map(({ name, group, iommu, driver, firmware }) => ({
      name,
      group: group?.id,
      driver,
      streamIds: firmware?.streamIds,
      iommu: iommu && {
        instance: iommu.instance.name,
        maxPasids: iommu.maxPasids,
        requireDirect: iommu.requireDirect,
        attachDeferred: iommu.attachDeferred,
        stranded: iommu.stranded,
        resetDepth: iommu.resetDepth,
        hasData: iommu.data !== undefined,
      },
    })),
    sysfs: textOf(groupNodes(core, ({ name }) => `/sys/devices/${name}`)),
  };
}

/** Files as what one reads there. */
export function textOf(nodes: ReadonlyMap<string, FileNode>): Record<string, string> {
  const show = (node: FileNode): string => {
    if (node.kind === "text") return String(node.read());
    return node.kind === "link" ? `-> ${node.target}` : node.kind;
  };
  return Object.fromEntries([...nodes].map(([path, node]) => [path, show(node)]).sort());
}

function driversOf(core: IommuCore): IommuDriver[] {
  return [...new Set([...core.instances.values()].map(({ driver }) => driver))];
}

function stateOfGroup(group: Group): unknown {
  const name = (domain: Domain | undefined): string | undefined => domain && `${domain.label} (${domain.type})`;
  return {
    id: group.id,
    references: group.references.holders(),
    members: [...group.linkNames].map(([device, link]) => [device.name, link]),
    domain: name(group.domain),
    defaultDomain: name(group.defaultDomain),
    blockingDomain: name(group.blockingDomain),
    owner: [group.owner !== undefined, group.ownerCount],
    handles: [...group.handles.keys()],
    pasids: [...group.pasidDomains].map(([pasid, domain]) => [pasid, name(domain)]),
  };
}
