// Runs in a browser.
/**
 * Circular queues (IHI 0070 §3.5.1).
 *
 * A pointer is an index of `log2` bits with a wrap bit above it. Empty: index and wrap equal. Full: index equal, wrap
 * different. Base, producer and consumer are registers; a queue is a view of them, so that what software reads is
 * what the hardware uses.
 */
import { addressField } from "./fetch.ts";
import type { Registers } from "./registers.ts";

/** The flag in bit 31 of a producer (OVFLG) and consumer (OVACKFLG) of an output queue (§7.4). */
export const OVERFLOW_FLAG = 0x80000000;

export interface QueueLayout {
  readonly name: string;
  /** Offsets of the registers; producer and consumer as on page 0. */
  readonly base: number;
  readonly producer: number;
  readonly consumer: number;
  readonly entryBytes: number;
  /** log2 of the entries at most, from IDR1. */
  readonly maximumLog2: number;
}

export class Queue {
  readonly layout: QueueLayout;
  private readonly registers: Registers;

  constructor(registers: Registers, layout: QueueLayout) {
    this.registers = registers;
    this.layout = layout;
  }

  /** log2 of the entries; what is above the implemented size counts as the implemented size (§6.3.26). */
  get log2(): number {
    return Math.min(this.registers.get(this.layout.base) & 31, this.layout.maximumLog2);
  }

  /** Physical address of entry 0, aligned to the queue's own size (§6.3.26). */
  get base(): number {
    const { base, entryBytes } = this.layout;
    const size = Math.max(entryBytes << this.log2, 32);
    return addressField(this.registers.get(base) & -size, this.registers.get(base + 4), 5);
  }

  get producer(): number {
    return this.registers.get(this.layout.producer) & this.pointerMask;
  }

  get consumer(): number {
    return this.registers.get(this.layout.consumer) & this.pointerMask;
  }

  get isEmpty(): boolean {
    return this.producer === this.consumer;
  }

  get isFull(): boolean {
    return (this.producer ^ this.consumer) === 1 << this.log2;
  }

  /** Address of the entry that a pointer points to. */
  entry(pointer: number): number {
    return this.base + (pointer & ((1 << this.log2) - 1)) * this.layout.entryBytes;
  }

  /** Moves the producer on by one entry, its flags unchanged. */
  produce(): void {
    this.step(this.layout.producer);
  }

  /** Moves the consumer on by one entry, its flags and error unchanged. */
  consume(): void {
    this.step(this.layout.consumer);
  }

  /** True while an overflow was told and not acknowledged (§7.4). */
  get isOverflowPending(): boolean {
    const { producer, consumer } = this.layout;
    return ((this.registers.get(producer) ^ this.registers.get(consumer)) & OVERFLOW_FLAG) !== 0;
  }

  /** Tells an overflow, unless the last one is not acknowledged yet (§7.4). */
  overflow(): void {
    if (this.isOverflowPending) return;
    this.registers.set(this.layout.producer, this.registers.get(this.layout.producer) ^ OVERFLOW_FLAG);
  }

  private get pointerMask(): number {
    return (2 << this.log2) - 1;
  }

  private step(register: number): void {
    const mask = this.pointerMask;
    const value = this.registers.get(register);
    this.registers.set(register, (value & ~mask) | ((value + 1) & mask));
  }
}
