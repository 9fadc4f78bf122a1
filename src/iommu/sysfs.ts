// Runs in a browser.
/** What clients see of groups and IOMMUs under /sys, in the formats of reference 2.11. */
import type { FileNode } from "../memory/index.ts";
import { relative } from "../pci/index.ts";
import type { IommuCore } from "./core.ts";
import type { Device } from "./device.ts";
import type { ReservedRegion } from "./driver.ts";
import type { Group } from "./group.ts";

const groupsPath = "/sys/kernel/iommu_groups";
const classPath = "/sys/class/iommu";

/**
 * All nodes below /sys/kernel/iommu_groups and /sys/class/iommu, and the links `iommu_group` and `iommu` in each device's
 * directory. `devicePath` says where a device's directory is.
 */
export function groupNodes(core: IommuCore, devicePath: (device: Device) => string): Map<string, FileNode> {
  const nodes = new Map<string, FileNode>();
  nodes.set(classPath, { kind: "directory" });
  nodes.set(groupsPath, { kind: "directory" });
  for (const group of core.groups.values()) addGroup(nodes, group, devicePath);
  for (const instance of core.instances.values()) {
    const path = `${classPath}/${instance.name}`;
    nodes.set(`${path}/devices`, { kind: "directory" });
    for (const device of core.devicesOf(instance)) {
      addLink(nodes, `${path}/devices/${device.name}`, devicePath(device));
      addLink(nodes, `${devicePath(device)}/iommu`, path);
    }
  }
  return nodes;
}

function addGroup(nodes: Map<string, FileNode>, group: Group, devicePath: (device: Device) => string): void {
  const path = `${groupsPath}/${group.id}`;
  nodes.set(`${path}/devices`, { kind: "directory" });
  nodes.set(`${path}/type`, { kind: "text", mode: 0o644, read: () => `${typeText(group)}\n` });
  nodes.set(`${path}/reserved_regions`, { kind: "text", mode: 0o444, read: () => regionsText(group) });
  for (const [device, name] of group.linkNames) {
    addLink(nodes, `${path}/devices/${name}`, devicePath(device));
    addLink(nodes, `${devicePath(device)}/iommu_group`, path);
  }
}

/** A link to `target`, said relative to the directory that it lies in. Both paths are absolute. */
function addLink(nodes: Map<string, FileNode>, path: string, target: string): void {
  nodes.set(path, { kind: "link", target: relative(path.slice(0, path.lastIndexOf("/")), target) });
}

function typeText({ defaultDomain }: Group): string {
  const type = defaultDomain?.type ?? "unknown";
  return type === "unknown" || type === "blocked" || type === "identity" ? type : "DMA";
}

function regionsText(group: Group): string {
  return group
    .reservedRegions()
    .map(({ start, last, type }) => `${hex64(start)} ${hex64(last)} ${typeNames[type]}\n`)
    .join("");
}

const typeNames: Readonly<Record<ReservedRegion["type"], string>> = {
  direct: "direct",
  "direct-relaxable": "direct-relaxable",
  reserved: "reserved",
  msi: "msi",
  "software-msi": "msi",
};

function hex64(value: bigint): string {
  return `0x${value.toString(16).padStart(16, "0")}`;
}
