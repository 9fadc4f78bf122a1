// Runs in a browser.
import { type FileWindow, PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";

const TAIL = 0;
/** What lies behind the tail: head and status. */
const ANSWERS = 4;

export interface DoorbellContext {
  /** What the registers behind the tail hold now. */
  answers(): readonly number[];
  /** The process wrote the tail. */
  ring(tail: number): void;
}

/**
 * A page of registers that a process has mapped. Its stores cannot be seen, so the page is memory that is looked at again
 * and again while it is mapped: what the process wrote to the tail goes to the device, and the other registers come back.
 */
export class DoorbellPage {
  private readonly memory: PhysicalMemory;
  private readonly context: DoorbellContext;
  private pfn: number | undefined;
  /** What the process wrote last. The tail is its alone: nobody else writes it while the queue works. */
  private tail = 0;

  constructor(memory: PhysicalMemory, context: DoorbellContext) {
    this.memory = memory;
    this.context = context;
  }

  show(): FileWindow {
    this.pfn ??= this.memory.allocateShareable(1);
    this.answer();
    return { pfn: this.pfn, count: 1, release: () => this.hide(), look: () => this.look() };
  }

  /** The queue begins anew. */
  reset(): void {
    this.tail = 0;
    if (this.pfn === undefined) return;
    this.memory.write(this.pfn * PAGE_SIZE + TAIL, new Uint8Array(4));
    this.answer();
  }

  look(): void {
    if (this.pfn === undefined) return;
    const word = new DataView(new ArrayBuffer(4));
    this.memory.read(this.pfn * PAGE_SIZE + TAIL, new Uint8Array(word.buffer));
    const tail = word.getUint32(0, true);
    if (tail !== this.tail) {
      this.tail = tail;
      this.context.ring(tail);
    }
    this.answer();
  }

  private answer(): void {
    const values = this.context.answers();
    const words = new DataView(new ArrayBuffer(4 * values.length));
    for (const [index, value] of values.entries()) words.setUint32(4 * index, value, true);
    this.memory.write(this.pfn! * PAGE_SIZE + ANSWERS, new Uint8Array(words.buffer));
  }

  private hide(): void {
    this.memory.drop(this.pfn!, 1);
    this.pfn = undefined;
  }
}
