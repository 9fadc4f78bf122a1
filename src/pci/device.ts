// Runs in a browser.
import type { System } from "../runtime/index.ts";
import { PciFunction, type PciIdentity } from "./function.ts";

/**
 * What a device model extends. It declares in the constructor what it is; it then has
 *
 * - `this.dma`: its way to memory, through whatever IOMMU is in between;
 * - `this.interrupt(vector)`: by MSI-X, MSI or INTx, as software chose; `this.clearInterrupt()` for the INTx case;
 * - `this.system.tasks.spawn(name, task)`: what it does by itself, such as a DMA;
 * - `reset()`, to be overridden: all its registers are to be as after power-on.
 *
 * docs/device-author-guide.md shows a complete one.
 */
export abstract class PciDevice extends PciFunction {
  protected readonly system: System;

  constructor(system: System, identity: PciIdentity) {
    super(identity);
    this.system = system;
  }

  /** Puts the device's own registers back. Configuration space is done already. */
  protected abstract override reset(): void;

  /** Wants attention, with one of the device's vectors. INTx stays raised until {@link clearInterrupt}. */
  protected interrupt(vector = 0): void {
    this.interrupts.raise(vector);
  }

  /** The reason for INTx is gone. No effect on messages. */
  protected clearInterrupt(): void {
    this.interrupts.lower();
  }
}
