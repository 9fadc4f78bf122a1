// Runs in a browser.
import type { EventFd } from "../memory/index.ts";
import { COMMAND, COMMAND_INTX_DISABLE, type PciFunction } from "../pci/index.ts";
import { EBUSY, ENODEV, refuse } from "../runtime/index.ts";

/**
 * The INTx interrupt of a device in a client's hands. Each delivery masks it, by the function's own INTx-disable bit,
 * until the client unmasks it; a line that still stands then is delivered again.
 */
export class IntxInterrupt {
  private readonly member: PciFunction;
  private trigger: EventFd | undefined;
  private masked: boolean;
  private unmaskEvent: EventFd | undefined;
  private stopWatching: (() => void) | undefined;

  /** ENODEV if the machine routes no interrupt to the function. */
  constructor(member: PciFunction, trigger: EventFd | undefined, masked: boolean) {
    if (member.interruptLine === 0) refuse(ENODEV, () => `${member.name} has no interrupt line`);
    this.member = member;
    this.trigger = trigger;
    this.masked = masked;
    this.disableLine(masked);
    member.interrupts.onLine(() => this.delivered());
  }

  /** Another eventfd, or none. */
  setTrigger(trigger: EventFd | undefined): void {
    this.trigger?.release();
    this.trigger = trigger;
  }

  /** Tells the client as if the device had interrupted. */
  signal(): void {
    this.trigger?.signal();
  }

  mask(): void {
    this.masked = true;
    this.disableLine(true);
  }

  unmask(): void {
    this.masked = false;
    this.disableLine(false);
  }

  /** From now on a signal of `event` is a request to unmask. EBUSY if there is such an eventfd already. */
  unmaskOn(event: EventFd, requested: () => void): void {
    if (this.unmaskEvent) {
      event.release();
      refuse(EBUSY, () => `${this.member.name} has an eventfd that unmasks INTx already`);
    }
    this.unmaskEvent = event;
    this.stopWatching = event.watch?.(requested);
  }

  stopUnmasking(): void {
    this.stopWatching?.();
    this.unmaskEvent?.release();
    this.stopWatching = this.unmaskEvent = undefined;
  }

  free(): void {
    this.member.interrupts.onLine(undefined);
    this.stopUnmasking();
    this.setTrigger(undefined);
  }

  private delivered(): void {
    if (this.masked) return;
    this.mask();
    this.signal();
  }

  private disableLine(disabled: boolean): void {
    const command = this.member.readConfig(COMMAND, 2) & ~COMMAND_INTX_DISABLE;
    this.member.writeConfig(COMMAND, 2, disabled ? command | COMMAND_INTX_DISABLE : command);
  }
}
