// Runs in a browser.
/** Why devices share a group, in words: what grouping.ts decided, with the bits that decided. */
import { ACS, type ExpressType, type PciFunction } from "../pci/index.ts";
import type { Device } from "./device.ts";
import type { Group } from "./group.ts";
import type { Gap, Grouping } from "./grouping.ts";

/** One sentence for each thing that binds members together, in the order in which they joined. */
export function groupReasons(group: Group): string[] {
  if (group.devices.length === 1) return [aloneReason(group.devices[0])];
  const sentences: string[] = [];
  for (const [, joined] of bindings(group))
    sentences.push(
      sentence(
        joined[0].grouping,
        joined.map(({ pci }) => pci),
      ),
    );
  return sentences;
}

interface Joined {
  readonly pci: PciFunction;
  readonly grouping: Exclude<Grouping, { rule: "alone" }>;
}

/** Members that joined for one and the same reason, by that reason. */
function bindings(group: Group): Map<string, [Joined, ...Joined[]]> {
  const byReason = new Map<string, [Joined, ...Joined[]]>();
  for (const { pci, iommu } of group.devices) {
    const grouping = iommu?.grouping;
    if (pci === undefined || grouping === undefined || grouping.rule === "alone") continue;
    const key = keyOf(pci, grouping);
    const same = byReason.get(key);
    if (same === undefined) byReason.set(key, [{ pci, grouping }]);
    else same.push({ pci, grouping });
  }
  return byReason;
}

function keyOf(pci: PciFunction, grouping: Joined["grouping"]): string {
  switch (grouping.rule) {
    case "requester id":
      return `id ${grouping.partner.name}`;
    case "path":
      return `path ${grouping.gap.pci.name}`;
    case "shared number":
      return `number ${pci.name} ${grouping.partner.name}`;
    case "functions":
      return `slot ${slotName(grouping.gaps[0].pci)}`;
  }
}

function sentence(grouping: Joined["grouping"], joined: readonly PciFunction[]): string {
  switch (grouping.rule) {
    case "requester id":
      return `${list(joined)} ${joined.length === 1 ? "does" : "do"} DMA under a requester id of ${kindOf(grouping.partner)} ${shortName(grouping.partner)}, which stands in for what is behind it`;
    case "path":
      return `${describeGap(grouping.gap)}: everything below it joins (${list(joined)})`;
    case "shared number":
      return `${shortName(grouping.candidate)} and ${shortName(grouping.partner)} do DMA under one requester id, a known defect of the device`;
    case "functions":
      return functionsSentence(grouping, joined);
  }
}

function functionsSentence(grouping: Extract<Grouping, { rule: "functions" }>, joined: readonly PciFunction[]): string {
  const [own, others] = grouping.gaps;
  const functions = [...new Set([others.pci, own.pci, ...joined.filter((pci) => slotName(pci) === slotName(own.pci))])];
  const label = `${list(functions)} share a group: functions of one device`;
  if (own.isolation.by === "controls" || others.isolation.by === "controls") {
    return `${label} that are not kept apart: ${describeGap(others)}; ${describeGap(own)}`;
  }
  return `${label}, ${functions.length === 2 ? "neither" : "none"} has ACS`;
}

/** `root port 00:1c.0 has no ACS`. */
function describeGap({ pci, isolation }: Gap): string {
  const label = `${kindOf(pci)} ${shortName(pci)}`;
  if (isolation.by === "no capability") return `${label} has no ACS`;
  if (isolation.by !== "controls") return `${label} cannot have ACS`;
  const missing = controlNames(isolation.missing).join(", ");
  return `${label} has ACS without ${missing} (control ${hex(isolation.enabled)}, offered ${hex(isolation.offered)})`;
}

function aloneReason({ pci, iommu }: Device): string {
  if (pci === undefined || iommu?.grouping === undefined) return "alone: a device for itself";
  if (pci.place!.bus.isRoot && !pci.multifunction) return "alone: one function, directly at the root complex";
  const parts = [
    ...(pci.multifunction ? ["no other function of its device can reach it"] : []),
    ...(pci.place!.bus.isRoot ? [] : ["every port on its way to the root isolates"]),
  ];
  return `alone: ${parts.join(", ")}`;
}

const names: readonly (readonly [bit: number, name: string])[] = [
  [ACS.sourceValidation, "source validation"],
  [ACS.requestRedirect, "request redirect"],
  [ACS.completionRedirect, "completion redirect"],
  [ACS.upstreamForwarding, "upstream forwarding"],
];

function controlNames(bits: number): string[] {
  return names.filter(([bit]) => bits & bit).map(([, name]) => name);
}

const kinds: Partial<Record<ExpressType, string>> = {
  rootPort: "root port",
  upstreamPort: "switch upstream port",
  downstreamPort: "switch downstream port",
  expressToPciBridge: "PCIe-to-PCI bridge",
  pciToExpressBridge: "PCI-to-PCIe bridge",
};

/** What people call it: `root port`, `PCI bridge`, `function`. */
export function kindOf(pci: PciFunction): string {
  const kind = pci.expressType && kinds[pci.expressType];
  return kind ?? (pci.isBridge ? "PCI bridge" : "function");
}

/** The name without segment, where that is 0: `00:1c.0`. */
export function shortName(pci: PciFunction): string {
  return pci.name.replace(/^0000:/, "");
}

function slotName(pci: PciFunction): string {
  return pci.name.replace(/\.[0-7]$/, "");
}

function list(functions: readonly PciFunction[]): string {
  const all = functions.map(shortName);
  return all.length === 1 ? all[0] : `${all.slice(0, -1).join(", ")} and ${all.at(-1)}`;
}

function hex(bits: number): string {
  return `0x${bits.toString(16).padStart(2, "0")}`;
}
