// Runs in a browser.
import { type Device, mapDma, PROT_READ, PROT_WRITE, unmapDma } from "../iommu/index.ts";
import { PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";
import type { Task } from "../runtime/index.ts";

/**
 * Memory that a kernel driver shares with its device, which reaches it without PASID through the default domain of its
 * group, and that a process may be shown.
 */
export class DmaMemory {
  readonly pfn: number;
  readonly count: number;
  /** Where the device finds it. */
  readonly iova: bigint;
  private readonly memory: PhysicalMemory;
  private readonly device: Device;

  private constructor(memory: PhysicalMemory, device: Device, pfn: number, count: number, iova: bigint) {
    this.memory = memory;
    this.device = device;
    this.pfn = pfn;
    this.count = count;
    this.iova = iova;
  }

  /** `count` zeroed pages for a device that uses its default domain. Refusals: ENOMEM, and those of the DMA API. */
  static *allocate(memory: PhysicalMemory, device: Device, count: number): Task<DmaMemory> {
    const pfn = memory.allocateShareable(count);
    try {
      const iova = yield* mapDma(device, pfn * PAGE_SIZE, count * PAGE_SIZE, PROT_READ | PROT_WRITE);
      return new DmaMemory(memory, device, pfn, count, iova);
    } catch (error) {
      memory.drop(pfn, count);
      throw error;
    }
  }

  get size(): number {
    return this.count * PAGE_SIZE;
  }

  read(offset: number, into: Uint8Array): void {
    this.memory.read(this.pfn * PAGE_SIZE + offset, into);
  }

  write(offset: number, from: Uint8Array): void {
    this.memory.write(this.pfn * PAGE_SIZE + offset, from);
  }

  /** The device, which is to use it no more, need not be able to. Cannot fail. */
  *unmap(): Task<void> {
    yield* unmapDma(this.device, this.iova, this.size);
  }

  /** The mirror image of {@link allocate}, when the device is out and nobody is shown it any more. */
  free(): void {
    this.memory.drop(this.pfn, this.count);
  }
}
