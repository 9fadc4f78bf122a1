// Runs in a browser.
/** Groups of a topology for people: the tree of bridges and devices, then why some share a group, then what would change. */
import { type Group, groupReasons, kindOf, shortName } from "../../iommu/index.ts";
import {
  accessControls,
  DEVICE_ID,
  ISOLATING_CONTROLS,
  type PciBus,
  type PciFunction,
  VENDOR_ID,
} from "../../pci/index.ts";
import type { TopologyGroups } from "./groups.ts";

export interface DescribeOptions {
  /** What a database of PCI ids calls a function, if it knows it. */
  readonly nameOf?: (vendor: number, device: number) => string | undefined;
  /** Marks a piece of text that stands for a group. */
  readonly paint?: (text: string, group: number) => string;
}

/** Everything that there is to say of the groups, as lines. */
export function describeGroups(formed: TopologyGroups, options: DescribeOptions = {}): string {
  const lines = formed.topology.name === undefined ? [] : [formed.topology.name];
  lines.push(...tree(formed, options), "");
  const shared = [...formed.groups.values()].filter(({ devices }) => devices.length > 1);
  if (shared.length === 0) lines.push("Each function is alone in its group.");
  for (const group of shared) lines.push(...describeGroup(group, options));
  for (const group of formed.groups.values()) {
    for (const { start, last, type } of group.reservedRegions()) {
      if (type === "direct") {
        lines.push(
          `group ${group.id}: the firmware wants 0x${start.toString(16)}-0x${last.toString(16)} mapped always: it cannot be given to a user`,
        );
      }
    }
  }
  if (hasAcsOff(formed)) {
    lines.push(
      "No port has ACS switched on, as Linux leaves it without an IOMMU. With one it switches on what there is: --enable-acs shows that.",
    );
  }
  return `${lines.join("\n")}\n`;
}

/** True if there is ACS, and nowhere a control of it is on. */
function hasAcsOff({ hosts }: TopologyGroups): boolean {
  const controls = hosts.flatMap(({ functions }) => functions.map(accessControls)).filter((one) => one !== undefined);
  const isolating = controls.filter(({ offered }) => (offered & ISOLATING_CONTROLS) !== 0);
  return isolating.length > 0 && isolating.every(({ enabled }) => (enabled & ISOLATING_CONTROLS) === 0);
}

/** What is different in `after`: who left, and whose company is another. */
export function describeChanges(before: TopologyGroups, after: TopologyGroups): string {
  const now = companies(before);
  const then = companies(after);
  const lines: string[] = [];
  for (const [name, company] of now) {
    const changed = then.get(name);
    if (changed === undefined) lines.push(`  ${short(name)} would be gone`);
    else if (changed !== company)
      lines.push(`  ${short(name)} would be ${withWhom(changed)}; it is ${withWhom(company)}`);
  }
  return lines.length === 0 ? "Nothing would change.\n" : `What would change:\n${lines.join("\n")}\n`;
}

/** For each function the others of its group. */
function companies({ groups }: TopologyGroups): Map<string, string> {
  const found = new Map<string, string>();
  for (const { devices } of groups.values()) {
    const names = devices.map(({ name }) => name).sort();
    for (const name of names)
      found.set(
        name,
        names
          .filter((one) => one !== name)
          .map(short)
          .join(", "),
      );
  }
  return new Map([...found].sort(([left], [right]) => (left < right ? -1 : 1)));
}

function withWhom(company: string): string {
  return company === "" ? "alone" : `with ${company}`;
}

function short(name: string): string {
  return name.replace(/^0000:/, "");
}

function tree(formed: TopologyGroups, options: DescribeOptions): string[] {
  const rows: { readonly place: string; readonly pci: PciFunction }[] = [];
  const visit = (bus: PciBus, depth: number): void => {
    for (const pci of bus.functions) {
      rows.push({ place: `${"  ".repeat(depth)}${shortName(pci)}`, pci });
      for (const behind of bus.host.buses) if (behind.bridge === pci) visit(behind, depth + 1);
    }
    for (const virtual of bus.host.buses) {
      if (virtual.parent === bus && virtual.bridge === undefined) visit(virtual, depth);
    }
  };
  for (const host of formed.hosts) {
    const roots = host.buses.filter(({ isRoot }) => isRoot).sort((left, right) => left.number - right.number);
    for (const bus of roots) visit(bus, 0);
  }
  const width = Math.max(...rows.map(({ place }) => place.length));
  const digits = Math.max(...[...formed.groups.keys()].map((id) => `${id}`.length));
  return rows.map(({ place, pci }) => {
    const { id } = formed.groupOf(pci);
    const group = `group ${`${id}`.padEnd(digits)}`;
    return `${place.padEnd(width)}  ${options.paint?.(group, id) ?? group}  ${describeFunction(formed, pci, options)}`;
  });
}

function describeFunction(formed: TopologyGroups, pci: PciFunction, options: DescribeOptions): string {
  const vendor = pci.readConfig(VENDOR_ID, 2);
  const device = pci.readConfig(DEVICE_ID, 2);
  const hex = (value: number): string => value.toString(16).padStart(4, "0");
  const ids = `[${hex(vendor)}:${hex(device)}]`;
  const { description } = formed.recorded.get(pci)!;
  const name = options.nameOf?.(vendor, device) ?? description;
  const kind = kindOf(pci);
  return [...(kind === "function" ? [] : [`${kind}:`]), ...(name === undefined ? [] : [name]), ids].join(" ");
}

function describeGroup(group: Group, { paint }: DescribeOptions): string[] {
  const label = `group ${group.id}`;
  const members = group.devices.map(({ pci }) => shortName(pci!)).sort();
  return [
    `${paint?.(label, group.id) ?? label}: ${members.join(", ")}`,
    ...groupReasons(group).map((one) => `  ${one}`),
  ];
}
