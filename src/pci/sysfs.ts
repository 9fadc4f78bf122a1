// Runs in a browser.
/** What clients see of PCI under /sys, in the formats of reference 5.1. */
import type { FileNode } from "../memory/index.ts";
import type { Task } from "../runtime/index.ts";
import type { AddressWindow } from "./address-window.ts";
import { usesAri } from "./ari.ts";
import { PlacedBar } from "./bar.ts";
import type { PciBus } from "./bus.ts";
import type { PciDriver } from "./drivers.ts";
import type { PciFunction } from "./function.ts";
import type { PciHost } from "./host.ts";
import type { HotPlug } from "./hot-plug.ts";
import { CLASS_CODE, REVISION_ID, SUBSYSTEM_ID, SUBSYSTEM_VENDOR_ID } from "./ids.ts";
import { resetFunction, resetMethods } from "./reset.ts";
import { idsOf } from "./sr-iov.ts";
import { addVirtualFunctions } from "./sr-iov-sysfs.ts";
import { relative, text } from "./sysfs-files.ts";
import { linkTexts } from "./sysfs-link.ts";
import { command, configNode, enableNode, line, number, ueventNode } from "./sysfs-stores.ts";

const busPath = "/sys/bus/pci";

/** The directory of a function: `/sys/devices/pci0000:00/0000:00:01.0`. */
export function devicePath(member: PciFunction): string {
  const { bus } = member.place!;
  if (bus.bridge !== undefined) return `${devicePath(bus.bridge)}/${member.name}`;
  const segment = bus.host.segment.toString(16).padStart(4, "0");
  return `/sys/devices/pci${segment}:${bus.number.toString(16).padStart(2, "0")}/${member.name}`;
}

/**
 * All nodes below /sys/devices/pci… and /sys/bus/pci, as things stand: make them anew when functions come, go, or change
 * their driver (PciDrivers.listen, HotPlug.listen).
 */
export function pciNodes(host: PciHost, hotPlug?: HotPlug): Map<string, FileNode> {
  const nodes = new Map<string, FileNode>();
  nodes.set(`${busPath}/devices`, { kind: "directory" });
  nodes.set(`${busPath}/drivers`, { kind: "directory" });
  nodes.set(`${busPath}/slots`, { kind: "directory" });
  nodes.set(
    `${busPath}/drivers_autoprobe`,
    text(() => "1\n", 0o644),
  );
  nodes.set(
    `${busPath}/drivers_probe`,
    command(0o200, (name) => host.drivers.probeByName(name)),
  );
  if (hotPlug !== undefined) {
    nodes.set(
      `${busPath}/rescan`,
      command(0o200, (text) => ifWanted(text, () => hotPlug.rescan())),
    );
  }
  for (const member of host.functions) addFunction(nodes, member, hotPlug);
  for (const driver of host.drivers.all) addDriver(nodes, host, driver);
  return nodes;
}

