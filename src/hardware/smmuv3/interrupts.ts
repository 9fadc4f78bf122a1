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
  PRIQ_IRQ_CFG2,
  PRIQ_LAST_ONLY,
  type Registers,
} from "./registers.ts";

/** The wired interrupts; each is an edge. A source has both, a wire and messages (§3.18.2). */
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

  /** The event queue became non-empty (§3.18.2). */
  eventQueue(): void {
    this.signal("event", IRQ_EVENTQ, EVENTQ_IRQ_CFG0, MSI_EVENTQ_ABT_ERR);
  }

  /**
   * A page request came into its queue, which was empty, or found it full. Which of these interrupts is software's choice:
   * each that makes it non-empty, or the last ones of groups (PRIQ_IRQ_CFG2.LO, §6.3.36).
   */
  pageRequest(request: { readonly last: boolean; readonly wasEmpty: boolean }): void {
    const lastOnly = (this.registers.get(PRIQ_IRQ_CFG2) & PRIQ_LAST_ONLY) !== 0;
    if (lastOnly ? request.last : request.wasEmpty) {
      this.signal("pri", IRQ_PRIQ, PRIQ_IRQ_CFG0, MSI_PRIQ_ABT_ERR);
    }
  }

  /** A CMD_SYNC with SIG_IRQ completed: the wire pulses, and a message is sent if the command names an address (§4.7.3). */
  syncComplete(messageAddress: number, messageData: number): void {
    const { features } = this.registers;
    this.wire("sync");
    if (!features.msi || messageAddress === 0) return;
    if (!storeWords(this.memory, messageAddress % 2 ** features.outputBits, [messageData]))
      this.raise(MSI_CMDQ_ABT_ERR);
  }

  /** True while an error is active: its bits in GERROR and GERRORN differ (§7.5). */
  isActive(error: number): boolean {
    return ((this.registers.get(GERROR) ^ this.registers.get(GERRORN)) & error) !== 0;
  }

  /** Activates a global error, unless it is active already (§7.5). A message that failed is not told by another (§7.5.1). */
  raise(error: number): void {
    if (this.isActive(error)) return;
    this.registers.set(GERROR, this.registers.get(GERROR) ^ error);
    if (error !== MSI_GERROR_ABT_ERR) this.signal("gerror", IRQ_GERROR, GERROR_IRQ_CFG0, MSI_GERROR_ABT_ERR);
  }

  private signal(line: InterruptLine, enable: number, configuration: number, abortError: number): void {
    const { registers } = this;
    if ((registers.get(IRQ_CTRL) & enable) === 0) return;
    this.wire(line);
    const address = addressField(registers.get(configuration), registers.get(configuration + 4), 2);
    if (address !== 0 && !storeWords(this.memory, address, [registers.get(configuration + 8)])) this.raise(abortError);
  }
}
