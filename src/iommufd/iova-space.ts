// Runs in a browser.
/**
 * The IOVA space of an IOAS: which IOVAs show which memory, and the domains in which that is really so.
 *
 * Three sets: *areas* (mappings), *reserved* ranges (never mapped), *allowed* ranges (where the kernel may place a mapping
 * by itself; none: everywhere). Areas and reserved ranges are disjoint and lie in one interval map, `occupied`.
 *
 * Always true:
 * - every ready area is completely in every linked domain, and its pages are pinned exactly while there is a domain;
 * - an area enters and leaves the domains only while its task holds `domainsLock`: for reading to move its own area, for
 *   writing to add or remove a domain, which moves all of them;
 * - `occupied`, reserved and allowed change in plain functions, at once: between two yields nobody sees them half changed,
 *   so they need no lock of their own;
 * - pages are unpinned only after every domain unmapped them *and* its sync returned: no DMA lands on them later.
 *
 * For a moment false: an area that is building or leaving takes its IOVAs without being (completely) mapped.
 *
 * Lock order: IOAS mutex → domainsLock → whatever a driver takes in map, unmap and sync.
 */
import { newGather, type PagingDomain, PROT_CACHE } from "../iommu/index.ts";
import { PAGE_SIZE, type Process } from "../memory/index.ts";
import {
  assert,
  bigintOf,
  DoneTask,
  done,
  EADDRINUSE,
  EBUSY,
  EDEADLK,
  EEXIST,
  EINVAL,
  ENOENT,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  type Interval,
  IntervalMap,
  Refusal,
  RwLock,
  refuse,
  type System,
  type Task,
} from "../runtime/index.ts";
import { Area, type Occupant, type Slice } from "./area.ts";
import { enterDomain, mapArea, pinArea, unmapAreas, unmapFromAll, unpinArea } from "./mapping.ts";
import { placeAutomatically } from "./placement.ts";
import {
  gapsBetween,
  hexRange,
  type IovaRange,
  joinRanges,
  MAX_IOVA,
  RESERVED,
  type ReservationOwner,
  Reservations,
} from "./reserved.ts";

const PAGE = BigInt(PAGE_SIZE);
const LONGEST = MAX_IOVA - PAGE;

/** What is to be mapped, and where. */
export interface MapRequest {
  /** In IOVA order; together `length` bytes. */
  readonly slices: readonly Slice[];
  readonly length: bigint;
  /** The IOVA; undefined: the kernel chooses. */
  readonly fixed: bigint | undefined;
  /** PROT_READ, PROT_WRITE. */
  readonly prot: number;
  /** Makes the call. */
  readonly caller: Process;
}

/** Where dirty pages are looked for. */
export interface DirtyRange {
  readonly start: bigint;
  /** Inclusive. */
  readonly last: bigint;
  readonly contiguous: boolean;
  readonly clear: boolean;
}

/** Somebody who reads, writes or pins what is mapped, without a domain (reference 3.13). */
export interface SpaceUser {
  readonly label: string;
  /** It pins pages, so areas must be made of whole ones. */
  readonly pins: boolean;
  /** Mappings of the range are to go: it gives up what it has pinned of them. Called without locks. */
  notifyUnmap(start: bigint, length: bigint): Task<void>;
}

/** How often users are asked to give up the same area. */
const UNMAP_TRIES = 100;

export class IovaSpace {
  /** Of the IOAS, for messages. */
  readonly label: string;
  private readonly system: System;
  private readonly domainsLock: RwLock;
  private readonly domains: PagingDomain[] = [];
  private readonly users = new Set<SpaceUser>();
  private readonly occupied = new IntervalMap<Occupant>();
  private readonly reservations: Reservations = new Reservations(this.occupied);
  /** Joined, ascending. */
  private allowed: readonly IovaRange[] = [];
  private hugePages = true;
  private currentAlignment = 1n;
  private areaCount = 0;

  constructor(system: System, label: string) {
    this.system = system;
    this.label = label;
    this.domainsLock = new RwLock(system, "iommufd.domains");
  }

  // ---- What is there

