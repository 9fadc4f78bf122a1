// Runs in a browser.
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import { baseWords } from "./registers.ts";

export interface EventRingOptions {
  /** Offsets of the ring's registers. */
  readonly base: number;
  readonly prod: number;
  readonly cons: number;
  /** 32 for events, 16 for page requests. */
  readonly entryBytes: number;
  readonly log2EntriesMax: number;
}

const OVERFLOW = 2 ** 31;

/** A ring in memory that the SMMU fills and the driver empties. */
export class EventRing {
  private readonly memory: PhysicalMemory;
  private readonly registers: RegisterBlock;
  private readonly options: EventRingOptions;
  private readonly log2Entries: number;
  private readonly pfn: number;
  private consumed = 0;
  private overflowAcknowledged = 0;

  /** One page at most. Refusal ENOMEM. */
  constructor(memory: PhysicalMemory, registers: RegisterBlock, options: EventRingOptions) {
    this.memory = memory;
    this.registers = registers;
    this.options = options;
    this.log2Entries = Math.min(options.log2EntriesMax, Math.log2(4096 / options.entryBytes));
    this.pfn = memory.allocate();
  }

  /** Tells the SMMU where the ring is. It is empty then. Only while the queue is off. */
  program(): void {
    this.consumed = this.overflowAcknowledged = 0;
    this.registers.write64(this.options.base, ...baseWords(this.pfn * 4096, this.log2Entries));
    this.registers.write32(this.options.prod, 0);
    this.registers.write32(this.options.cons, 0);
  }

  free(): void {
    this.memory.free(this.pfn);
  }

  /** The oldest record as words, or undefined; the SMMU may use its place again. */
  take(): Uint32Array | undefined {
    const positions = 2 ** (this.log2Entries + 1);
    if (this.registers.read32(this.options.prod) % positions === this.consumed) return undefined;
    const { entryBytes } = this.options;
    const address = this.pfn * 4096 + (this.consumed % (positions / 2)) * entryBytes;
    const record = new Uint32Array(entryBytes / 4).map((_, word) => this.memory.readWord(address + word * 4));
    this.consumed = (this.consumed + 1) % positions;
    this.tellConsumed();
    return record;
  }

  /** True, once, if records were lost since the last time; acknowledges it, so that the next loss is told too. */
  acknowledgeOverflow(): boolean {
    const overflow = this.registers.read32(this.options.prod) >= OVERFLOW ? OVERFLOW : 0;
    if (overflow === this.overflowAcknowledged) return false;
    this.overflowAcknowledged = overflow;
    this.tellConsumed();
    return true;
  }

  private tellConsumed(): void {
    this.registers.write32(this.options.cons, this.overflowAcknowledged + this.consumed);
  }
}
