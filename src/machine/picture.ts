// Runs in a browser.
/** A machine as a picture in text: what `uiommu machine show` prints. The groups are those of the machine, powered up. */
import { type Device, groupReasons, shortName } from "../iommu/index.ts";
import type { PciBus, PciFunction } from "../pci/index.ts";
import type {
  BridgeDescription,
  DeviceDescription,
  FunctionDescription,
  IommuDescription,
  MachineDescription,
  PlatformDescription,
  SmmuDescription,
  VirtioIommuDescription,
} from "./description.ts";
import { buildMachine, type Machine } from "./machine.ts";

/** Narrow enough to be indented a little on a terminal of 80. */
const COLUMNS = 78;

/** The machine as people like to see it: memory, IOMMUs with their features, and the tree of devices. */
export function describeMachine(description: MachineDescription): string {
  const machine = buildMachine(description);
  const lines = [
    ...wrapped(`${description.name}: `, description.about || "a machine"),
    "",
    ...wrapped("memory   ", memoryWords(description)),
    ...description.iommus.flatMap(iommuLines),
    ...wrapped("default  ", defaultDomainWords(description)),
    "",
    "pci 0000:00",
    ...busLines(machine, machine.pci.root, ""),
    ...platformLines(machine),
    ...sharedGroupLines(machine),
  ];
  return `${lines.join("\n")}\n`;
}

/** One sentence about a machine, for a list. */
export function summarizeMachine(description: MachineDescription): string {
  const { iommus, bridges, devices, platform } = description;
  const count = (number: number, noun: string) => `${number === 0 ? "no" : number} ${noun}${number === 1 ? "" : "s"}`;
  return [
    count(iommus.length, "IOMMU"),
    ...(bridges.length > 0 ? [count(bridges.length, "bridge")] : []),
    count(devices.length, "device function"),
    ...(platform.length > 0 ? [count(platform.length, "platform device")] : []),
    count(buildMachine(description).core.groups.size, "group"),
  ].join(", ");
}

function memoryWords({ memory }: MachineDescription): string {
  const limit =
    memory.memlock === "inherit"
      ? "clients may pin what their own limit allows"
      : memory.memlock === Number.POSITIVE_INFINITY
        ? "clients may pin without limit"
        : `each client may pin ${sizeWords(memory.memlock)}`;
  return `${sizeWords(memory.size)} at 0x${memory.base.toString(16)}; ${limit}`;
}

function defaultDomainWords({ defaultDomain }: MachineDescription): string {
  return {
    identity: "identity: devices that nobody has taken see memory untranslated",
    dma: "dma: devices that nobody has taken see an empty page table",
    "dma-fq": "dma-fq: devices that nobody has taken see an empty page table, invalidated lazily",
  }[defaultDomain];
}

function iommuLines(iommu: IommuDescription): string[] {
  const facts = iommu.kind === "smmuv3" ? smmuFacts(iommu) : virtioFacts(iommu);
  return facts.flatMap((fact, index) => wrapped((index === 0 ? `${iommu.name} ` : "").padEnd(9), fact));
}

function virtioFacts({ base, features }: VirtioIommuDescription): string[] {
  const { inputBits, domainBits, probe, mmio, bypass, attachTable } = features;
  const domainless = {
    on: "devices without a domain bypass it at first",
    off: "devices without a domain reach nothing at first",
    absent: "no bypass",
  }[bypass];
  return [
    `virtio IOMMU, virtio-mmio registers at 0x${base.toString(16)}`,
    `${inputBits}-bit IOVAs, ${domainBits}-bit domain ids; ${domainless}`,
    `${probe ? "probes of reserved regions" : "no probes"}; ${mmio ? "device memory told apart" : "no MMIO flag"}${
      attachTable && probe ? "; tables of the driver's own, PASIDs" : ""
    }`,
  ];
}

