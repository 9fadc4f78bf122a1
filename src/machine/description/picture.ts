// Runs in a browser.
/** A description as a picture in text: what `uiommu machine show` prints. */
import {
  type DeviceDescription,
  type IommuDescription,
  type MachineDescription,
  pciAddress,
  type SmmuDescription,
  type VirtioIommuDescription,
} from "./types.ts";

/** Narrow enough to be indented a little on a terminal of 80. */
const COLUMNS = 78;

/** The machine as people like to see it: memory, IOMMUs with their features, and the tree of devices. */
export function describeMachine(machine: MachineDescription): string {
  const lines = [
    ...wrapped(`${machine.name}: `, machine.about || "a machine"),
    "",
    ...wrapped("memory   ", memoryWords(machine)),
    ...machine.iommus.flatMap(iommuLines),
    ...wrapped("default  ", defaultDomainWords(machine)),
    "",
    "pci 0000:00",
    ...deviceLines(machine),
  ];
  return `${lines.join("\n")}\n`;
}

/** One sentence about a machine, for a list. */
export function summarizeMachine({ iommus, devices }: MachineDescription): string {
  const count = (number: number, noun: string) => `${number === 0 ? "no" : number} ${noun}${number === 1 ? "" : "s"}`;
  const groups = new Set(groupNumbers(devices).values()).size;
  return `${count(iommus.length, "IOMMU")}, ${count(devices.length, "device function")}, ${count(groups, "group")}`;
}

/**
 * Which group each device behind an IOMMU comes into, in the order of probing: functions of one device without ACS share
 * one (reference 2.3, rule 4), every other has its own.
 */
export function groupNumbers(devices: readonly DeviceDescription[]): Map<DeviceDescription, number> {
  const groups = new Map<DeviceDescription, number>();
  const sharedBySlot = new Map<number, number>();
  let next = 0;
  for (const device of devices) {
    if (device.iommu === undefined) continue;
    const shares = device.multifunction && !device.capabilities.acs;
    const group = (shares ? sharedBySlot.get(device.address.device) : undefined) ?? next++;
    if (shares) sharedBySlot.set(device.address.device, group);
    groups.set(device, group);
  }
  return groups;
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
  ];
}

function deviceLines({ devices }: MachineDescription): string[] {
  if (devices.length === 0) return ["└─ nothing"];
  const groups = groupNumbers(devices);
  const width = Math.max(5, ...devices.map(({ model }) => model.length));
  const numbers = { vfio: 0, uacce: 0 };
  return devices.flatMap((device, index) => {
    const last = index === devices.length - 1;
    const group = groups.get(device);
    const words = [pciAddress(device.address), device.model.padEnd(width)];
    if (group === undefined) words.push("no IOMMU: no group, DMA reaches memory untranslated");
    else words.push(`group ${group}`, deviceFile(device, numbers), `behind ${device.iommu}`);
    const margin = last ? " " : "│";
    const notes = [groupReason(device, groups), firmwareWords(device), capabilityWords(device)]
      .filter((note) => note !== "")
      .join("; ");
    return [
      `${last ? "└─" : "├─"} ${words.join("  ")}`,
      ...wrapped(`${margin}           `, notes, `${margin}           `),
    ];
  });
}

function deviceFile({ driver }: DeviceDescription, numbers: { vfio: number; uacce: number }): string {
  if (driver === "vfio-pci") return `/dev/vfio/devices/vfio${numbers.vfio++}`;
  return driver === "uacce" ? `/dev/copy_engine-${numbers.uacce++}` : `${driver ?? "no"} driver`;
}

function groupReason(device: DeviceDescription, groups: ReadonlyMap<DeviceDescription, number>): string {
  const group = groups.get(device);
  if (group === undefined) return "";
  const others = [...groups]
    .filter(([other, number]) => number === group && other !== device)
    .map(([other]) => pciAddress(other.address));
  if (others.length > 0) return `shares its group with ${others.join(", ")} (no ACS)`;
  return `alone in its group: ${device.multifunction ? "ACS keeps the functions apart" : "one function"}`;
}

function firmwareWords({ untrusted, defaultDomain, reserved }: DeviceDescription): string {
  const words = reserved.map(
    ({ type, start, size }) => `${type} region of ${sizeWords(size)} at 0x${start.toString(16)}`,
  );
  if (untrusted) words.unshift("untrusted");
  if (defaultDomain !== undefined) words.unshift(`its default domain is always ${defaultDomain}`);
  return words.join(", ");
}

function capabilityWords(device: DeviceDescription): string {
  const { express, acs, ats, pri, pasidBits } = device.capabilities;
  const words = [
    express ? "PCI Express" : "",
    acs ? "ACS" : "",
    ats ? "ATS" : "",
    pri ? "PRI" : "",
    pasidBits > 0 ? `${pasidBits}-bit PASIDs` : "",
    device.canStall ? "waits for pages" : "",
    ...modelWords(device),
  ];
  return words.filter((word) => word !== "").join(", ");
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
