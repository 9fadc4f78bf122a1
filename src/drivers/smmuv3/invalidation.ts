// Runs in a browser.
/**
 * What SMMU and devices must forget when a mapping goes: here an unmap becomes invalidations.
 *
 * Each paging domain keeps an array of *targets*: what the TLB may have stored its translations under, and which devices
 * may know some of their own (ATS). A target is in the array before the first STE or CD points to the domain and leaves it
 * after the last one ceased to (invariant 30); when it leaves, everything under its tag is invalidated, so a tag that no
 * domain uses is always clean (32).
 *
 * Devices come last, and only when the TLB has forgotten: they would ask it, and learn again what they forgot.
 */
import { done, type Task } from "../../runtime/index.ts";
import type { CommandQueue } from "./command-queue.ts";
import {
  type CommandSink,
  invalidateAddress,
  invalidateAsid,
  invalidateDeviceCache,
  invalidateStage1OfVmid,
  invalidateVmid,
  TLBI_NH_VA,
  TLBI_S2_IPA,
} from "./commands.ts";

/** In the order in which they are invalidated: stage 2 before what was made through it. */
const kindOrder = {
  asid: 0,
  "broadcast asid": 0,
  vmid: 1,
  "stage 1 of vmid": 2,
  device: 3,
  "whole device": 4,
} as const;

/**
 * `asid`: stage 1 translations. `broadcast asid`: those of a process, whose changes the SMMU hears from the CPU. `vmid`:
 * stage 2 ones. `stage 1 of vmid`: what a guest's stage 1 made through them. `device`: what a stream knows of its own,
 * under a PASID or without. `whole device`: the same, where the domain's addresses are not those that the device uses.
 */
export interface InvalidationTarget {
  readonly kind: keyof typeof kindOrder;
  /** ASID, VMID or stream id. */
  readonly tag: number;
  readonly pasid?: number | undefined;
}

/** A range of addresses whose translations are gone. */
export interface InvalidationRequest {
  readonly start: number;
  readonly size: number;
  /** Bytes of the leaves that went, 0 if they differ. */
  readonly leafSize: number;
  /** Tables went too. */
  readonly tables: boolean;
}

/** What the table's format and the SMMU say about invalidating a range. */
export interface InvalidationGeometry {
  readonly granule: number;
  readonly bitsPerLevel: number;
  readonly byRange: boolean;
}

export class DomainInvalidation {
  private readonly commands: CommandQueue;
  private readonly geometry: InvalidationGeometry;
  private readonly targets: { readonly target: InvalidationTarget; users: number }[] = [];

  constructor(commands: CommandQueue, geometry: InvalidationGeometry) {
    this.commands = commands;
    this.geometry = geometry;
  }

  /** True while something points to the domain. */
  get isUsed(): boolean {
    return this.targets.length > 0;
  }

  /** Before an STE or CD points to the domain. Targets are equal by kind, tag and PASID. */
  add(added: readonly InvalidationTarget[]): void {
    for (const target of added) {
      const known = this.find(target);
      if (known !== undefined) known.users++;
      else this.targets.push({ target, users: 1 });
    }
    this.targets.sort((a, b) => kindOrder[a.target.kind] - kindOrder[b.target.kind] || a.target.tag - b.target.tag);
  }

  /** After the STE or CD ceased to point to the domain. */
  *remove(removed: readonly InvalidationTarget[]): Task<void> {
    const unused: InvalidationTarget[] = [];
    for (const target of removed) {
      const known = this.find(target)!;
      if (--known.users > 0) continue;
      this.targets.splice(this.targets.indexOf(known), 1);
      unused.push(target);
    }
    for (const isDevice of [false, true]) {
      const some = unused.filter((target) => isOfDevice(target) === isDevice);
      for (const target of some) pushWhole(this.commands, target);
      if (some.length > 0) yield* this.commands.sync();
    }
  }

  /** What has translations under one tag may soon have them under another as well. */
  addLike(known: InvalidationTarget, target: InvalidationTarget): void {
    const users = this.find(known)?.users ?? 0;
    if (users === 0) return;
    this.add([target]);
    this.find(target)!.users = users;
  }

  /** Nothing has translations under this tag any more, and the hardware has forgotten them. */
  drop(target: InvalidationTarget): void {
    const known = this.find(target);
    if (known !== undefined) this.targets.splice(this.targets.indexOf(known), 1);
  }

