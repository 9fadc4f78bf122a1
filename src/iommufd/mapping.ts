// Runs in a browser.
/** Areas in one domain: pinned, mapped, unmapped. Who may do that, and when, is the business of iova-space.ts. */
import { newGather, type PagingDomain, PROT_CACHE, PROT_MMIO } from "../iommu/index.ts";
import { type FrameRun, PAGE_SIZE, type Process } from "../memory/index.ts";
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
export function mapArea(domain: PagingDomain, area: Area, hugePages: boolean): Task<void> {
  const { start, offset, size, pages } = area;
  const runs = area.withdrawn ? [] : pages.frames(area.page, area.lastPage);
  // Memory of a device is not in the CPU's caches.
  const prot = pages.source.kind === "dma-buf" ? (area.prot & ~PROT_CACHE) | PROT_MMIO : area.prot;
  if (!area.withdrawn && (area.prot & ~PROT_CACHE) === 0) {
    refuse(EINVAL, () => `${area.label} may be neither read nor written: no page table can hold it`);
  }
  if (runs.length === 1 && (hugePages || size <= PAGE_SIZE)) {
    return domain.map(start, runs[0].pfn * PAGE_SIZE + offset, size, prot);
  }
  return mapRuns(domain, area, runs, prot, hugePages);
}

function* mapRuns(
  domain: PagingDomain,
  { start, size, offset }: Area,
  runs: readonly FrameRun[],
  prot: number,
  hugePages: boolean,
): Task<void> {
  let done = 0;
  try {
    for (const run of runs) {
      const skip = done === 0 ? offset : 0;
      const end = done + Math.min(run.count * PAGE_SIZE - skip, size - done);
      const physical = run.pfn * PAGE_SIZE + skip - done;
      while (done < end) {
        const bytes = hugePages ? end - done : Math.min(PAGE_SIZE, end - done);
        yield* domain.map(start + BigInt(done), physical + done, bytes, prot);
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
