// Runs in a browser.
/** Interrupts and global errors (IHI 0070 §3.18, §6.3.16 to 6.3.25, §7.5). */
import type { PhysicalMemory } from "../../memory/index.ts";
import { addressField, storeWords } from "./fetch.ts";
import {
  EVENTQ_IRQ_CFG0,
  GERROR,
  GERROR_IRQ_CFG0,
  GERRORN,
  IRQ_CTRL,
  IRQ_EVENTQ,
  IRQ_GERROR,
  IRQ_PRIQ,
  MSI_CMDQ_ABT_ERR,
  MSI_EVENTQ_ABT_ERR,
  MSI_GERROR_ABT_ERR,
  MSI_PRIQ_ABT_ERR,
  PRIQ_IRQ_CFG0,
  type Registers,
} from "./registers.ts";

/** The wired interrupts; each is an edge. */
export type InterruptLine = "event" | "gerror" | "sync" | "pri";

export class Interrupts {
  private readonly registers: Registers;
  private readonly memory: PhysicalMemory;
  private readonly wire: (line: InterruptLine) => void;

  constructor(registers: Registers, memory: PhysicalMemory, wire: (line: InterruptLine) => void) {
    this.registers = registers;
    this.memory = memory;
    this.wire = wire;
  }

  /** The event queue became non-empty, or an overflow was told (§3.18.1). */
  eventQueue(): void {
    this.signal("event", IRQ_EVENTQ, EVENTQ_IRQ_CFG0, MSI_EVENTQ_ABT_ERR);
  }

  /** The page request queue became non-empty, or an overflow was told (§3.18.1). */
  pageRequestQueue(): void {
    this.signal("pri", IRQ_PRIQ, PRIQ_IRQ_CFG0, MSI_PRIQ_ABT_ERR);
  }

  /** A CMD_SYNC with SIG_IRQ completed: by MSI if it names an address, else by wire (§4.7.3). */
  syncComplete(messageAddress: number, messageData: number): void {
    if (!this.registers.features.msi || messageAddress === 0) {
      this.wire("sync");
    } else if (!storeWords(this.memory, messageAddress, [messageData])) {
      this.raise(MSI_CMDQ_ABT_ERR);
    }
  }

  /** True while an error is active: its bits in GERROR and GERRORN differ (§7.5). */
  isActive(error: number): boolean {
    return ((this.registers.get(GERROR) ^ this.registers.get(GERRORN)) & error) !== 0;
  }

  /** Activates a global error, unless it is active already (§7.5). */
  raise(error: number): void {
    if (this.isActive(error)) return;
    this.registers.set(GERROR, this.registers.get(GERROR) ^ error);
    this.signal("gerror", IRQ_GERROR, GERROR_IRQ_CFG0, MSI_GERROR_ABT_ERR);
  }

  private signal(line: InterruptLine, enable: number, configuration: number, abortError: number): void {
    const { registers } = this;
    if ((registers.get(IRQ_CTRL) & enable) === 0) return;
    const address = addressField(registers.get(configuration), registers.get(configuration + 4), 2);
    if (address === 0) {
      this.wire(line);
    } else if (!storeWords(this.memory, address, [registers.get(configuration + 8)])) {
      this.raise(abortError);
    }
  }
}