  /** Every area's IOVA, length and offset in the page is a multiple of it; 1 to 4096. */
  get alignment(): number {
    return Number(this.currentAlignment);
  }

  get usesHugePages(): boolean {
    return this.hugePages;
  }

  /** The areas, ascending. */
  areas(): Area[] {
    const areas: Area[] = [];
    for (const { value } of this.occupied) if (value !== RESERVED) areas.push(value);
    return areas;
  }

  /** What is not reserved, ascending. */
  usableRanges(): IovaRange[] {
    return gapsBetween(this.reservations.joined);
  }

  describe(): Record<string, unknown> {
    return {
      alignment: this.alignment,
      hugePages: this.hugePages,
      domains: this.domains.map((domain) => domain.label),
      areas: this.areas().map(({ start, last, state, prot, pages, pinned }) => ({
        start,
        last,
        state,
        prot,
        source: pages.source.label,
        pinned,
      })),
      reserved: this.reservations.describe(),
      allowed: this.allowed,
    };
  }

  // ---- Map

  /**
   * Maps slices as consecutive areas; returns the IOVA of the first. Refusals in order: EINVAL (length), then for a fixed
   * IOVA EINVAL (alignment), EOVERFLOW, EINVAL (reserved), EEXIST, else those of {@link placeAutomatically}; EPERM
   * (WRITEABLE of a page set created without), EINVAL (offset in the page); with a domain those of pinning and of the
   * driver. Then nothing has changed.
   */
  map(request: MapRequest): Task<bigint> {
    const areas = this.occupy(this.place(request), request);
    return this.domainsLock.tryTakeRead()
      ? this.enter(areas, request.caller)
      : this.lockAndEnter(areas, request.caller);
  }

  private *lockAndEnter(areas: readonly Area[], caller: Process): Task<bigint> {
    yield* this.domainsLock.takeRead();
    return yield* this.enter(areas, caller);
  }

  /** With domainsLock held, which it gives back. */
  private enter(areas: readonly Area[], caller: Process): Task<bigint> {
    try {
      const wait = this.enterDomains(areas, caller);
      if (wait !== done) return this.enterAfter(wait, areas);
    } catch (error) {
      this.abandon(areas);
      throw error;
    }
    return new DoneTask(this.settle(areas));
  }

  private *enterAfter(wait: Task<void>, areas: readonly Area[]): Task<bigint> {
    try {
      yield* wait;
    } catch (error) {
      this.abandon(areas);
      throw error;
    }
    return this.settle(areas);
  }

  /** What was being built is ready. */
  private settle(areas: readonly Area[]): bigint {
    for (const area of areas) area.state = "ready";
    this.domainsLock.releaseRead();
    const [{ start }] = areas;
    if (this.system.events.on) {
      this.system.events.emit({ kind: "iommufd.area.map", ioas: this.label, start, last: areas.at(-1)!.last });
    }
    return start;
  }

  private abandon(areas: readonly Area[]): void {
    this.vacate(areas);
    this.domainsLock.releaseRead();
  }

  /** What is mapped at an IOVA, unless it is being built or torn down. */
  areaAt(iova: bigint): Area | undefined {
    const area = this.occupied.at(iova)?.value;
    return area === undefined || area === RESERVED || area.state !== "ready" ? undefined : area;
  }

  /** Parts of page sets that show at `start` … `last`. ENOENT where no ready area is. */
  slicesOf(start: bigint, last: bigint): Slice[] {
    const slices: Slice[] = [];
    for (let at = start; ; ) {
      const area = this.areaAt(at);
      if (area === undefined) {
        return refuse(ENOENT, () => `nothing is mapped at 0x${at.toString(16)} of ${this.label}`);
      }
      if (area.last >= last) {
        slices.push(area.slice(at, last));
        return slices;
      }
      slices.push(area.slice(at, area.last));
      at = area.last + 1n;
    }
  }

