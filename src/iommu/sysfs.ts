// Runs in a browser.
/** What clients see of groups and IOMMUs under /sys, in the formats of reference 2.11. */
import { CAP_SYS_ADMIN, CAP_SYS_RAWIO, type FileNode, type Process } from "../memory/index.ts";
import { relative } from "../pci/index.ts";
import { EACCES, EINVAL, refuse, type Task } from "../runtime/index.ts";
import type { IommuCore } from "./core.ts";
import type { DefaultDomainType } from "./default-domain.ts";
import type { Device } from "./device.ts";
import type { ReservedRegion } from "./driver.ts";
import type { Group } from "./group.ts";

const groupsPath = "/sys/kernel/iommu_groups";
const classPath = "/sys/class/iommu";
/** Where IOMMUs lie that have no device of their own. */
const devicesPath = "/sys/devices/virtual/iommu";

/**
 * All nodes of groups (/sys/kernel/iommu_groups) and of IOMMUs (/sys/class/iommu, and where its links lead), and the links
 * `iommu_group` and `iommu` in each device's directory. `devicePath` says where a device's directory is.
 */
export function groupNodes(core: IommuCore, devicePath: (device: Device) => string): Map<string, FileNode> {
  const nodes = new Map<string, FileNode>();
  nodes.set(classPath, { kind: "directory" });
  nodes.set(devicesPath, { kind: "directory" });
  nodes.set(groupsPath, { kind: "directory" });
  for (const group of core.groups.values()) addGroup(nodes, core, group, devicePath);
  for (const instance of core.instances.values()) {
    const path = `${devicesPath}/${instance.name}`;
    addLink(nodes, `${classPath}/${instance.name}`, path);
    addLink(nodes, `${path}/subsystem`, classPath);
    nodes.set(`${path}/uevent`, { kind: "text", mode: 0o644, read: () => "" });
    nodes.set(`${path}/devices`, { kind: "directory" });
    for (const device of core.devicesOf(instance)) {
      addLink(nodes, `${path}/devices/${device.name}`, devicePath(device));
      addLink(nodes, `${devicePath(device)}/iommu`, path);
    }
  }
  return nodes;
}

function addGroup(
  nodes: Map<string, FileNode>,
  core: IommuCore,
  group: Group,
  devicePath: (device: Device) => string,
): void {
  const path = `${groupsPath}/${group.id}`;
  nodes.set(`${path}/devices`, { kind: "directory" });
  nodes.set(`${path}/type`, {
    kind: "text",
    mode: 0o644,
    read: () => `${typeText(group)}\n`,
    write: (process, bytes) => changeType(core, group, process, bytes),
  });
  if (group.name !== undefined) nodes.set(`${path}/name`, { kind: "text", mode: 0o444, read: () => `${group.name}\n` });
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

const typeTexts = {
  blocked: "blocked",
  identity: "identity",
  unmanaged: "unmanaged",
  dma: "DMA",
  "dma-fq": "DMA-FQ",
  sva: "unknown",
  nested: "unknown",
} as const;

function typeText({ defaultDomain }: Group): string {
  return defaultDomain === undefined ? "unknown" : typeTexts[defaultDomain.type];
}

/** What can be written to `type`. Others can only be read there. */
const types: Readonly<Record<string, DefaultDomainType | "auto">> = {
  identity: "identity",
  DMA: "dma",
  "DMA-FQ": "dma-fq",
  auto: "auto",
};

/**
 * A write to `type`. EACCES: a client without CAP_SYS_ADMIN and CAP_SYS_RAWIO. EINVAL: a group without a default domain, or
 * no such type. Then as changing it answers.
 */
function* changeType(core: IommuCore, group: Group, process: Process, bytes: Uint8Array): Task<void> {
  for (const [name, capability] of Object.entries({ CAP_SYS_ADMIN, CAP_SYS_RAWIO })) {
    if (!process.capable(capability)) {
      refuse(EACCES, () => `${process.label} lacks ${name}, which changing how DMA is translated needs`);
    }
  }
  if (group.defaultDomain === undefined) refuse(EINVAL, () => `${group.label} has no default domain`);
  const text = stored(bytes);
  const type = Object.hasOwn(types, text) ? types[text] : undefined;
  if (type === undefined) {
    refuse(EINVAL, () => `${JSON.stringify(text)} is none of ${Object.keys(types).join(", ")}`);
  }
  yield* core.setDefaultDomainType(group, type);
}

/** A text as sysfs takes it: up to a NUL, without a newline at its end. */
function stored(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes).replace(/\0.*$/s, "").replace(/\n$/, "");
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