  /** When it is done, no access uses a translation that was in the range. Nothing to do while the domain is not used. */
  invalidate(request: InvalidationRequest): Task<void> {
    const { targets, commands } = this;
    let devices = 0;
    for (const { target } of targets) {
      if (isOfDevice(target)) devices++;
      else pushRange(commands, target, request, this.geometry);
    }
    if (!commands.trySync()) return this.finish(request, devices);
    if (devices === 0) return done;
    this.pushDevices(request);
    return commands.trySync() ? done : commands.sync();
  }

  private *finish(request: InvalidationRequest, devices: number): Task<void> {
    yield* this.commands.sync();
    if (devices === 0) return;
    this.pushDevices(request);
    yield* this.commands.sync();
  }

  private pushDevices(request: InvalidationRequest): void {
    for (const { target } of this.targets) {
      if (target.kind === "device") invalidateDeviceCache(this.commands, target.tag, target.pasid, request);
      else if (target.kind === "whole device") pushWhole(this.commands, target);
    }
  }

  private find({ kind, tag, pasid }: InvalidationTarget): { users: number; target: InvalidationTarget } | undefined {
    return this.targets.find(({ target }) => target.kind === kind && target.tag === tag && target.pasid === pasid);
  }
}

/** SCALE has 5 bits; a range of so many granules is told as the whole tag. */
const RANGE_GRANULES = 2 ** 31;

function isOfDevice({ kind }: InvalidationTarget): boolean {
  return kind === "device" || kind === "whole device";
}

function pushWhole(sink: CommandSink, { kind, tag, pasid }: InvalidationTarget): void {
  if (kind === "asid" || kind === "broadcast asid") invalidateAsid(sink, tag);
  else if (kind === "vmid") invalidateVmid(sink, tag);
  else if (kind === "stage 1 of vmid") invalidateStage1OfVmid(sink, tag);
  else invalidateDeviceCache(sink, tag, pasid);
}

/**
 * Commands for a range: one for each leaf, or the whole tag where these would be too many (as many as a table of such
 * leaves has entries); with range invalidation as few as describe the range.
 */
export function pushRange(
  sink: CommandSink,
  target: InvalidationTarget,
  request: InvalidationRequest,
  geometry: InvalidationGeometry,
): void {
  if (target.kind === "broadcast asid") return;
  // A guest's own addresses say nothing about ours: everything that it made goes.
  const isBlind = target.kind === "stage 1 of vmid";
  const step = request.leafSize || geometry.granule;
  const isMost = geometry.byRange ? request.size / geometry.granule >= RANGE_GRANULES : request.size / step >= step / 8;
  if (isBlind || isMost) pushWhole(sink, target);
  else if (geometry.byRange) pushByRange(sink, target, request, geometry);
  else pushEach(sink, target, request, step);
}

function pushEach(
  sink: CommandSink,
  target: InvalidationTarget,
  { start, size, tables }: InvalidationRequest,
  step: number,
): void {
  const opcode = opcodeOf(target);
  for (let address = start; address < start + size; address += step) {
    invalidateAddress(sink, opcode, target.tag, address, !tables);
  }
}

/** NUM says up to 32 units of 2^SCALE granules, so a range is told by its binary digits, five at a time. */
function pushByRange(
  sink: CommandSink,
  target: InvalidationTarget,
  { start, size, leafSize, tables }: InvalidationRequest,
  { granule, bitsPerLevel }: InvalidationGeometry,
): void {
  const granuleLog2 = Math.log2(granule);
  const level = tables || leafSize === 0 ? 0 : 3 - (Math.log2(leafSize) - granuleLog2) / bitsPerLevel;
  const granuleCode = granuleLog2 / 2 - 5;
  const opcode = opcodeOf(target);
  let address = start;
  for (let left = size / granule; left > 0; ) {
    let scale = 0;
    let unit = 1;
    for (; left % (2 * unit) === 0; unit *= 2) scale++;
    const units = (left / unit) % 32;
    // One granule without a level is a reserved encoding (IHI 0070, 4.4.1.1): two are forgotten instead.
    const told = scale === 0 && units === 1 && level === 0 ? 2 : units;
    invalidateAddress(sink, opcode, target.tag, address, !tables, {
      granule: granuleCode,
      num: told - 1,
      scale,
      level,
    });
    left -= units * unit;
    address += units * unit * granule;
  }
}

function opcodeOf({ kind }: InvalidationTarget): typeof TLBI_NH_VA | typeof TLBI_S2_IPA {
  return kind === "asid" ? TLBI_NH_VA : TLBI_S2_IPA;
}