  private place({ slices, length, fixed }: MapRequest): bigint {
    if (length === 0n) refuse(EINVAL, () => "length is 0");
    if (length > LONGEST) refuse(EINVAL, () => `length 0x${length.toString(16)} is above 0x${LONGEST.toString(16)}`);
    this.checkAligned("length", length);
    if (fixed === undefined) {
      const [{ page, offset }] = slices;
      const address = bigintOf(page) * PAGE + bigintOf(offset);
      return placeAutomatically(this.occupied, { length, address, alignment: this.alignment, allowed: this.allowed });
    }
    this.checkAligned("iova", fixed);
    const last = fixed + (length - 1n);
    if (last > MAX_IOVA) {
      refuse(EOVERFLOW, () => `iova 0x${fixed.toString(16)} + length 0x${length.toString(16)} exceeds 64 bits`);
    }
    const hit = this.occupied.firstIntersecting(fixed, last);
    if (hit !== undefined) this.refuseOccupied(fixed, last, hit);
    return fixed;
  }

  private checkAligned(what: string, value: bigint): void {
    const alignment = this.currentAlignment;
    if (alignment !== 1n && value % alignment !== 0n) {
      refuse(
        EINVAL,
        () => `${what} 0x${value.toString(16)} is no multiple of ${alignment}, the alignment of ${this.label}`,
      );
    }
  }

  /** Reserved ranges are named first, wherever they are in the range. */
  private refuseOccupied(start: bigint, last: bigint, first: Interval<Occupant>): never {
    for (const { value } of this.occupied.intersecting(start, last)) {
      if (value !== RESERVED) continue;
      const owners = this.reservations.ownersOf(start, last);
      refuse(EINVAL, () => `${hexRange(start, last)} touches what is reserved in ${this.label}: ${owners}`);
    }
    const { value: area } = first;
    assert(area !== RESERVED, "a reserved range was named before");
    refuse(EEXIST, () => `${hexRange(start, last)} overlaps ${area.label} of ${this.label}`);
  }

  /** Makes the areas and takes their IOVAs. */
  private occupy(start: bigint, { slices, prot }: MapRequest): Area[] {
    this.system.failures.point("iommufd.area.allocate");
    const alignment = this.alignment;
    for (const { pages, offset } of slices) {
      if ((prot & 2) !== 0 && !pages.writable) {
        refuse(EPERM, () => `${pages.source.label} was mapped without WRITEABLE: no copy may be writeable`);
      }
      if (offset % alignment !== 0) {
        refuse(
          EINVAL,
          () =>
            `offset 0x${offset.toString(16)} in the page is no multiple of ${alignment}, the alignment of ${this.label}`,
        );
      }
    }
    let next = start;
    const areas = slices.map((slice) => {
      const area = new Area(next, next + (slice.length - 1n), slice, prot | PROT_CACHE);
      area.interval = this.occupied.insert(area.start, area.last, area);
      if (slice.pages.isRevocable) slice.pages.shownBy(area, this);
      next += slice.length;
      return area;
    });
    this.areaCount += areas.length;
    return areas;
  }

  private vacate(areas: readonly Area[]): void {
    for (const area of areas) {
      this.occupied.remove(area.interval!);
      if (area.pages.isRevocable) area.pages.hiddenBy(area);
    }
    this.areaCount -= areas.length;
  }

  // ---- Unmap

  /**
   * Removes the areas in `start` … `last`, lowest first; returns how many bytes they had. Refusals at the first area that
   * is building, leaving or locked (EBUSY), reaches out of the range (ENOENT), or stays pinned by an access though that was
   * asked a hundred times (EDEADLK): those before it are gone, and `removed` says how many bytes that were.
   */
  unmap(start: bigint, last: bigint, removed: { bytes: bigint } = { bytes: 0n }): Task<bigint> {
    const removing = this.removeUpToPinned(start, last, removed);
    if (!(removing instanceof DoneTask) || removing.value !== undefined) {
      return this.unmapPinned(removing, start, last, removed);
    }
    this.tellUnmapped(start, last);
    return new DoneTask(removed.bytes);
  }