function smmuFacts({ base, features }: SmmuDescription): string[] {
  const stages =
    features.stage1 && features.stage2 ? "stages 1 and 2, nesting" : `stage ${features.stage1 ? 1 : 2} only`;
  const pasids = features.pasidBits === 0 ? "no PASIDs" : `${features.pasidBits}-bit PASIDs`;
  const table = features.twoLevelStreamTable ? "two-level stream table" : "linear stream table";
  const invalidation = features.rangeInvalidation ? "range invalidation" : "no range invalidation";
  return [
    `SMMUv3, registers at 0x${base.toString(16)}`,
    `${stages}; granules ${features.granules.map(sizeWords).join(", ")}`,
    `${features.outputBits}-bit physical addresses, ${features.streamIdBits}-bit StreamIDs, ${pasids}`,
    `${features.asidBits}-bit ASIDs, ${features.vmidBits}-bit VMIDs`,
    `${table}; ${invalidation}; ${features.coherent ? "coherent" : "not coherent"}`,
    ...(features.ats ? [features.pri ? "ATS, page requests" : "ATS"] : []),
  ];
}

function platformLines(machine: Machine): string[] {
  const { platformDevices } = machine;
  if (platformDevices.length === 0) return [];
  const width = Math.max(...platformDevices.map(({ name }) => name.length));
  const lines = platformDevices.flatMap(({ name, description, device }, index) => {
    const last = index === platformDevices.length - 1;
    const margin = `${last ? " " : "│"}           `;
    const words = [name.padEnd(width), ...groupWords(device, description)];
    const streams = description.streams.map((stream) => `0x${stream.toString(16)}`).join(", ");
    const notes = [
      ...(streams === "" ? [] : [`stream ids ${streams}`]),
      machine.whyUnserved(device) ?? "",
      firmwareWords(description),
      description.canStall ? "stalls" : "",
      description.pasidBits > 0 ? `${description.pasidBits}-bit PASIDs` : "",
    ].filter((note) => note !== "");
    const said = notes.length === 0 ? [] : wrapped(margin, notes.join("; "), margin);
    return [`${last ? "└─" : "├─"} ${words.join("  ")}`, ...said];
  });
  return ["", "platform", ...lines];
}

function busLines(machine: Machine, bus: PciBus, margin: string): string[] {
  const { functions } = bus;
  if (functions.length === 0) return [`${margin}└─ nothing`];
  const width = Math.max(5, ...functions.map((member) => machine.descriptionOf(member).model.length));
  return functions.flatMap((member, index) => {
    const last = index === functions.length - 1;
    const description = machine.descriptionOf(member);
    const below = `${margin}${last ? " " : "│"}`;
    const words = [shortName(member), description.model.padEnd(width), ...whereWords(machine, member, description)];
    const notes = [
      originWords(member),
      companyWords(machine, member),
      firmwareWords(description),
      capabilityWords(description),
    ]
      .filter((note) => note !== "")
      .join("; ");
    const behind = machine.pci.buses.find(({ bridge }) => bridge === member);
    return [
      `${margin}${last ? "└─" : "├─"} ${words.join("  ")}`,
      ...wrapped(`${below}           `, notes, `${below}           `),
      ...(behind === undefined ? [] : busLines(machine, behind, `${below}  `)),
    ];
  });
}

/** Its group, its device file and its IOMMU. */
function whereWords(machine: Machine, member: PciFunction, description: FunctionDescription): string[] {
  const file = "driver" in description ? [deviceFile(machine, member)] : [];
  return groupWords(machine.deviceOf(member)!, description, file);
}

/** Its group and its IOMMU, and between them what belongs there. */
function groupWords({ group }: Device, { iommu }: { iommu: string | undefined }, between: string[] = []): string[] {
  if (iommu === undefined) return ["no IOMMU: no group, DMA reaches memory untranslated"];
  return group === undefined ? ["no group"] : [`group ${group.id}`, ...between, `behind ${iommu}`];
}

