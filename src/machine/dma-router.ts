// Runs in a browser.
import type { PhysicalMemory } from "../memory/index.ts";
import type { DmaTarget, RequesterId } from "../pci/index.ts";
import type { Task } from "../runtime/index.ts";

/** Sends each requester's DMA to the IOMMU that serves it, or straight to memory where none does. */
export class DmaRouter implements DmaTarget {
  private readonly memory: PhysicalMemory;
  private readonly routes = new Map<RequesterId, DmaTarget>();

  constructor(memory: PhysicalMemory) {
    this.memory = memory;
  }

  /** DMA of `requester` goes through `target` from now on, or straight to memory. */
  route(requester: RequesterId, target: DmaTarget | undefined): void {
    if (target === undefined) this.routes.delete(requester);
    else this.routes.set(requester, target);
  }

  *access(
    requester: RequesterId,
    pasid: number | undefined,
    address: bigint,
    bytes: Uint8Array,
    write: boolean,
  ): Task<boolean> {
    const target = this.routes.get(requester);
    if (target !== undefined) return yield* target.access(requester, pasid, address, bytes, write);
    return this.memory.access(Number(address), bytes, write);
  }
}
