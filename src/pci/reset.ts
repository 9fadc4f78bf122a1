// Runs in a browser.
import { Refusal, type Task } from "../runtime/index.ts";
import {
  ACS_CONTROL,
  AF_CAPABILITIES,
  AF_CONTROL,
  AF_FLR,
  AF_INITIATE_FLR,
  EXPRESS_CAPABILITIES,
  EXPRESS_CONTROL,
  EXPRESS_CONTROL_2,
  EXPRESS_FLR,
  EXPRESS_INITIATE_FLR,
  MSI_CONTROL,
  MSI_MASKABLE,
  MSI_WIDE,
  MSIX_CONTROL,
  msiLayout,
  PM_CONTROL,
  PM_NO_SOFT_RESET,
  PM_STATE,
  SR_IOV_BASE_ADDRESS_0,
  SR_IOV_CONTROL,
  SR_IOV_COUNT,
  SR_IOV_PAGE_SIZE,
} from "./capabilities.ts";
import type { PciFunction } from "./function.ts";
import {
  CAPABILITY_AF,
  CAPABILITY_EXPRESS,
  CAPABILITY_MSI,
  CAPABILITY_MSIX,
  CAPABILITY_PM,
  EXTENDED_ACS,
  EXTENDED_SR_IOV,
  HEADER_SIZE,
} from "./ids.ts";

/** A way to reset one function, by its name in `reset_method`. */
export type ResetMethod = "flr" | "af_flr" | "pm" | "bus";

/** What an operating system keeps of a function over a reset: the header, control registers, and enabled messages. */
export interface SavedState {
  readonly header: readonly number[];
  readonly controls: readonly (ControlRegister & { readonly value: number })[];
  readonly msixEntries: Uint32Array | undefined;
}

interface ControlRegister {
  readonly offset: number;
  readonly width: 2 | 4;
}

/** The ways that work, best first. A reset of the bus works only for the one function of a secondary bus. */
export function resetMethods(member: PciFunction): ResetMethod[] {
  const methods: ResetMethod[] = [];
  const express = member.capability(CAPABILITY_EXPRESS);
  if (express !== undefined && member.readConfig(express + EXPRESS_CAPABILITIES, 4) & EXPRESS_FLR) methods.push("flr");
  const advanced = member.capability(CAPABILITY_AF);
  if (advanced !== undefined && member.readConfig(advanced + AF_CAPABILITIES, 1) & AF_FLR) methods.push("af_flr");
  const power = member.capability(CAPABILITY_PM);
  if (power !== undefined && !(member.readConfig(power + PM_CONTROL, 2) & PM_NO_SOFT_RESET)) methods.push("pm");
  const { bus } = member.place!;
  const alone = bus.functions.every((other) => other === member || other.isVirtual);
  if (bus.bridge !== undefined && alone && !member.isVirtual) methods.push("bus");
  return methods;
}

/** Who must know of resets: a function that is being reset answers nothing, not even about its translations. */
export interface ResetWatch {
  /** A Refusal keeps the function from being reset. */
  prepare(member: PciFunction): Task<void>;
  /** The mirror image. Cannot fail. */
  done(member: PciFunction): Task<void>;
}

/**
 * Resets the function by the best way and puts its configuration back; false if there is none. A Refusal of who watches
 * resets: then it was not reset.
 */
export function* resetFunction(member: PciFunction): Task<boolean> {
  const [method] = resetMethods(member);
  if (method === undefined) return false;
  yield* keepingState([member], () => initiate(member, method));
  return true;
}

/** True if the function was reset: false if it has no way, or if who watches resets keeps it from being reset now. */
export function* tryResetFunction(member: PciFunction): Task<boolean> {
  try {
    return yield* resetFunction(member);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return false;
  }
}

/** Resets functions at one stroke, as their bus does it. Otherwise as {@link resetFunction}: all of them, or none. */
export function* resetTogether(members: readonly PciFunction[]): Task<void> {
  yield* keepingState(members, () => {
    for (const member of members) member.functionLevelReset();
  });
}

