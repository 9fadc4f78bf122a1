// Runs in a browser.
/** The event queue (IHI 0070 §7.2, §7.4): records go in, or are lost as the architecture says. */
import type { PhysicalMemory } from "../../memory/index.ts";
import { storeWords } from "./fetch.ts";
import type { Interrupts } from "./interrupts.ts";
import { Queue } from "./queues.ts";
import {
  CR0,
  CR0_EVENTQEN,
  EVENTQ_ABT_ERR,
  EVENTQ_BASE,
  EVENTQ_CONS,
  EVENTQ_PROD,
  type Registers,
} from "./registers.ts";

export class EventQueue {
  readonly queue: Queue;
  private readonly registers: Registers;
  private readonly memory: PhysicalMemory;
  private readonly interrupts: Interrupts;
  /** Records of stalled transactions that found no room: they are never lost, only late (§7.2). */
  private late: Uint32Array[] = [];

  constructor(registers: Registers, memory: PhysicalMemory, interrupts: Interrupts) {
    this.registers = registers;
    this.memory = memory;
    this.interrupts = interrupts;
    this.queue = new Queue(registers, {
      name: "event queue",
      base: EVENTQ_BASE,
      producer: EVENTQ_PROD,
      consumer: EVENTQ_CONS,
      entryBytes: 32,
      maximumLog2: registers.features.eventQueueLog2,
    });
  }

  /** Records an event. False if it is lost: the queue is off, full, or has an abort that is not acknowledged. */
  record(record: Uint32Array): boolean {
    if (!this.isOn) return false;
    if (this.queue.isFull) {
      this.queue.overflow();
      return false;
    }
    return this.write(record);
  }

  /** Records the event of a stalled transaction, now or as soon as there is room. */
  recordStall(record: Uint32Array): void {
    if (this.late.length === 0 && this.isOn && !this.queue.isFull && this.write(record)) return;
    this.late.push(record);
  }

  /** There is nothing left to tell of a stalled transaction (§7.2). False if its event is written already. */
  forgetStall(record: Uint32Array): boolean {
    const index = this.late.indexOf(record);
    if (index >= 0) this.late.splice(index, 1);
    return index >= 0;
  }

  /** Writes late records: after the consumer moved, the queue was enabled, or an abort was acknowledged. */
  flush(): void {
    while (this.late.length > 0 && this.isOn && !this.queue.isFull && this.write(this.late[0])) this.late.shift();
  }

  private get isOn(): boolean {
    return (this.registers.get(CR0) & CR0_EVENTQEN) !== 0 && !this.interrupts.isActive(EVENTQ_ABT_ERR);
  }

  private write(record: Uint32Array): boolean {
    const { queue } = this;
    const wasEmpty = queue.isEmpty;
    if (!storeWords(this.memory, queue.entry(queue.producer), record)) {
      // The producer stays: software never sees an entry that was not written (§7.2).
      this.interrupts.raise(EVENTQ_ABT_ERR);
      return false;
    }
    queue.produce();
    if (wasEmpty) this.interrupts.eventQueue();
    return true;
  }
}
