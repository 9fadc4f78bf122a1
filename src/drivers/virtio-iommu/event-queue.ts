// Runs in a browser.
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import { FAULT_BYTES } from "./fault-record.ts";
import { DESC_WRITE, Ring } from "./ring.ts";

const BUFFER_BYTES = 32;

/** The event queue: buffers that the device fills, each offered again when it was read. */
export class EventQueue {
  private readonly memory: PhysicalMemory;
  private readonly ring: Ring;
  private readonly pfn: number;

  /** Refusals: ENODEV, ENOMEM. */
  constructor(memory: PhysicalMemory, registers: RegisterBlock) {
    this.memory = memory;
    this.ring = new Ring(memory, registers, { queue: 1, interrupts: true });
    try {
      this.pfn = memory.allocate();
    } catch (error) {
      this.ring.free();
      throw error;
    }
  }

  program(): void {
    this.ring.program();
  }

  /** Gives the device all buffers. */
  fill(): void {
    for (let buffer = 0; buffer < this.ring.size; buffer++) {
      this.ring.describe(buffer, this.address(buffer), FAULT_BYTES, DESC_WRITE);
      this.ring.offer(buffer);
    }
    this.ring.notify();
  }

  /** The device must have been reset. */
  free(): void {
    this.memory.free(this.pfn);
    this.ring.free();
  }

  /** The oldest event, or undefined; the device has its buffer again. */
  take(): Uint8Array | undefined {
    const buffer = this.ring.takeReturned();
    if (buffer === undefined) return undefined;
    const bytes = new Uint8Array(FAULT_BYTES);
    if (buffer < this.ring.size) {
      this.memory.read(this.address(buffer), bytes);
      this.ring.offer(buffer);
      this.ring.notify();
    }
    return bytes;
  }

  private address(buffer: number): number {
    return this.pfn * 4096 + buffer * BUFFER_BYTES;
  }
}