  /** Goes on with `removing`, the first part, and past each area that is pinned. */
  private *unmapPinned(
    removing: Task<Area | undefined>,
    start: bigint,
    last: bigint,
    removed: { bytes: bigint },
  ): Task<bigint> {
    let from = start;
    let pinned = yield* removing;
    for (let tries = 1; pinned !== undefined; tries++) {
      if (pinned.start !== from) tries = 1;
      from = pinned.start;
      yield* this.askToUnpin(pinned, tries);
      pinned = yield* this.removeUpToPinned(from, last, removed);
    }
    this.tellUnmapped(start, last);
    return removed.bytes;
  }

  /** Removes areas of a range, up to one that is pinned: that one. Refusals as {@link unmap}. */
  private removeUpToPinned(start: bigint, last: bigint, removed: { bytes: bigint }): Task<Area | undefined> {
    return this.domainsLock.tryTakeRead()
      ? this.remove(start, last, removed)
      : this.lockAndRemove(start, last, removed);
  }

  private *lockAndRemove(start: bigint, last: bigint, removed: { bytes: bigint }): Task<Area | undefined> {
    yield* this.domainsLock.takeRead();
    return yield* this.remove(start, last, removed);
  }

  /** With domainsLock held, which it gives back. */
  private remove(start: bigint, last: bigint, removed: { bytes: bigint }): Task<Area | undefined> {
    const leaving: Area[] = [];
    const end = this.collectLeaving(start, last, leaving);
    for (const area of leaving) removed.bytes += area.length;
    const wait = unmapFromAll(this.domains, leaving);
    return wait === done ? new DoneTask(this.forget(leaving, end)) : this.forgetAfter(wait, leaving, end);
  }

  private *forgetAfter(
    wait: Task<void>,
    leaving: readonly Area[],
    end: Refusal | Area | undefined,
  ): Task<Area | undefined> {
    yield* wait;
    return this.forget(leaving, end);
  }

  /** Of areas that are in no domain any more; `end` is why there are no more of them. */
  private forget(leaving: readonly Area[], end: Refusal | Area | undefined): Area | undefined {
    for (const area of leaving) if (area.pinned) unpinArea(area);
    this.vacate(leaving);
    this.domainsLock.releaseRead();
    if (end instanceof Refusal) throw end;
    return end;
  }

  private tellUnmapped(start: bigint, last: bigint): void {
    if (this.system.events.on) this.system.events.emit({ kind: "iommufd.area.unmap", ioas: this.label, start, last });
  }

  /** Asks all users to unpin an area that is to go. Refusal EDEADLK: it was for nothing too often. */
  private *askToUnpin(area: Area, tries: number): Task<void> {
    area.refusesAccess = true;
    for (const user of [...this.users]) yield* user.notifyUnmap(area.start, area.last - area.start + 1n);
    if (tries > UNMAP_TRIES) {
      refuse(EDEADLK, () => `${area.label} of ${this.label} is still pinned after ${tries} requests to unpin it`);
    }
  }

  /** Hides from lookups, into `leaving`, what is to go; the refusal, or the area that is pinned, at which that ended. */
  private collectLeaving(start: bigint, last: bigint, leaving: Area[]): Refusal | Area | undefined {
    let interval = this.occupied.firstIntersecting(start, last);
    for (; interval !== undefined && interval.start <= last; interval = this.occupied.next(interval)) {
      const area = interval.value;
      if (area === RESERVED) continue;
      if (area.state !== "ready") {
        return new Refusal(EBUSY, () => `${area.label} of ${this.label} is ${area.state} in another call`);
      }
      if (area.locks > 0) return new Refusal(EBUSY, () => `a hardware queue lies in ${area.label} of ${this.label}`);
      if (area.start < start || area.last > last) {
        return new Refusal(ENOENT, () => `${area.label} of ${this.label} is only partly in ${hexRange(start, last)}`);
      }
      if (area.accessPins > 0) return area;
      area.state = "leaving";
      leaving.push(area);
    }
    return undefined;
  }

  // ---- Cut

