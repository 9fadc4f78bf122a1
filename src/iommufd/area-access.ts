// Runs in a browser.
/**
 * What an access does to the areas of a space: pin, unpin, read, write (reference 3.13). Plain functions: nobody sees them
 * half done. They go through the areas of a range in IOVA order, and end at the first that does not let them.
 */
import { PROT_READ, PROT_WRITE } from "../iommu/index.ts";
import { PAGE_SIZE, type Process } from "../memory/index.ts";
import { assert, bigintOf, EINVAL, ENOENT, EPERM, refuse } from "../runtime/index.ts";
import type { Area, Slice } from "./area.ts";
import type { IovaSpace } from "./iova-space.ts";

export interface PinRequest {
  readonly start: bigint;
  /** Inclusive. */
  readonly last: bigint;
  readonly write: boolean;
  /** Makes the call. */
  readonly caller: Process;
  /** Nobody may unmap the areas until they are unpinned. */
  readonly locksAreas: boolean;
}

/**
 * Pins the pages of a range; returns their frames, page by page. Refusals in IOVA order: ENOENT (a hole), EINVAL (the area
 * is being unmapped, is not made of whole pages there, or is a dma-buf's), EPERM, then those of pinning. All or nothing.
 */
export function pinAreas(space: IovaSpace, request: PinRequest): number[] {
  const { start, last, write, caller, locksAreas } = request;
  const frames: number[] = [];
  const done: { area: Area; first: number; last: number }[] = [];
  try {
    forEachArea(space, start, last, (area, from, to) => {
      refuseLeaving(space, area);
      if (!isMadeOfPages(area, from, to, to === last)) {
        refuse(EINVAL, () => `${area.label} of ${space.label} is not made of whole pages there`);
      }
      checkUse(space, area, write);
      const pages = pagesOf(area.slice(from, to));
      area.pages.acquire(pages.first, pages.last, caller);
      done.push({ area, ...pages });
      for (const { pfn, count } of area.pages.frames(pages.first, pages.last)) {
        for (let i = 0; i < count; i++) frames.push(pfn + i);
      }
    });
  } catch (error) {
    for (const { area, first, last } of done) area.pages.release(first, last);
    throw error;
  }
  for (const { area } of done) {
    area.accessPins++;
    if (locksAreas) area.locks++;
  }
  return frames;
}

/** The mirror image of {@link pinAreas}: the same range, and the same `locksAreas`. Cannot fail. */
export function unpinAreas(space: IovaSpace, start: bigint, last: bigint, locksAreas: boolean): void {
  forEachArea(space, start, last, (area, from, to) => {
    const pages = pagesOf(area.slice(from, to));
    assert(area.accessPins > 0, () => `${area.label} of ${space.label} is unpinned but was not pinned`);
    area.pages.release(pages.first, pages.last);
    area.accessPins--;
    if (locksAreas) area.locks--;
  });
}

/** How bytes are copied: `slow` through pinned frames even where a process could reach its own memory. */
export interface CopyRequest {
  readonly start: bigint;
  readonly caller: Process;
  readonly slow: boolean;
}

/** Reads from a range. Refusals in IOVA order: ENOENT, EINVAL (being unmapped, dma-buf), EPERM, EFAULT, EINVAL (file). */
export function readAreas(space: IovaSpace, request: CopyRequest, into: Uint8Array): void {
  copyAreas(space, request, into, false);
}

/** The same for writing. What lies before the refusal has been written. */
export function writeAreas(space: IovaSpace, request: CopyRequest, bytes: Uint8Array): void {
  copyAreas(space, request, bytes, true);
}

function copyAreas(space: IovaSpace, { start, caller, slow }: CopyRequest, bytes: Uint8Array, write: boolean): void {
  const last = start + bigintOf(bytes.length) - 1n;
  forEachArea(space, start, last, (area, from, to) => {
    checkUse(space, area, write);
    const { page, offset } = area.place(from);
    const place = { page, offset, caller, slow };
    const isAll = from === start && to === last;
    const part = isAll ? bytes : bytes.subarray(Number(from - start), Number(to - start) + 1);
    if (write) area.pages.write(place, part);
    else area.pages.read(place, part);
  });
}

/** Visits the areas of a range without holes, each with the part that is in the range. Refusal ENOENT at a hole. */
function forEachArea(
  space: IovaSpace,
  start: bigint,
  last: bigint,
  visit: (area: Area, from: bigint, to: bigint) => void,
): void {
  for (let at = start; ; ) {
    const area = space.areaAt(at);
    if (area === undefined) refuse(ENOENT, () => `nothing is mapped at 0x${at.toString(16)} of ${space.label}`);
    if (area.last >= last) {
      visit(area, at, last);
      return;
    }
    visit(area, at, area.last);
    at = area.last + 1n;
  }
}

function refuseLeaving(space: IovaSpace, area: Area): void {
  if (area.refusesAccess) refuse(EINVAL, () => `${area.label} of ${space.label} is being unmapped`);
}

function checkUse(space: IovaSpace, area: Area, write: boolean): void {
  refuseLeaving(space, area);
  if ((area.prot & (write ? PROT_WRITE : PROT_READ)) === 0) {
    refuse(EPERM, () => `${area.label} of ${space.label} is not ${write ? "writeable" : "readable"}`);
  }
  if (area.pages.source.kind === "dma-buf") {
    refuse(EINVAL, () => `${area.label} shows ${area.pages.source.label}, which only devices can reach`);
  }
}

/** The range begins with a page of the source, and ends with one unless it ends there altogether. */
function isMadeOfPages(area: Area, from: bigint, to: bigint, isLast: boolean): boolean {
  if (area.place(from).offset !== 0) return false;
  return isLast || (BigInt(area.offset) + (to - area.start) + 1n) % BigInt(PAGE_SIZE) === 0n;
}

function pagesOf({ page, offset, length }: Slice): { first: number; last: number } {
  return { first: page, last: page + Math.floor((offset + Number(length) - 1) / PAGE_SIZE) };
}