function* keepingState(members: readonly PciFunction[], reset: () => void): Task<void> {
  const states = members.map((member) => saveState(member));
  const prepared: PciFunction[] = [];
  try {
    for (const member of members) {
      const watch = watchOf(member);
      if (watch !== undefined) yield* watch.prepare(member);
      prepared.push(member);
    }
    reset();
  } finally {
    for (const member of prepared.reverse()) {
      const watch = watchOf(member);
      if (watch !== undefined) yield* watch.done(member);
    }
  }
  for (const [index, member] of members.entries()) restoreState(member, states[index]);
}

function watchOf(member: PciFunction): ResetWatch | undefined {
  return member.place!.bus.host.resetWatch;
}

export function saveState(member: PciFunction): SavedState {
  const header: number[] = [];
  for (let offset = 0; offset < HEADER_SIZE; offset += 4) header.push(member.readConfig(offset, 4));
  const controls = controlRegisters(member).map(({ offset, width }) => ({
    offset,
    width,
    value: member.readConfig(offset, width),
  }));
  return { header, controls, msixEntries: member.msixTable?.copyEntries() };
}

/** Writes back what differs, the command register after the BARs, and messages after what they need. */
export function restoreState(member: PciFunction, { header, controls, msixEntries }: SavedState): void {
  for (let index = header.length - 1; index >= 0; index--) {
    if (member.readConfig(index * 4, 4) !== header[index]) member.writeConfig(index * 4, 4, header[index]);
  }
  if (msixEntries) member.msixTable?.restoreEntries(msixEntries);
  for (const { offset, width, value } of controls) member.writeConfig(offset, width, value);
}

/** In the order in which they are to be written. */
function controlRegisters(member: PciFunction): ControlRegister[] {
  const registers: ControlRegister[] = [];
  const add = (offset: number, width: 2 | 4): void => void registers.push({ offset, width });
  const express = member.capability(CAPABILITY_EXPRESS);
  if (express !== undefined) {
    add(express + EXPRESS_CONTROL, 2);
    add(express + EXPRESS_CONTROL_2, 2);
  }
  const acs = member.extendedCapability(EXTENDED_ACS);
  if (acs !== undefined) add(acs + ACS_CONTROL, 2);
  const msi = member.capability(CAPABILITY_MSI);
  if (msi !== undefined) {
    const control = member.readConfig(msi + MSI_CONTROL, 2);
    const at = msiLayout(control);
    add(msi + 4, 4);
    if (control & MSI_WIDE) add(msi + 8, 4);
    add(msi + at.data, 2);
    if (control & MSI_MASKABLE) add(msi + at.mask, 4);
    add(msi + MSI_CONTROL, 2);
  }
  const msix = member.capability(CAPABILITY_MSIX);
  if (msix !== undefined) add(msix + MSIX_CONTROL, 2);
  const virtual = member.extendedCapability(EXTENDED_SR_IOV);
  if (virtual !== undefined) {
    for (let index = 0; index < 6; index++) add(virtual + SR_IOV_BASE_ADDRESS_0 + 4 * index, 4);
    add(virtual + SR_IOV_PAGE_SIZE, 4);
    add(virtual + SR_IOV_COUNT, 2);
    add(virtual + SR_IOV_CONTROL, 2);
  }
  return registers;
}

function initiate(member: PciFunction, method: ResetMethod): void {
  switch (method) {
    case "flr": {
      const control = member.capability(CAPABILITY_EXPRESS)! + EXPRESS_CONTROL;
      member.writeConfig(control, 2, member.readConfig(control, 2) | EXPRESS_INITIATE_FLR);
      break;
    }
    case "af_flr":
      member.writeConfig(member.capability(CAPABILITY_AF)! + AF_CONTROL, 1, AF_INITIATE_FLR);
      break;
    case "pm": {
      const control = member.capability(CAPABILITY_PM)! + PM_CONTROL;
      const value = member.readConfig(control, 2) & ~PM_STATE;
      member.writeConfig(control, 2, value | 3);
      member.writeConfig(control, 2, value);
      break;
    }
    case "bus":
      member.functionLevelReset();
      break;
  }
}
