// Runs in a browser.
import type { EventFd } from "../memory/index.ts";
import { EINVAL, refuse } from "../runtime/index.ts";

/** Whether a client put its device into low power, and who is told when it wakes (reference 5.7, features 3 to 5). */
export class LowPower {
  private asleep = false;
  private wakeup: EventFd | undefined;

  /** EINVAL if it is in low power already. */
  enter(wakeup?: EventFd): void {
    if (this.asleep) {
      wakeup?.release();
      refuse(EINVAL, () => "the device is in low power already");
    }
    this.asleep = true;
    this.wakeup = wakeup;
  }

  /** The client uses the device. With a wakeup eventfd that ends low power; without one it sleeps again afterwards. */
  touch(): void {
    if (this.wakeup === undefined) return;
    this.wakeup.signal();
    this.exit();
  }

  exit(): void {
    this.wakeup?.release();
    this.wakeup = undefined;
    this.asleep = false;
  }
}
