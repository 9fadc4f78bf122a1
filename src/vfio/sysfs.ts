// Runs in a browser.
/** What clients see of VFIO devices under /dev and /sys (reference 5.1). */
import type { FileNode } from "../memory/index.ts";
import { devicePath, parseBoolean, relative } from "../pci/index.ts";
import type { Task } from "../runtime/index.ts";
import type { VfioPciDriver } from "./driver.ts";
import type { VfioGroup } from "./group.ts";

/** The character device regions of VFIO devices and of groups; their number is the minor. */
const MAJOR = 511;
const GROUP_MAJOR = 510;
const classPath = "/sys/class/vfio-dev";
const groupClassPath = "/sys/class/vfio";

/**
 * As things stand: /dev/vfio/devices/vfioN, /sys/class/vfio-dev/vfioN and `vfio-dev/vfioN` in the directory of each device;
 * /dev/vfio/GROUP and /sys/class/vfio/GROUP of each group; the parameter of the driver.
 */
export function vfioNodes(driver: VfioPciDriver): Map<string, FileNode> {
  const nodes = new Map<string, FileNode>();
  nodes.set("/dev/vfio/devices", { kind: "directory" });
  nodes.set(classPath, { kind: "directory" });
  for (const vfio of driver.devices) {
    if (vfio.member.isLeavingDriver) continue;
    const parent = devicePath(vfio.member);
    const path = `${parent}/vfio-dev/${vfio.name}`;
    const text = (read: () => string, mode: number): FileNode => ({ kind: "text", read, mode });
    nodes.set(`/dev/vfio/devices/${vfio.name}`, {
      kind: "device",
      major: MAJOR,
      minor: vfio.number,
      mode: 0o600,
      open: (process) => vfio.open(process),
    });
    nodes.set(`/sys/dev/char/${MAJOR}:${vfio.number}`, { kind: "link", target: relative("/sys/dev/char", path) });
    nodes.set(`${classPath}/${vfio.name}`, { kind: "link", target: relative(classPath, path) });
    nodes.set(
      `${path}/dev`,
      text(() => `${MAJOR}:${vfio.number}\n`, 0o444),
    );
    nodes.set(
      `${path}/uevent`,
      text(() => `MAJOR=${MAJOR}\nMINOR=${vfio.number}\nDEVNAME=vfio/devices/${vfio.name}\n`, 0o644),
    );
    nodes.set(`${path}/device`, { kind: "link", target: relative(path, parent) });
    nodes.set(`${path}/subsystem`, { kind: "link", target: relative(path, classPath) });
  }
  nodes.set("/sys/module/vfio_pci/parameters/enable_sriov", {
    kind: "text",
    mode: 0o644,
    read: () => `${driver.enablesVirtualFunctions ? "Y" : "N"}\n`,
    write: function* (_process, bytes): Task<void> {
      driver.enablesVirtualFunctions = parseBoolean(new TextDecoder().decode(bytes));
    },
  });
  nodes.set(groupClassPath, { kind: "directory" });
  for (const group of driver.groups) addGroup(nodes, group);
  return nodes;
}

/** /dev/vfio/GROUP, /sys/class/vfio/GROUP and where that leads. */
function addGroup(nodes: Map<string, FileNode>, group: VfioGroup): void {
  const { name, number } = group;
  const path = `/sys/devices/virtual/vfio/${name}`;
  nodes.set(`/dev/vfio/${name}`, {
    kind: "device",
    major: GROUP_MAJOR,
    minor: number,
    mode: 0o600,
    open: (process) => group.open(process),
  });
  nodes.set(`/sys/dev/char/${GROUP_MAJOR}:${number}`, { kind: "link", target: relative("/sys/dev/char", path) });
  nodes.set(`${groupClassPath}/${name}`, { kind: "link", target: relative(groupClassPath, path) });
  nodes.set(`${path}/dev`, { kind: "text", mode: 0o444, read: () => `${GROUP_MAJOR}:${number}\n` });
  nodes.set(`${path}/uevent`, {
    kind: "text",
    mode: 0o644,
    read: () => `MAJOR=${GROUP_MAJOR}\nMINOR=${number}\nDEVNAME=vfio/${name}\n`,
  });
  nodes.set(`${path}/subsystem`, { kind: "link", target: relative(path, groupClassPath) });
}
