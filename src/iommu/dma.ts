// Runs in a browser.
/**
 * The kernel's DMA API: how drivers of the kernel itself show memory to their devices, through the default domain of the
 * group (Linux's dma-iommu; reference 2.4 and 2.5).
 *
 * A `DmaSpace` belongs to a default domain that translates: it hands out the domain's addresses and takes them back. The
 * one way back is a queue. `dma` flushes it before an unmap returns; `dma-fq` when it is full, or when its oldest entry has
 * waited for 10 ms. Until then the hardware may remember what was unmapped: the device may still reach that very memory.
 *
 * Always true: an address is handed out again only after the hardware has forgotten what it stood for, and a table is free
 * only after it has forgotten the way there. A table that was unlinked is not replaced before that either: the hardware
 * would look in the old one for what the new one has. So nothing is mapped while there are unlinked tables in the queue.
 *
 * Lock order: iommu.group → iommu.dma → (the driver's own).
 */
import {
  assert,
  bigintOf,
  EIO,
  ENOMEM,
  type Interval,
  IntervalMap,
  Mutex,
  refuse,
  type System,
  type Task,
} from "../runtime/index.ts";
import type { Device } from "./device.ts";
import { PagingDomain } from "./driver.ts";
import { extendGather, newGather, type UnmapGather } from "./gather.ts";
import type { Group } from "./group.ts";

/** Devices that know 32 bits only find their addresses below. */
const LOW_END = 2n ** 32n;
/** Larger mappings gain nothing from a stricter alignment: it lets a large leaf fit. */
const LARGEST_ALIGNMENT = 2 ** 21;
/** Unmaps that the hardware may still remember. */
const QUEUE_LENGTH = 256;
/** In nanoseconds. */
const LONGEST_WAIT = 10e6;

/** Who has an address: the domain's own limits, a mapping, or a mapping that the hardware may still remember. */
type Occupant = "reserved" | "mapped" | "unmapped";

interface Unmapped {
  readonly range: Interval<Occupant>;
  readonly gather: UnmapGather;
}

/**
 * Shows `size` bytes at `physical` to a device that a kernel driver uses; returns the address by which the device reaches
 * them. Without translation that is the physical one. The first of a device whose attach was deferred attaches it.
 *
 * Refusals, which leave nothing: EIO where the default domain lets nothing through; ENOMEM without a free address; EBUSY for
 * a deferred attach while a member of the group is being reset; the domain's.
 */
export function* mapDma(device: Device, physical: number, size: number, prot: number): Task<bigint> {
  const { group } = device;
  if (group === undefined) return bigintOf(physical);
  assert(group.owner === undefined, () => `${device.label}: ${group.label} has an owner, and yet a driver does DMA`);
  if (device.iommu?.attachDeferred) yield* group.attachDeferred(device);
  const { defaultDomain } = group;
  if (defaultDomain === undefined || defaultDomain.type === "identity") return bigintOf(physical);
  if (!(defaultDomain instanceof PagingDomain)) {
    refuse(EIO, () => `${device.label}: ${defaultDomain.label}, the default domain of ${group.label}, blocks all DMA`);
  }
  defaultDomain.dmaSpace ??= new DmaSpace(group.system, defaultDomain);
  return yield* defaultDomain.dmaSpace.map(group, physical, size, prot);
}

/**
 * The mirror image of {@link mapDma}, with the same size. Where the default domain is strict, the device reaches the memory
 * no more when it returns. Cannot fail.
 */
export function* unmapDma(device: Device, iova: bigint, size: number): Task<void> {
  const domain = device.group?.defaultDomain;
  if (domain instanceof PagingDomain) yield* domain.dmaSpace!.unmap(iova, size);
}

export class DmaSpace {
  private readonly system: System;
  private readonly domain: PagingDomain;
  private readonly granule: number;
  private readonly occupied = new IntervalMap<Occupant>();
  /** Members whose reserved regions are occupied. */
  private readonly known = new Set<Device>();
  private readonly queue: Unmapped[] = [];
  /** Of the queue and of the flush under way. */
  private unmapped = 0;
  private unlinkedTables = 0;
  private readonly flushing: Mutex;
  private stopTimer: (() => void) | undefined;

  constructor(system: System, domain: PagingDomain) {
    this.system = system;
    this.domain = domain;
    [this.granule] = domain.pageSizes;
    this.flushing = new Mutex(system, "iommu.dma");
    // Zero looks like no address at all.
    this.occupied.insert(0n, BigInt(this.granule) - 1n, "reserved");
  }

  /** See {@link mapDma}. What lies around the memory in its first and last page is shown too. */
  *map(group: Group, physical: number, size: number, prot: number): Task<bigint> {
    const { system, domain } = this;
    const offset = physical % this.granule;
    const length = this.roundUp(offset + size);
    this.keepOut(group);
    system.failures.point("iommu.dma.map");
    const range = yield* this.allocate(length);
    try {
      yield* domain.map(range.start, physical - offset, length, prot);
    } catch (error) {
      this.occupied.remove(range);
      throw error;
    }
    const iova = range.start + BigInt(offset);
    this.tell("iommu.dma.map", { iova, physical, size });
    return iova;
  }