  /**
   * Cuts areas in two, so that an area's last byte is at each of the IOVAs. Nothing where an area begins or ends there
   * anyway. EBUSY: the area is building or leaving. EINVAL: a part would not have the alignment, or the area may be mapped
   * by leaves that reach over the cut. Cuts before a refusal stay.
   */
  *cut(lasts: readonly bigint[]): Task<void> {
    yield* this.domainsLock.takeWrite();
    try {
      for (const last of lasts) this.cutBehind(last);
    } finally {
      this.domainsLock.releaseWrite();
    }
  }

  private cutBehind(last: bigint): void {
    const area = this.occupied.at(last)?.value;
    if (area === undefined || area === RESERVED || last === area.start || last === area.last) return;
    if (area.state !== "ready" || area.refusesAccess) {
      refuse(EBUSY, () => `${area.label} of ${this.label} is ${area.state} in another call`);
    }
    if (area.pages.isRevocable)
      refuse(EOPNOTSUPP, () => `${area.label} shows ${area.pages.source.label}: no part can go`);
    const slices = [area.slice(area.start, last), area.slice(last + 1n, area.last)] as const;
    const alignment = this.currentAlignment;
    if ((last + 1n) % alignment !== 0n || BigInt(slices[1].offset) % alignment !== 0n) {
      refuse(EINVAL, () => `${area.label} cut behind 0x${last.toString(16)} is not aligned to ${alignment}`);
    }
    if (area.accessPins > 0) refuse(EINVAL, () => `${area.label} of ${this.label} is pinned by an access`);
    if (this.domains.length > 0 && this.hugePages) {
      refuse(EINVAL, () => `${area.label} may be mapped by large leaves, which cannot be cut`);
    }
    this.system.failures.point("iommufd.area.cut");
    const parts = [
      new Area(area.start, last, slices[0], area.prot),
      new Area(last + 1n, area.last, slices[1], area.prot),
    ];
    assert(!area.pinned || parts[0].lastPage < parts[1].page, () => `${area.label} is pinned and cut within a page`);
    this.vacate([area]);
    for (const part of parts) {
      part.state = "ready";
      part.pinned = area.pinned;
      part.interval = this.occupied.insert(part.start, part.last, part);
    }
    this.areaCount += parts.length;
    if (this.system.events.on) this.system.events.emit({ kind: "iommufd.area.cut", ioas: this.label, last });
  }

  // ---- Reserved and allowed ranges

  /** EADDRINUSE if an area or an allowed range is there; other reservations may be. */
  reserve(start: bigint, last: bigint, owner: ReservationOwner | undefined): void {
    for (const { value } of this.occupied.intersecting(start, last)) {
      if (value === RESERVED) continue;
      const who = owner?.label ?? "a test";
      refuse(EADDRINUSE, () => `${who} reserves ${hexRange(start, last)}, where ${value.label} of ${this.label} is`);
    }
    for (const range of this.allowed) {
      if (range.start > last || range.last < start) continue;
      const allowed = hexRange(range.start, range.last);
      const who = owner?.label ?? "a test";
      refuse(EADDRINUSE, () => `${who} reserves ${hexRange(start, last)}, but ${allowed} is allowed in ${this.label}`);
    }
    this.reservations.add(start, last, owner);
  }

  /** Drops all that `owner` reserved. */
  unreserve(owner: ReservationOwner): void {
    this.reservations.remove(owner);
  }

  /** Replaces the allowed ranges; none: everywhere. EADDRINUSE if one touches a reserved range: the old ones stay. */
  allow(ranges: readonly IovaRange[]): void {
    for (const { start, last } of ranges) {
      if (!this.reservations.joined.some((reserved) => reserved.start <= last && reserved.last >= start)) continue;
      const owners = this.reservations.ownersOf(start, last);
      refuse(
        EADDRINUSE,
        () => `allowed range ${hexRange(start, last)} touches what is reserved in ${this.label}: ${owners}`,
      );
    }
    this.allowed = joinRanges(ranges);
  }

  // ---- Alignment

