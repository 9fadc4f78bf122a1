// Runs in a browser.
/** Resets that reach more than one function (reference 5.7): those of a whole secondary bus. */
import type { Process } from "../memory/index.ts";
import { type PciFunction, resetTogether } from "../pci/index.ts";
import { EINVAL, ENODEV, ENOSPC, refuse, type Task } from "../runtime/index.ts";
import {
  DEVID_NOT_OWNED,
  HOT_RESET_FLAG_DEV_ID,
  HOT_RESET_FLAG_DEV_ID_OWNED,
  PciDependentDevice,
  PciHotReset,
  PciHotResetInfo,
} from "../uapi/index.ts";
import { readArgument } from "./info.ts";

/** Who asks: whose functions share its reset, and how it proves that they are its own. */
export interface HotResetOwner {
  readonly member: PciFunction;
  /** By the iommufd that they are bound to, or by descriptors of their groups: as the device itself was opened. */
  readonly proof: "iommufd" | "group";
  /**
   * "iommufd": the id of a function's device object in the asker's context; 0 if only its group is owned; undefined if
   * neither. "group": the id of its group; EPERM if it has none.
   */
  idOf(member: PciFunction): number | undefined;
  /** Which functions are owned by who has these descriptors. EBADF, EINVAL: one of them is no group. */
  owned(process: Process, fds: readonly number[]): (member: PciFunction) => boolean;
}

/** The functions that a bus reset takes along, itself included. ENODEV on the root bus, which cannot be reset. */
function affected({ member }: HotResetOwner): readonly PciFunction[] {
  const { bus } = member.place!;
  if (bus.bridge === undefined) refuse(ENODEV, () => `${member.name} is on a root bus, which cannot be reset`);
  return bus.functions;
}

/** GET_PCI_HOT_RESET_INFO. */
export function hotResetInfo(process: Process, argument: number, owner: HotResetOwner): void {
  const info = readArgument(process, argument, new PciHotResetInfo(), PciHotResetInfo.size);
  const members = affected(owner);
  const fits = info.argsz >= PciHotResetInfo.size + members.length * PciDependentDevice.size;
  info.flags = 0;
  info.count = members.length;
  if (!fits) {
    process.memory.write(argument, info.$bytes);
    refuse(ENOSPC, () => `argsz ${info.argsz} has no room for ${members.length} devices`);
  }
  if (owner.proof === "iommufd") info.flags = HOT_RESET_FLAG_DEV_ID | HOT_RESET_FLAG_DEV_ID_OWNED;
  const entries = new Uint8Array(members.length * PciDependentDevice.size);
  for (const [index, member] of members.entries()) {
    const entry = new PciDependentDevice(entries.subarray(index * PciDependentDevice.size));
    const id = owner.idOf(member);
    if (id === undefined) info.flags &= ~HOT_RESET_FLAG_DEV_ID_OWNED;
    entry.devid = id ?? DEVID_NOT_OWNED;
    entry.segment = member.place!.bus.host.segment;
    entry.bus = member.place!.bus.number;
    entry.devfn = member.devfn;
  }
  process.memory.write(argument + PciHotResetInfo.size, entries);
  process.memory.write(argument, info.$bytes);
}

/** PCI_HOT_RESET: every function on the bus must be owned. */
export function* hotReset(process: Process, argument: number, owner: HotResetOwner): Task<void> {
  const { flags, count } = readArgument(process, argument, new PciHotReset(), PciHotReset.size);
  if (flags !== 0) refuse(EINVAL, () => `flags 0x${flags.toString(16)} has unknown bits`);
  if (owner.proof === "iommufd" && count !== 0) {
    refuse(EINVAL, () => "a device cdev proves ownership by its iommufd, not by group descriptors");
  }
  if (owner.proof === "group" && count === 0) {
    refuse(EINVAL, () => "a device that was opened through its group proves ownership by group descriptors");
  }
  const members = affected(owner);
  if (count > members.length) refuse(EINVAL, () => `${count} groups for ${members.length} devices`);
  const bytes = new Uint8Array(4 * count);
  process.memory.read(argument + PciHotReset.size, bytes);
  const view = new DataView(bytes.buffer);
  const fds = Array.from({ length: count }, (_, index) => view.getInt32(4 * index, true));
  const isOwned = owner.owned(process, fds);
  const foreign = members.find((member) => !isOwned(member));
  if (foreign) refuse(EINVAL, () => `${foreign.name} shares the reset and is not owned`);
  yield* resetTogether(members);
}