/** What its driver gives to programs. */
function deviceFile({ vfio, uacce }: Machine, member: PciFunction): string {
  const device = vfio.devices.find((one) => one.member === member);
  if (device !== undefined) return `/dev/vfio/devices/${device.name}`;
  const accelerator = uacce.devices.find((one) => one.member === member);
  return accelerator === undefined ? `${member.driver?.name ?? "no"} driver` : `/dev/${accelerator.name}`;
}

/** Whose virtual function it is. */
function originWords({ virtual }: PciFunction): string {
  return virtual === undefined ? "" : `virtual function ${virtual.index} of ${shortName(virtual.of.physical)}`;
}

/** With whom it shares its group, or why it has none. */
function companyWords(machine: Machine, member: PciFunction): string {
  const device = machine.deviceOf(member)!;
  if (device.group === undefined) return machine.whyUnserved(device) ?? "";
  const others = device.group.devices.filter((other) => other !== device).map(({ pci }) => shortName(pci!));
  return others.length === 0 ? "alone in its group" : `shares its group with ${others.join(", ")}`;
}

function sharedGroupLines({ core }: Machine): string[] {
  const shared = [...core.groups.values()].filter(({ devices }) => devices.length > 1);
  if (shared.length === 0) return [];
  return ["", ...shared.flatMap((group) => wrapped(`group ${group.id}  `, groupReasons(group).join("; ")))];
}

function firmwareWords(description: FunctionDescription | PlatformDescription): string {
  if (!("reserved" in description)) return "";
  const { defaultDomain, reserved } = description;
  const words = reserved.map(
    ({ type, start, size }) => `${type} region of ${sizeWords(size)} at 0x${start.toString(16)}`,
  );
  if ("untrusted" in description && description.untrusted) words.unshift("untrusted");
  if (defaultDomain !== undefined) words.unshift(`its default domain is always ${defaultDomain}`);
  return words.join(", ");
}

function capabilityWords(description: FunctionDescription): string {
  if (!("capabilities" in description)) return bridgeWords(description);
  const { express, flr, acs, ats, pri, pasidBits } = description.capabilities;
  const words = [
    express ? "PCI Express" : "",
    flr ? "FLR" : "",
    acs ? "ACS" : "",
    ats ? "ATS" : "",
    pri ? "PRI" : "",
    pasidBits > 0 ? `${pasidBits}-bit PASIDs` : "",
    ...virtualWords(description),
    ...modelWords(description),
  ];
  return words.filter((word) => word !== "").join(", ");
}

function virtualWords({ virtualFunctions }: DeviceDescription): string[] {
  if (virtualFunctions === undefined) return [];
  const { total, enabled } = virtualFunctions;
  return [`${enabled} of ${total} virtual functions on`];
}

function bridgeWords({ buses: { first, last }, acs }: BridgeDescription): string {
  const hex = (bus: number): string => bus.toString(16).padStart(2, "0");
  const range = first === last ? `bus ${hex(first)}` : `buses ${hex(first)} to ${hex(last)}`;
  return `${range}${acs ? ", ACS" : ""}`;
}

function modelWords({ model, options }: DeviceDescription): string[] {
  if (model === "edu") return [`${options.dmaMaskBits}-bit DMA addresses`];
  return [`${options.queues} queues`];
}

/** `"4 KiB"`, `"1 GiB"`; the largest unit that leaves a whole number. */
function sizeWords(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let count = bytes;
  while (count > 0 && count % 1024 === 0 && unit < units.length - 1) {
    count /= 1024;
    unit++;
  }
  return `${count} ${units[unit]}`;
}

/** Lines of at most {@link COLUMNS}, broken between words; the first begins with `head`, the others with `margin`. */
function wrapped(head: string, text: string, margin = " ".repeat(9)): string[] {
  const lines: string[] = [];
  let line = head;
  let isFresh = true;
  for (const word of text.split(" ")) {
    if (!isFresh && line.length + 1 + word.length > COLUMNS) {
      lines.push(line);
      line = margin;
      isFresh = true;
    }
    line += isFresh ? word : ` ${word}`;
    isFresh = false;
  }
  return [...lines, line];
}