  /** See {@link unmapDma}. */
  *unmap(iova: bigint, size: number): Task<void> {
    const { domain, occupied, queue } = this;
    const range = occupied.at(iova);
    const length = this.roundUp(Number(iova % BigInt(this.granule)) + size);
    assert(
      range?.value === "mapped" && iova - range.start < this.granule && Number(range.last - range.start) + 1 === length,
      () => `${size} bytes at 0x${iova.toString(16)} of ${domain.label} are no mapping`,
    );
    range.value = "unmapped";
    const gather = newGather();
    yield* domain.unmap(range.start, length, gather);
    queue.push({ range, gather });
    this.unmapped++;
    this.unlinkedTables += gather.freedTables.length;
    this.tell("iommu.dma.unmap", { iova, size });
    if (domain.type !== "dma-fq" || queue.length >= QUEUE_LENGTH) yield* this.flush();
    else this.startTimer();
  }

  /** When it returns, the hardware has forgotten what was unmapped before. Cannot fail. */
  *flush(): Task<void> {
    yield* this.flushing.take();
    try {
      this.stopTimer?.();
      this.stopTimer = undefined;
      const entries = this.queue.splice(0);
      if (entries.length === 0) return;
      const gather = gatherOf(entries);
      const tables = gather.freedTables.length;
      yield* this.domain.sync(gather);
      for (const { range } of entries) this.occupied.remove(range);
      this.unmapped -= entries.length;
      this.unlinkedTables -= tables;
      this.tell("iommu.dma.flush", { entries: entries.length });
    } finally {
      this.flushing.release();
    }
  }

  /** A range that is not occupied, which it now is; nothing yields between that and the return. Refusal ENOMEM. */
  private *allocate(length: number): Task<Interval<Occupant>> {
    for (;;) {
      while (this.unlinkedTables > 0) yield* this.flush();
      const start = this.highestFree(length);
      if (start !== undefined) return this.occupied.insert(start, start + BigInt(length) - 1n, "mapped");
      if (this.unmapped === 0) refuse(ENOMEM, () => `${this.domain.label} has no free addresses for ${length} bytes`);
      yield* this.flush();
    }
  }

  private highestFree(length: number): bigint | undefined {
    const { aperture } = this.domain;
    const end = aperture.last + 1n;
    return (
      this.highestFreeIn(aperture.start, end < LOW_END ? end : LOW_END, length) ??
      this.highestFreeIn(aperture.start > LOW_END ? aperture.start : LOW_END, end, length)
    );
  }

  private highestFreeIn(from: bigint, end: bigint, length: number): bigint | undefined {
    const alignment = BigInt(alignmentOf(length));
    const size = BigInt(length);
    let start = end - size;
    while (start >= from) {
      start -= start % alignment;
      if (start < from) return undefined;
      const obstacle = this.occupied.firstIntersecting(start, start + size - 1n);
      if (obstacle === undefined) return start;
      start = obstacle.start - size;
    }
    return undefined;
  }

  /** No address that a member of the group must not use is handed out. */
  private keepOut(group: Group): void {
    if (group.devices.every((device) => this.known.has(device))) return;
    for (const { start, last } of group.reservedRegions()) {
      for (const hole of [...this.occupied.holes(start, last)]) {
        this.occupied.insert(hole.start, hole.last, "reserved");
      }
    }
    for (const device of group.devices) this.known.add(device);
  }

  private startTimer(): void {
    this.stopTimer ??= this.system.clock.after(LONGEST_WAIT, () => {
      this.stopTimer = undefined;
      this.system.tasks.spawn(`flush of ${this.domain.label}`, this.flush());
    });
  }

  private roundUp(size: number): number {
    return Math.ceil(size / this.granule) * this.granule;
  }

  private tell(kind: string, fields: Record<string, unknown>): void {
    const { events } = this.system;
    if (events.on) events.emit({ kind, domain: this.domain.label, ...fields });
  }
}

/** The next power of two, up to a bound. */
function alignmentOf(length: number): number {
  let alignment = 1;
  while (alignment < length && alignment < LARGEST_ALIGNMENT) alignment *= 2;
  return alignment;
}

/** All that is to be forgotten, and what lies between. */
function gatherOf(entries: readonly Unmapped[]): UnmapGather {
  const all = newGather();
  for (const { gather } of entries) {
    all.freedTables.push(...gather.freedTables);
    if (gather.last < gather.start) continue;
    const isFirst = all.last < all.start;
    all.leafSize = isFirst || all.leafSize === gather.leafSize ? gather.leafSize : 0;
    extendGather(all, gather.start, gather.last);
  }
  return all;
}
