// Runs in a browser.
/** What sysfs shows of SR-IOV: files of a physical function, and links between it and its virtual ones. */
import type { FileNode } from "../memory/index.ts";
import { EINVAL, EOPNOTSUPP, refuse, type Task } from "../runtime/index.ts";
import type { PciFunction } from "./function.ts";
import type { HotPlug } from "./hot-plug.ts";
import type { VirtualFunctions } from "./sr-iov.ts";
import { text } from "./sysfs-files.ts";
import { command, line } from "./sysfs-stores.ts";

type Add = (name: string, node: FileNode) => void;

/** All that is in the directory of `member`; nothing for a function without SR-IOV. */
export function addVirtualFunctions(add: Add, member: PciFunction, hotPlug: HotPlug): void {
  if (member.virtualFunctions !== undefined) addPhysical(add, member.virtualFunctions, hotPlug);
  if (member.virtual === undefined) return;
  add("physfn", { kind: "link", target: `../${member.virtual.of.physical.name}` });
  add("sriov_vf_msix_count", command(0o200, refuseVectors));
}

function addPhysical(add: Add, virtual: VirtualFunctions, hotPlug: HotPlug): void {
  const { physical, functions, ids } = virtual;
  const show = (name: string, value: string): void =>
    add(
      name,
      text(() => `${value}\n`),
    );
  show("sriov_totalvfs", `${functions.length}`);
  show("sriov_offset", `${ids.offset}`);
  show("sriov_stride", `${ids.stride}`);
  show("sriov_vf_device", ids.device.toString(16));
  // No driver here gives vectors from one virtual function to another.
  show("sriov_vf_total_msix", "0");
  add("sriov_numvfs", {
    kind: "text",
    mode: 0o644,
    read: () => `${virtual.known}\n`,
    write: (_process, bytes) => hotPlug.setVirtualFunctions(physical, parseCount(line(bytes))),
  });
  add("sriov_drivers_autoprobe", {
    kind: "text",
    mode: 0o644,
    read: () => `${virtual.bindsDrivers ? 1 : 0}\n`,
    write: function* (_process, bytes): Task<void> {
      yield* physical.place!.bus.host.system.tasks.point();
      virtual.bindsDrivers = parseBoolean(line(bytes));
    },
  });
  for (const [index, { name }] of virtual.present.entries()) {
    add(`virtfn${index}`, { kind: "link", target: `../${name}` });
  }
}

function* refuseVectors(argument: string): Task<void> {
  parseCount(argument);
  refuse(EOPNOTSUPP, () => "no driver here gives vectors from one virtual function to another");
}

/** A number of 16 bits as Linux's kstrtou16 takes it: also hexadecimal, and octal behind a 0. EINVAL for all else. */
function parseCount(argument: string): number {
  if (/^\+?(?:0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*)$/i.test(argument)) {
    const digits = argument.replace("+", "");
    const value = /^0[0-7]/.test(digits) ? Number.parseInt(digits, 8) : Number(digits);
    if (value <= 0xffff) return value;
  }
  return refuse(EINVAL, () => `"${argument}" is no number from 0 to 65535`);
}

/** EINVAL for what is neither yes nor no, as Linux's kstrtobool takes them. */
export function parseBoolean(argument: string): boolean {
  if (/^(?:[y1t]|on)/i.test(argument)) return true;
  if (/^(?:[n0f]|of)/i.test(argument)) return false;
  return refuse(EINVAL, () => `"${argument}" is neither 1 nor 0`);
}