function addFunction(nodes: Map<string, FileNode>, member: PciFunction, hotPlug: HotPlug | undefined): void {
  const path = devicePath(member);
  const add = (name: string, node: FileNode): void => void nodes.set(`${path}/${name}`, node);
  const hex = (digits: number, value: number): string => `0x${value.toString(16).padStart(digits, "0")}\n`;
  nodes.set(`${busPath}/devices/${member.name}`, { kind: "link", target: relative(`${busPath}/devices`, path) });
  add(
    "vendor",
    text(() => hex(4, idsOf(member).vendor)),
  );
  add(
    "device",
    text(() => hex(4, idsOf(member).device)),
  );
  add(
    "subsystem_vendor",
    text(() => hex(4, subsystemOf(member).vendor)),
  );
  add(
    "subsystem_device",
    text(() => hex(4, subsystemOf(member).device)),
  );
  add(
    "revision",
    text(() => hex(2, member.readConfig(REVISION_ID, 1))),
  );
  add(
    "class",
    text(() => hex(6, classCode(member))),
  );
  add(
    "resource",
    text(() => resources(member)),
  );
  add("config", configNode(member));
  add(
    "irq",
    text(() => `${member.interruptLine}\n`),
  );
  add(
    "numa_node",
    text(() => "-1\n", 0o644),
  );
  add("enable", enableNode(member));
  add(
    "broken_parity_status",
    text(() => "0\n", 0o644),
  );
  for (const name of ["dma_mask_bits", "consistent_dma_mask_bits"]) {
    add(
      name,
      text(() => "32\n"),
    );
  }
  for (const name of Object.keys(linkTexts(member))) {
    add(
      name,
      text(() => `${linkTexts(member)[name]}\n`),
    );
  }
  add(
    "msi_bus",
    text(() => "1\n", 0o644),
  );
  add(
    "power_state",
    text(() => `${["D0", "D1", "D2", "D3hot"][member.powerState]}\n`),
  );
  add(
    "modalias",
    text(() => `${modalias(member)}\n`),
  );
  add(
    "ari_enabled",
    text(() => `${usesAri(member) ? 1 : 0}\n`),
  );
  add(
    "uevent",
    ueventNode(0o644, () => uevent(member)),
  );
  add("driver_override", {
    kind: "text",
    mode: 0o644,
    read: () => `${member.driverOverride ?? "(null)"}\n`,
    write: function* (_process, bytes): Task<void> {
      yield* member.place!.bus.host.system.tasks.point();
      member.driverOverride = line(bytes) || undefined;
    },
  });
  const behind = member.place!.bus.host.buses.find(({ bridge }) => bridge === member);
  if (behind !== undefined) addSecondaryBus(add, behind);
  add("subsystem", { kind: "link", target: relative(path, busPath) });
  if (hotPlug !== undefined) {
    addVirtualFunctions(add, member, hotPlug);
    if (!member.isVirtual) addHotPlug(add, member, hotPlug);
  }
  if (member.driver && !member.isLeavingDriver)
    add("driver", { kind: "link", target: relative(path, driverPath(member.driver)) });
  if (resetMethods(member).length > 0) {
    add("reset", command(0o200, resetNow(member)));
    add(
      "reset_method",
      text(() => `${resetMethods(member).join(" ")}\n`, 0o644),
    );
  }
}

/** Whoever asked for its removal needs not ask again: the file is gone. */
function addHotPlug(add: (name: string, node: FileNode) => void, member: PciFunction, hotPlug: HotPlug): void {
  add(
    "rescan",
    command(0o200, (text) => ifWanted(text, () => hotPlug.rescan(member.place!.bus))),
  );
  if (hotPlug.isLeaving(member)) return;
  add(
    "remove",
    command(0o220, (text) => ifWanted(text, () => hotPlug.remove(member))),
  );
}

/** A number asks for something unless it is 0. EINVAL for what is none. */
function* ifWanted(text: string, act: () => Task<void>): Task<void> {
  if (number(text) !== 0) yield* act();
}

/** Of a bridge: the buses behind it, in decimal. */
function addSecondaryBus(add: (name: string, node: FileNode) => void, behind: PciBus): void {
  add(
    "secondary_bus_number",
    text(() => `${behind.number}\n`),
  );
  add(
    "subordinate_bus_number",
    text(() => `${behind.last}\n`),
  );
}

function addDriver(nodes: Map<string, FileNode>, host: PciHost, driver: PciDriver): void {
  const path = driverPath(driver);
  nodes.set(
    `${path}/bind`,
    command(0o200, (name) => host.drivers.bindByName(name, driver)),
  );
  nodes.set(
    `${path}/unbind`,
    command(0o200, (name) => host.drivers.unbindByName(name, driver)),
  );
  nodes.set(
    `${path}/new_id`,
    command(0o200, (id) => host.drivers.addId(id, driver)),
  );
  nodes.set(
    `${path}/remove_id`,
    command(0o200, (id) => host.drivers.removeId(id, driver)),
  );
  nodes.set(
    `${path}/uevent`,
    ueventNode(0o200, () => ""),
  );
  for (const member of host.functions) {
    if (member.driver !== driver || member.isLeavingDriver) continue;
    nodes.set(`${path}/${member.name}`, { kind: "link", target: relative(path, devicePath(member)) });
  }
}

function driverPath(driver: PciDriver): string {
  return `${busPath}/drivers/${driver.name}`;
}

function resetNow(member: PciFunction): (argument: string) => Task<void> {
  return function* (argument) {
    yield* member.place!.bus.host.system.tasks.point();
    if (argument === "1") yield* resetFunction(member);
  };
}

