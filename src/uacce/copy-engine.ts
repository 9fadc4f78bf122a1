// Runs in a browser.
import type { Device } from "../iommu/index.ts";
import { PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";
import { EBUSY, IdAllocator, refuse, type System, type Task } from "../runtime/index.ts";
import type { Accelerator, AcceleratorQueue } from "./accelerator.ts";
import { CopyEngineQueue } from "./copy-queue.ts";
import type { CopyRegisters } from "./copy-registers.ts";
import { DmaMemory } from "./dma-memory.ts";

interface CopyEngineOptions {
  readonly system: System;
  readonly memory: PhysicalMemory;
  readonly registers: CopyRegisters;
  /** Its own device, as the core knows it. */
  readonly device: Device;
}

/** What the copy engine offers: queues that are alike. */
export class CopyEngineAccelerator implements Accelerator {
  readonly api = "copy_engine_v1";
  readonly algorithms: readonly string[] = ["copy"];
  readonly regionSizes = { mmio: PAGE_SIZE, dus: PAGE_SIZE };
  private readonly options: CopyEngineOptions;
  private readonly indices: IdAllocator;
  private readonly queues = new Map<number, CopyEngineQueue>();

  constructor(options: CopyEngineOptions) {
    this.options = options;
    this.indices = new IdAllocator(0, options.registers.queues - 1);
  }

  get availableInstances(): number {
    return this.options.registers.queues - this.queues.size;
  }

  *getQueue(pasid: number): Task<AcceleratorQueue> {
    const { system, memory, registers, device } = this.options;
    const index = this.indices.allocate();
    if (index === undefined) refuse(EBUSY, () => `all ${registers.queues} queues of ${device.name} are taken`);
    try {
      system.failures.point("uacce.queue.allocate");
      const ring = yield* DmaMemory.allocate(memory, device, 1);
      const queue = new CopyEngineQueue({
        system,
        memory,
        registers,
        index,
        pasid,
        ring,
        label: `queue ${index} of ${device.name}`,
        onPut: () => this.giveBack(index),
      });
      this.queues.set(index, queue);
      return queue;
    } catch (error) {
      this.indices.free(index);
      throw error;
    }
  }

  /** The device wants attention. */
  readonly interrupted = (): void => {
    const wanting = this.options.registers.takeInterrupts();
    for (const [index, queue] of this.queues) if ((wanting >>> index) & 1) queue.interrupted();
  };

  private giveBack(index: number): void {
    this.queues.delete(index);
    this.indices.free(index);
  }
}
