// Runs in a browser.
/** What clients see of accelerators under /dev and /sys (reference 9.3). */
import type { FileNode } from "../memory/index.ts";
import { devicePath, relative } from "../pci/index.ts";
import type { UacceDevice } from "./device.ts";
import type { UacceDriver } from "./driver.ts";

/** The character device region of accelerators. */
const MAJOR = 509;
const classPath = "/sys/class/uacce";
/** `flags`: the process's own addresses. */
const FLAG_SVA = 1;

/** The directory of an accelerator, below that of its PCI function. */
export function uaccePath({ member, name }: UacceDevice): string {
  return `${devicePath(member)}/uacce/${name}`;
}

/** As things stand: /dev/NAME-N, /sys/class/uacce/NAME-N and what that leads to. */
export function uacceNodes(driver: UacceDriver): Map<string, FileNode> {
  const nodes = new Map<string, FileNode>();
  if (driver.devices.length > 0) nodes.set(classPath, { kind: "directory" });
  for (const uacce of driver.devices) addDevice(nodes, uacce);
  return nodes;
}

function addDevice(nodes: Map<string, FileNode>, uacce: UacceDevice): void {
  const { name, number, accelerator } = uacce;
  const path = uaccePath(uacce);
  const text = (attribute: string, read: () => string, mode = 0o444): void => {
    nodes.set(`${path}/${attribute}`, { kind: "text", mode, read: () => `${read()}\n` });
  };
  nodes.set(`/dev/${name}`, {
    kind: "device",
    major: MAJOR,
    minor: number,
    mode: 0o600,
    open: (process) => uacce.open(process),
  });
  nodes.set(`${classPath}/${name}`, { kind: "link", target: relative(classPath, path) });
  nodes.set(`${path}/device`, { kind: "link", target: relative(path, devicePath(uacce.member)) });
  nodes.set(`${path}/subsystem`, { kind: "link", target: relative(path, classPath) });
  text("dev", () => `${MAJOR}:${number}`);
  text("uevent", () => `MAJOR=${MAJOR}\nMINOR=${number}\nDEVNAME=${name}`, 0o644);
  text("api", () => accelerator.api);
  text("flags", () => `${FLAG_SVA}`);
  text("available_instances", () => `${accelerator.availableInstances}`);
  text("algorithms", () => accelerator.algorithms.join("\n"));
  text("region_mmio_size", () => `${accelerator.regionSizes.mmio}`);
  text("region_dus_size", () => `${accelerator.regionSizes.dus}`);
}
