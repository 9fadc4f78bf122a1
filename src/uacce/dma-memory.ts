// Runs in a browser.
import { type Device, groupOf, newGather, PagingDomain, PROT_READ, PROT_WRITE } from "../iommu/index.ts";
import { PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";
import type { Task } from "../runtime/index.ts";

/**
 * Memory that a kernel driver shares with its device, which reaches it without PASID through the default domain of its
 * group, and that a process may be shown. The device's address of a page is the page's own: so no two of them meet.
 */
export class DmaMemory {
  readonly pfn: number;
  readonly count: number;
  private readonly memory: PhysicalMemory;
  private readonly domain: PagingDomain | undefined;

  private constructor(memory: PhysicalMemory, pfn: number, count: number, domain: PagingDomain | undefined) {
    this.memory = memory;
    this.pfn = pfn;
    this.count = count;
    this.domain = domain;
  }

  /** `count` zeroed pages for a device that uses its default domain. Refusals: ENOMEM, and the domain's. */
  static *allocate(memory: PhysicalMemory, device: Device, count: number): Task<DmaMemory> {
    const { defaultDomain } = groupOf(device);
    const domain = defaultDomain instanceof PagingDomain ? defaultDomain : undefined;
    const pfn = memory.allocateShareable(count);
    const made = new DmaMemory(memory, pfn, count, domain);
    try {
      if (domain !== undefined) {
        yield* domain.map(BigInt(made.address), made.address, made.size, PROT_READ | PROT_WRITE);
      }
    } catch (error) {
      memory.drop(pfn, count);
      throw error;
    }
    return made;
  }

  /** The same number for the processor and for the device. */
  get address(): number {
    return this.pfn * PAGE_SIZE;
  }

  get size(): number {
    return this.count * PAGE_SIZE;
  }

  read(offset: number, into: Uint8Array): void {
    this.memory.read(this.address + offset, into);
  }

  write(offset: number, from: Uint8Array): void {
    this.memory.write(this.address + offset, from);
  }

  /** The device reaches it no more, when this returns. Cannot fail. */
  *unmap(): Task<void> {
    if (this.domain === undefined) return;
    const gather = newGather();
    yield* this.domain.unmap(BigInt(this.address), this.size, gather);
    yield* this.domain.sync(gather);
  }

  /** The mirror image of {@link allocate}, when the device is out and nobody is shown it any more. */
  free(): void {
    this.memory.drop(this.pfn, this.count);
  }
}
