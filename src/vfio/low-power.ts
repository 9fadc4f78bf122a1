// Runs in a browser.
import type { EventFd } from "../memory/index.ts";
import { EINVAL, refuse } from "../runtime/index.ts";

/**
 * Whether a client allows its device low power (reference 5.7, features 3 to 5). The machine never takes that up, as a
 * Linux without runtime power management does not: the device stays awake, and nobody has to be told that it woke.
 */
export class LowPower {
  private allowed = false;
  private wakeup: EventFd | undefined;

  /** EINVAL if low power is allowed already. */
  enter(wakeup?: EventFd): void {
    if (this.allowed) {
      wakeup?.release();
      refuse(EINVAL, () => "the device is in low power already");
    }
    this.allowed = true;
    this.wakeup = wakeup;
  }

  exit(): void {
    this.wakeup?.release();
    this.wakeup = undefined;
    this.allowed = false;
  }
}
