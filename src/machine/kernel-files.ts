// Runs in a browser.
/** What programs look at under /sys to learn whether the kernel has VFIO and iommufd, as Linux 7.2 has it with both built in. */
import type { FileNode } from "../memory/index.ts";
import { relative } from "../pci/index.ts";

/** A character device of the class misc. */
export interface MiscDevice {
  readonly name: string;
  /** Below /dev. */
  readonly path: string;
  readonly minor: number;
  readonly mode: number;
}

/** Misc devices, all of this major number. */
export const MISC_MAJOR = 10;
const miscClass = "/sys/class/misc";

/** By module: its parameters, with their modes and defaults. Not among them: vfio_pci.enable_sriov, which works (vfio/sysfs.ts). */
const parameters = {
  iommufd: [["allow_unsafe_interrupts", 0o644, "N"]],
  vfio_pci: [
    ["disable_denylist", 0o444, "N"],
    ["disable_idle_d3", 0o644, "N"],
    ["nointxmask", 0o644, "N"],
  ],
} as const;

/** The class misc, as far as these devices are in it, and /sys/module. */
export function kernelNodes(devices: readonly MiscDevice[]): Map<string, FileNode> {
  const nodes = new Map<string, FileNode>();
  const text = (path: string, mode: number, content: string): void =>
    void nodes.set(path, { kind: "text", mode, read: () => content });
  const link = (path: string, target: string): void =>
    void nodes.set(path, { kind: "link", target: relative(path.slice(0, path.lastIndexOf("/")), target) });
  for (const { name, path, minor, mode } of devices) {
    const directory = `/sys/devices/virtual/misc/${name}`;
    const number = `${MISC_MAJOR}:${minor}`;
    text(`${directory}/dev`, 0o444, `${number}\n`);
    text(
      `${directory}/uevent`,
      0o644,
      `MAJOR=${MISC_MAJOR}\nMINOR=${minor}\nDEVNAME=${path}\nDEVMODE=0${mode.toString(8)}\n`,
    );
    link(`${directory}/subsystem`, miscClass);
    link(`${miscClass}/${name}`, directory);
    link(`/sys/dev/char/${number}`, directory);
  }
  text("/sys/module/vfio/version", 0o444, "0.3\n");
  for (const [module, list] of Object.entries(parameters)) {
    for (const [name, mode, value] of list) text(`/sys/module/${module}/parameters/${name}`, mode, `${value}\n`);
  }
  return nodes;
}
