// Runs in a browser.
/** Areas in one domain: pinned, mapped, unmapped. Who may do that, and when, is the business of iova-space.ts. */
import { newGather, type PagingDomain, PROT_CACHE, PROT_MMIO, type UnmapGather } from "../iommu/index.ts";
import { type FrameRun, PAGE_SIZE, type Process } from "../memory/index.ts";
import { assert, DoneTask, done, EINVAL, refuse, type Task } from "../runtime/index.ts";
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

/** Pins an area and maps it into a domain, the only one that shows it; both or nothing. */
export function enterDomain(domain: PagingDomain, area: Area, caller: Process, hugePages: boolean): Task<void> {
  pinArea(area, caller);
  try {
    const wait = mapArea(domain, area, hugePages);
    return wait === done ? done : enterDomainAfter(wait, area);
  } catch (error) {
    unpinArea(area);
    throw error;
  }
}

function* enterDomainAfter(wait: Task<void>, area: Area): Task<void> {
  try {
    yield* wait;
  } catch (error) {
    unpinArea(area);
    throw error;
  }
}

/** Removes whole areas from all domains; when it is done, no hardware uses them. Cannot fail. */
export function unmapFromAll(domains: readonly PagingDomain[], areas: readonly Area[]): Task<void> {
  for (let i = 0; i < domains.length; i++) {
    const wait = unmapAreas(domains[i], areas);
    if (wait !== done) return unmapFromRest(wait, domains, i + 1, areas);
  }
  return done;
}

function* unmapFromRest(
  wait: Task<void>,
  domains: readonly PagingDomain[],
  next: number,
  areas: readonly Area[],
): Task<void> {
  yield* wait;
  for (let i = next; i < domains.length; i++) yield* unmapAreas(domains[i], areas);
}

/** Removes whole areas from a domain; when it is done, no hardware uses them. Cannot fail. */
export function unmapAreas(domain: PagingDomain, areas: readonly Area[]): Task<void> {
  if (areas.length === 0) return done;
  const gather = newGather();
  for (let i = 0; i < areas.length; i++) {
    const wait = unmapArea(domain, areas[i], gather);
    if (wait !== done) return unmapRest(wait, domain, areas, i + 1, gather);
  }
  return domain.sync(gather);
}

function* unmapRest(
  wait: Task<void>,
  domain: PagingDomain,
  areas: readonly Area[],
  next: number,
  gather: UnmapGather,
): Task<void> {
  yield* wait;
  for (let i = next; i < areas.length; i++) yield* unmapArea(domain, areas[i], gather);
  yield* domain.sync(gather);
}

/** Until {@link PagingDomain.sync} of `gather`, hardware may still use the area. */
function unmapArea(domain: PagingDomain, area: Area, gather: UnmapGather): Task<void> {
  if (area.withdrawn) return done;
  const removing = domain.unmap(area.start, area.size, gather);
  if (!(removing instanceof DoneTask)) return checkedAfter(removing, domain, area);
  checkRemoved(removing.value, domain, area);
  return done;
}

function* checkedAfter(removing: Task<number>, domain: PagingDomain, area: Area): Task<void> {
  checkRemoved(yield* removing, domain, area);
}

function checkRemoved(bytes: number, domain: PagingDomain, area: Area): void {
  assert(bytes === area.size, () => `${domain.label} removed ${bytes} of ${area.size} bytes of ${area.label}`);
}
