// Runs in a browser.
import {
  MSI_CONTROL,
  MSI_ENABLE,
  MSI_MASKABLE,
  MSI_WIDE,
  MSIX_CONTROL,
  MSIX_ENABLE,
  MSIX_MASK_ALL,
  msiLayout,
} from "./capabilities.ts";
import type { ConfigSpace } from "./config-space.ts";
import type { Message } from "./dma.ts";
import { COMMAND, COMMAND_INTX_DISABLE, STATUS, STATUS_INTERRUPT } from "./ids.ts";
import type { MsixTable } from "./msix-table.ts";

/**
 * How one function interrupts: by MSI-X or MSI if software enabled one of them, else by its INTx line.
 *
 * Always true: the line is raised exactly while the status register's interrupt bit is set, INTx is not disabled and
 * neither MSI nor MSI-X is enabled. May be false for a moment: between a write to configuration space and {@link settle}.
 */
export class FunctionInterrupts {
  private readonly config: ConfigSpace;
  private readonly msi: number | undefined;
  private readonly msix: number | undefined;
  private readonly table: MsixTable | undefined;
  private readonly send: (message: Message) => void;
  private lineHandler: (() => void) | undefined;
  private lineRaised = false;

  constructor(options: {
    config: ConfigSpace;
    msi: number | undefined;
    msix: number | undefined;
    table: MsixTable | undefined;
    send: (message: Message) => void;
  }) {
    this.config = options.config;
    this.msi = options.msi;
    this.msix = options.msix;
    this.table = options.table;
    this.send = options.send;
  }

  get msixEnabled(): boolean {
    return this.msix !== undefined && (this.config.read(this.msix + MSIX_CONTROL, 2) & MSIX_ENABLE) !== 0;
  }

  get msiEnabled(): boolean {
    return this.msi !== undefined && (this.config.read(this.msi + MSI_CONTROL, 2) & MSI_ENABLE) !== 0;
  }

  /** The function wants attention: a message, or the line until {@link lower}. */
  raise(vector: number): void {
    if (this.msixEnabled) this.raiseMsix(vector);
    else if (this.msiEnabled) this.raiseMsi(vector);
    else this.setPendingLine(true);
  }

  /** The function's reason for its INTx line is gone. */
  lower(): void {
    this.setPendingLine(false);
  }

  /** Who is called each time the line goes up, or stands up when somebody begins to listen; undefined for nobody. */
  onLine(handler: (() => void) | undefined): void {
    this.lineHandler = handler;
    this.lineRaised = false;
    this.settle();
  }

  /** Software changed an enable or mask bit: sends what became free, raises or lowers the line. */
  settle(): void {
    this.sendPending();
    const raised =
      (this.config.read(STATUS, 2) & STATUS_INTERRUPT) !== 0 &&
      (this.config.read(COMMAND, 2) & COMMAND_INTX_DISABLE) === 0 &&
      !this.msiEnabled &&
      !this.msixEnabled;
    const rose = raised && !this.lineRaised;
    this.lineRaised = raised;
    if (rose) this.lineHandler?.();
  }

  private setPendingLine(pending: boolean): void {
    const status = this.config.read(STATUS, 2) & ~STATUS_INTERRUPT;
    this.config.set(STATUS, 2, pending ? status | STATUS_INTERRUPT : status);
    this.settle();
  }

  private raiseMsix(vector: number): void {
    const { table } = this;
    if (table === undefined || vector >= table.vectors) return;
    const entry = table.entry(vector);
    const maskAll = (this.config.read(this.msix! + MSIX_CONTROL, 2) & MSIX_MASK_ALL) !== 0;
    if (maskAll || entry.masked) table.setPending(vector, true);
    else this.send(entry);
  }

  private raiseMsi(vector: number): void {
    const base = this.msi!;
    const control = this.config.read(base + MSI_CONTROL, 2);
    const enabled = 2 ** ((control >>> 4) & 7);
    // Vectors that software did not grant share those that it did (PCI 3.0, 6.8.3.4).
    const granted = vector % enabled;
    const at = msiLayout(control);
    if (control & MSI_MASKABLE && this.config.read(base + at.mask, 4) & (1 << granted)) {
      this.config.set(base + at.pending, 4, this.config.read(base + at.pending, 4) | (1 << granted));
      return;
    }
    const high = control & MSI_WIDE ? this.config.read(base + 8, 4) : 0;
    const low = this.config.read(base + 4, 4);
    const data = this.config.read(base + at.data, 2);
    this.send({ address: BigInt(high) * 0x100000000n + BigInt(low), data: (data & ~(enabled - 1)) | granted });
  }

  private sendPending(): void {
    const { table } = this;
    if (this.msixEnabled && table !== undefined) {
      for (let vector = 0; vector < table.vectors; vector++) {
        if (!table.isPending(vector)) continue;
        table.setPending(vector, false);
        this.raiseMsix(vector);
      }
    } else if (this.msiEnabled) {
      const control = this.config.read(this.msi! + MSI_CONTROL, 2);
      if (!(control & MSI_MASKABLE)) return;
      const register = this.msi! + msiLayout(control).pending;
      const pending = this.config.read(register, 4);
      this.config.set(register, 4, 0);
      for (let vector = 0; vector < 32; vector++) if (pending & (1 << vector)) this.raiseMsi(vector);
    }
  }
}