function classCode(member: PciFunction): number {
  return member.readConfig(CLASS_CODE, 1) + member.readConfig(CLASS_CODE + 1, 2) * 256;
}

/** Linux's resource flags: I/O or memory, alignment to the size, and the register's own type bits. */
const RESOURCE_IO = 0x100;
const RESOURCE_MEMORY = 0x200;
const RESOURCE_PREFETCH = 0x2000;
const RESOURCE_SIZE_ALIGN = 0x40000;
const RESOURCE_MEMORY_64 = 0x100000;
/** Of the lines: six BARs and the ROM come before. */
const FIRST_VIRTUAL_BAR = 7;
/** Prefetchable memory of 64 bits; the register of a bridge says so in its lowest bit. */
const RESOURCE_WIDE_WINDOW = RESOURCE_MEMORY_64 + RESOURCE_PREFETCH + RESOURCE_MEMORY + 1;

/** 13 lines: six BARs, the ROM, and six BARs of virtual functions. Four more of a bridge: the windows of the bus behind it. */
function resources(member: PciFunction): string {
  const hex = (value: number): string => `0x${value.toString(16).padStart(16, "0")}`;
  const none = `${hex(0)} ${hex(0)} ${hex(0)}\n`;
  const lines: string[] = [];
  for (let index = 0; index < 13; index++) {
    const bar = member.bars[index] ?? member.virtualFunctions?.bars[index - FIRST_VIRTUAL_BAR];
    if (bar === undefined) {
      lines.push(none);
      continue;
    }
    let flags = bar.typeBits + RESOURCE_SIZE_ALIGN + (bar.kind === "io" ? RESOURCE_IO : RESOURCE_MEMORY);
    if (bar.kind === "memory64") flags += RESOURCE_MEMORY_64;
    if (bar.description.prefetchable) flags += RESOURCE_PREFETCH;
    const extent = bar instanceof PlacedBar ? bar.extent : bar.size;
    lines.push(`${hex(bar.address)} ${hex(bar.address + extent - 1)} ${hex(flags)}\n`);
  }
  const windows = member.place!.bus.host.buses.find(({ bridge }) => bridge === member)?.windows;
  if (windows !== undefined) {
    const window = ({ start, end, size }: AddressWindow, flags: number): string =>
      size === 0 ? none : `${hex(start)} ${hex(end - 1)} ${hex(flags)}\n`;
    const { io, memory32, memory64 } = windows;
    lines.push(
      window(io, RESOURCE_IO),
      window(memory32, RESOURCE_MEMORY),
      window(memory64, RESOURCE_WIDE_WINDOW),
      none,
    );
  }
  return lines.join("");
}

/** A bridge has its subsystem, if any, in a capability. */
function subsystemOf(member: PciFunction): { readonly vendor: number; readonly device: number } {
  if (member.isBridge) return { vendor: 0, device: 0 };
  return { vendor: member.readConfig(SUBSYSTEM_VENDOR_ID, 2), device: member.readConfig(SUBSYSTEM_ID, 2) };
}

function modalias(member: PciFunction): string {
  const hex = (digits: number, value: number): string => value.toString(16).toUpperCase().padStart(digits, "0");
  const code = classCode(member);
  return [
    `pci:v${hex(8, idsOf(member).vendor)}`,
    `d${hex(8, idsOf(member).device)}`,
    `sv${hex(8, subsystemOf(member).vendor)}`,
    `sd${hex(8, subsystemOf(member).device)}`,
    `bc${hex(2, code >>> 16)}sc${hex(2, (code >>> 8) & 0xff)}i${hex(2, code & 0xff)}`,
  ].join("");
}

function uevent(member: PciFunction): string {
  const hex = (value: number): string => value.toString(16).toUpperCase().padStart(4, "0");
  const subsystem = subsystemOf(member);
  return [
    ...(member.driver && !member.isLeavingDriver ? [`DRIVER=${member.driver.name}`] : []),
    `PCI_CLASS=${classCode(member).toString(16).toUpperCase()}`,
    `PCI_ID=${hex(idsOf(member).vendor)}:${hex(idsOf(member).device)}`,
    `PCI_SUBSYS_ID=${hex(subsystem.vendor)}:${hex(subsystem.device)}`,
    `PCI_SLOT_NAME=${member.name}`,
    `MODALIAS=${modalias(member)}`,
    "",
  ].join("\n");
}