  /** OPTION HUGE_PAGES. Off: EINVAL with a domain and an area, EADDRINUSE if an area does not fit the page size. */
  *setHugePages(on: boolean): Task<void> {
    yield* this.domainsLock.takeWrite();
    try {
      if (on === this.hugePages) return;
      if (!on && this.domains.length > 0 && this.areaCount > 0) {
        refuse(
          EINVAL,
          () => `${this.label} has ${this.areaCount} areas in ${this.domains[0].label}: too late to split pages`,
        );
      }
      if (!on) this.raiseAlignment(BigInt(PAGE_SIZE), "huge pages off");
      this.hugePages = on;
      this.recomputeAlignment();
    } finally {
      this.domainsLock.releaseWrite();
    }
  }

  private raiseAlignment(alignment: bigint, who: string): void {
    if (alignment <= this.currentAlignment) return;
    for (const { value } of this.occupied) {
      if (value === RESERVED || value.isAligned(alignment)) continue;
      refuse(EADDRINUSE, () => `${who} wants alignment ${alignment}, which ${value.label} of ${this.label} has not`);
    }
    this.currentAlignment = alignment;
  }

  private recomputeAlignment(): void {
    let alignment = this.hugePages ? 1 : PAGE_SIZE;
    for (const domain of this.domains) alignment = Math.max(alignment, domain.pageSizes[0]);
    for (const user of this.users) if (user.pins) alignment = PAGE_SIZE;
    this.currentAlignment = BigInt(alignment);
  }

  // ---- Revocation

  /** What the area shows was taken back: it stays, but no domain shows it any more, now or later. */
  *withdraw(area: Area): Task<void> {
    yield* this.domainsLock.takeWrite();
    if (area.state === "ready") for (const domain of this.domains) yield* unmapAreas(domain, [area]);
    area.withdrawn = true;
    this.domainsLock.releaseWrite();
  }

  // ---- Dirty pages

  /**
   * Tells what is dirty of the areas in a range, as a linked domain knows it, ascending; `contiguous`: only up to the first
   * hole. With `clear` it is clean afterwards, and the hardware notices the next write.
   */
  *readDirty(domain: PagingDomain, range: DirtyRange, report: (iova: bigint, size: number) => void): Task<void> {
    const { start, last, contiguous, clear } = range;
    yield* this.domainsLock.takeRead();
    try {
      const reader = { clear, report, gather: newGather() };
      let next = start;
      for (let at = this.occupied.firstIntersecting(start, last); at !== undefined; at = this.occupied.next(at)) {
        const area = at.value;
        if (at.start > last || (contiguous && at.start > next)) break;
        if (area === RESERVED || area.state !== "ready") {
          if (contiguous) break;
          continue;
        }
        const from = at.start > start ? at.start : start;
        const to = at.last < last ? at.last : last;
        yield* domain.readDirty!(from, Number(to - from) + 1, reader);
        next = to + 1n;
      }
      if (reader.gather.last >= reader.gather.start) yield* domain.sync(reader.gather);
    } finally {
      this.domainsLock.releaseRead();
    }
  }

  // ---- Accesses

  /** Refusal EADDRINUSE: the user pins pages, and an area is not made of whole ones. */
  *addUser(user: SpaceUser): Task<void> {
    yield* this.domainsLock.takeWrite();
    try {
      this.system.failures.point("iommufd.access.add");
      if (user.pins) this.raiseAlignment(BigInt(PAGE_SIZE), user.label);
      this.users.add(user);
    } finally {
      this.domainsLock.releaseWrite();
    }
  }

  /** Of a user that has nothing pinned any more. Cannot fail. */
  *removeUser(user: SpaceUser): Task<void> {
    yield* this.domainsLock.takeWrite();
    this.users.delete(user);
    this.recomputeAlignment();
    this.domainsLock.releaseWrite();
  }

  // ---- Domains

