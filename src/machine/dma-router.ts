// Runs in a browser.
import type { PhysicalMemory } from "../memory/index.ts";
import type { DmaTarget, RequesterId, TranslationAgent } from "../pci/index.ts";
import type { Task } from "../runtime/index.ts";

/** Sends each requester's DMA to the IOMMU that serves it, or straight to memory where none does. */
export class DmaRouter implements DmaTarget {
  private readonly routes = new Map<RequesterId, DmaTarget>();
  /** Hands what a requester asks to the agent of the IOMMU that serves it; where none does, there is no ATS. */
  readonly agent: TranslationAgent = {
    requestTranslation: (requester, request) =>
      this.routes.get(requester)?.agent?.requestTranslation(requester, request) ?? "unsupported request",
    accessTranslated: (requester, physical, bytes, write) =>
      this.routes.get(requester)?.agent?.accessTranslated(requester, physical, bytes, write) ?? false,
    requestPage: (requester, request) => this.routes.get(requester)?.agent?.requestPage(requester, request),
  };

  /** What is there without an IOMMU: memory, as it is. */
  readonly untranslated: DmaTarget;

  constructor(memory: PhysicalMemory) {
    this.untranslated = {
      *access(_requester, _pasid, address, bytes, write) {
        return memory.access(Number(address), bytes, write);
      },
    };
  }

  /** DMA of `requester` goes through `target` from now on, or straight to memory. */
  route(requester: RequesterId, target: DmaTarget | undefined): void {
    if (target === undefined) this.routes.delete(requester);
    else this.routes.set(requester, target);
  }

  access(
    requester: RequesterId,
    pasid: number | undefined,
    address: bigint,
    bytes: Uint8Array,
    write: boolean,
  ): Task<boolean> {
    const target = this.routes.get(requester) ?? this.untranslated;
    return target.access(requester, pasid, address, bytes, write);
  }
}
