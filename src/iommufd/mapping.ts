// Runs in a browser.
/** Areas in one domain: pinned, mapped, unmapped. Who may do that, and when, is the business of iova-space.ts. */
import { newGather, type PagingDomain, PROT_CACHE, PROT_MMIO } from "../iommu/index.ts";
import { PAGE_SIZE, type Process } from "../memory/index.ts";
import { assert, EINVAL, refuse, type Task } from "../runtime/index.ts";
import type { Area } from "./area.ts";

/** Pins the area's pages, if it has not yet. Refusals as PageSet.acquire. */
export function pinArea(area: Area, caller: Process): void {
  if (area.pinned) return;
  area.pages.acquire(area.page, area.lastPage, caller);
  area.pinned = true;
}

/** Only when no domain, and no TLB, knows the pages any more. */
export function unpinArea(area: Area): void {
  area.pages.release(area.page, area.lastPage);
  area.pinned = false;
}

/**
 * Maps the area's frames, consecutive ones in one call so that the largest leaves are used; without huge pages each page
 * in a call of its own. All or nothing; nothing if it is withdrawn. EINVAL for an area that nobody may read or write, then the driver's own.
 */
export function* mapArea(domain: PagingDomain, area: Area, hugePages: boolean): Task<void> {
  if (area.withdrawn) return;
  const { start, size } = area;
  // Memory of a device is not in the CPU's caches.
  const prot = area.pages.source.kind === "dma-buf" ? (area.prot & ~PROT_CACHE) | PROT_MMIO : area.prot;
  if ((area.prot & ~PROT_CACHE) === 0) {
    refuse(EINVAL, () => `${area.label} may be neither read nor written: no page table can hold it`);
  }
  let done = 0;
  try {
    const runs = area.pages.frames(area.page, area.lastPage);
    for (let i = 0; i < runs.length; i++) {
      const run = runs[i];
      const offset = done === 0 ? area.offset : 0;
      const end = done + Math.min(run.count * PAGE_SIZE - offset, size - done);
      const physical = run.pfn * PAGE_SIZE + offset - done;
      while (done < end) {
        const bytes = hugePages ? end - done : Math.min(PAGE_SIZE, end - done);
        yield* domain.map(done === 0 ? start : start + BigInt(done), physical + done, bytes, prot);
        done += bytes;
      }
    }
  } catch (error) {
    if (done > 0) {
      const gather = newGather();
      yield* domain.unmap(start, done, gather);
      yield* domain.sync(gather);
    }
    throw error;
  }
}

/** Removes whole areas from a domain; when it returns, no hardware uses them. Cannot fail. */
export function* unmapAreas(domain: PagingDomain, areas: readonly Area[]): Task<void> {
  if (areas.length === 0) return;
  const gather = newGather();
  for (let i = 0; i < areas.length; i++) {
    const { start, size, withdrawn } = areas[i];
    if (withdrawn) continue;
    const removed = yield* domain.unmap(start, size, gather);
    assert(removed === size, () => `${domain.label} removed ${removed} of ${size} bytes of ${areas[i].label}`);
  }
  yield* domain.sync(gather);
}
