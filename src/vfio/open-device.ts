// Runs in a browser.
import type { Process } from "../memory/index.ts";
import {
  COMMAND,
  COMMAND_MASTER,
  type PciFunction,
  resetFunction,
  restoreState,
  type SavedState,
  saveState,
  tryResetFunction,
} from "../pci/index.ts";
import { EINVAL, refuse, type System, type Task } from "../runtime/index.ts";
import type { VfioDevice } from "./device.ts";
import { deviceFeature } from "./features.ts";
import { deviceInfo, irqInfo, regionInfo } from "./info.ts";
import { DeviceInterrupts } from "./interrupts.ts";
import { IoEventFds } from "./io-event-fds.ts";
import { LowPower } from "./low-power.ts";
import { accessRegion, type Direction } from "./regions.ts";
import { VirtualConfig } from "./virtual-config.ts";

/** Takes a function for a client: no bus mastering, reset if it can be, configuration as it is then. Refusal ENOMEM. */
export function* openDevice(system: System, member: PciFunction): Task<OpenDevice> {
  system.failures.point("vfio.device.open");
  stopMastering(member);
  member.enableCount++;
  return new OpenDevice(system, member, yield* tryResetFunction(member));
}

/**
 * A PCI function in a client's hands: from a successful bind until its file is closed. What the function was before is
 * kept, and put back by {@link OpenDevice.close}.
 */
export class OpenDevice {
  readonly member: PciFunction;
  readonly config: VirtualConfig;
  readonly interrupts: DeviceInterrupts;
  private readonly system: System;
  private readonly ioEventFds: IoEventFds;
  private readonly lowPower = new LowPower();
  private readonly canReset: boolean;
  private readonly saved: SavedState;

  /** A function as {@link openDevice} takes it. */
  constructor(system: System, member: PciFunction, canReset: boolean) {
    this.system = system;
    this.member = member;
    this.canReset = canReset;
    this.saved = saveState(member);
    this.interrupts = new DeviceInterrupts(system, member, () => this.config);
    this.config = new VirtualConfig(member, this.interrupts);
    this.ioEventFds = new IoEventFds(member, this.config);
  }

  /** Gives the function back: silent, reset if it can be, configured as before. Cannot fail. */
  *close(): Task<void> {
    this.lowPower.exit();
    this.ioEventFds.free();
    this.interrupts.free();
    stopMastering(this.member);
    restoreState(this.member, this.saved);
    yield* tryResetFunction(this.member);
    stopMastering(this.member);
    this.member.enableCount--;
  }

  getInfo(process: Process, argument: number): void {
    deviceInfo(process, argument, this.canReset);
  }

  getRegionInfo(process: Process, argument: number): void {
    regionInfo(process, argument, this.member);
  }

  getIrqInfo(process: Process, argument: number): void {
    irqInfo(process, argument, this.member, this.interrupts);
  }

  setIrqs(process: Process, argument: number): number {
    return this.interrupts.set(process, argument);
  }

  setIoEventFd(process: Process, argument: number): void {
    this.ioEventFds.set(process, argument);
  }

  /** EINVAL if the function has no way to be reset alone. Otherwise what keeps it from being reset now. */
  *reset(): Task<void> {
    if (!this.canReset) refuse(EINVAL, () => `${this.member.name} has no working reset of its own`);
    yield* resetFunction(this.member);
  }

  feature(device: VfioDevice, process: Process, argument: number): void {
    deviceFeature({ device, lowPower: this.lowPower }, process, argument);
  }

  *access(position: number, bytes: Uint8Array, direction: Direction): Task<number> {
    return yield* accessRegion(this.system, this.member, this.config, position, bytes, direction);
  }
}

function stopMastering(member: PciFunction): void {
  const command = member.readConfig(COMMAND, 2);
  member.writeConfig(COMMAND, 2, command & ~COMMAND_MASTER);
}