  /**
   * From now on `domain` shows every area. Refusals in order: EINVAL (its smallest page is above 4096), EADDRINUSE
   * (alignment, aperture), then those of pinning and of the driver. Then everything is as before.
   */
  *link(domain: PagingDomain, owner: ReservationOwner, caller: Process): Task<void> {
    yield* this.domainsLock.takeWrite();
    try {
      this.system.failures.point("iommufd.domain.link");
      const [smallest] = domain.pageSizes;
      if (smallest > PAGE_SIZE) refuse(EINVAL, () => `the smallest page of ${domain.label} is ${smallest}, above 4096`);
      this.raiseAlignment(BigInt(smallest), owner.label);
      const { start, last } = domain.aperture;
      if (start > 0n) this.reserve(0n, start - 1n, owner);
      if (last < MAX_IOVA) this.reserve(last + 1n, MAX_IOVA, owner);
      yield* this.fillDomain(domain, caller);
      this.domains.push(domain);
      this.tell("iommufd.domain.link", domain);
    } catch (error) {
      this.unreserve(owner);
      this.recomputeAlignment();
      throw error;
    } finally {
      this.domainsLock.releaseWrite();
    }
  }

  /** `domain` shows nothing any more. Cannot fail. */
  *unlink(domain: PagingDomain, owner: ReservationOwner): Task<void> {
    yield* this.domainsLock.takeWrite();
    const index = this.domains.indexOf(domain);
    assert(index >= 0, () => `${domain.label} is not linked to ${this.label}`);
    this.domains.splice(index, 1);
    yield* this.leaveDomains(this.readyAreas(), [domain]);
    this.unreserve(owner);
    this.recomputeAlignment();
    this.tell("iommufd.domain.unlink", domain);
    this.domainsLock.releaseWrite();
  }

  /** Drops all areas, of a space without domains. */
  clear(): void {
    assert(this.domains.length === 0, () => `${this.label} is cleared but linked to ${this.domains[0].label}`);
    this.vacate(this.areas());
  }

  /** Areas that are in the domains. Under the write lock that is: all but those that wait to enter. */
  private readyAreas(): Area[] {
    return this.areas().filter((area) => area.state === "ready");
  }

  /** Maps every ready area into a domain that is not linked yet; all or nothing. */
  private *fillDomain(domain: PagingDomain, caller: Process): Task<void> {
    const areas = this.readyAreas();
    let done = 0;
    try {
      for (; done < areas.length; done++) {
        const area = areas[done];
        pinArea(area, caller);
        try {
          yield* mapArea(domain, area, this.hugePages);
        } catch (error) {
          if (this.domains.length === 0) unpinArea(area);
          throw error;
        }
      }
    } catch (error) {
      yield* this.leaveDomains(areas.slice(0, done), [domain]);
      throw error;
    }
  }

  /** Pins areas and maps them into every linked domain; all or nothing. */
  private enterDomains(areas: readonly Area[], caller: Process): Task<void> {
    const { domains } = this;
    if (domains.length === 0) return done;
    return areas.length === 1 && domains.length === 1
      ? enterDomain(domains[0], areas[0], caller, this.hugePages)
      : this.enterEach(areas, caller);
  }

  private *enterEach(areas: readonly Area[], caller: Process): Task<void> {
    const { domains } = this;
    let area = 0;
    let domain = 0;
    try {
      for (; area < areas.length; area++) {
        pinArea(areas[area], caller);
        for (domain = 0; domain < domains.length; domain++)
          yield* mapArea(domains[domain], areas[area], this.hugePages);
      }
    } catch (error) {
      yield* this.leaveDomains(areas.slice(0, area), domains);
      if (areas[area].pinned) {
        yield* this.leaveDomains([areas[area]], domains.slice(0, domain));
        unpinArea(areas[area]);
      }
      throw error;
    }
  }

  /**
   * Takes areas out of `domains`; what is in no domain then is unpinned, once no domain's hardware remembers it. Called
   * with the linked domains, or with one that is not among them (yet, or any more).
   */
  private *leaveDomains(areas: readonly Area[], domains: readonly PagingDomain[]): Task<void> {
    this.domainsLock.assertHeld();
    yield* unmapFromAll(domains, areas);
    if (domains === this.domains || this.domains.length === 0)
      for (const area of areas) if (area.pinned) unpinArea(area);
  }

  private tell(kind: string, domain: PagingDomain): void {
    if (this.system.events.on) this.system.events.emit({ kind, ioas: this.label, domain: domain.label });
  }
}
