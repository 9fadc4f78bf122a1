// Runs in a browser.
/**
 * The context descriptors of one device, by substream id (Arm IHI 0070 sections 3.3.2 and 5.3; reference 6.3). A substream
 * is a PASID; number 0 is the CD of traffic without one.
 *
 * The table is made of *leaves* of up to 1024 CDs, which is 64 KiB. There is one, or, for wider substream ids, a first level
 * of 64-bit descriptors that lead to them; a leaf is then made when the first of its substreams is reserved.
 *
 * A leaf can be exchanged for a copy in which one CD is another. One 64-bit word leads to it, the first-level descriptor
 * or, where there is none, the pointer in the STE: so the hardware goes from the old CD to the new one in one step,
 * whatever they are, and all other CDs are the same before and after.
 */
import { PAGE_SIZE, type PhysicalMemory } from "../../../memory/index.ts";
import type { System, Task } from "../../../runtime/index.ts";
import type { PasidTableDevice, VendorTable } from "../../vendor.ts";
import type { ArmContext } from "./context.ts";
import { contextDescriptorKind } from "./context-descriptor.ts";
import { changesInOneStep, type Entry, fillEntry, newEntry, readEntry, writeEntry } from "./entry-writer.ts";

const ENTRY_BYTES = 64;
const LEVEL1_BYTES = 8;
const LEVEL1_VALID = 1;
/** The widest substream ids for which one leaf is enough. */
export const LOG2_LEAF_ENTRIES_MAX = 10;

export class ArmContextTable implements VendorTable<ArmContext> {
  /** log2 of the number of CDs. */
  readonly log2Entries: number;
  readonly isTwoLevel: boolean;
  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly canStall: boolean;
  private readonly leafFrames: number;
  private readonly level1Frames: number;
  private readonly level1: number | undefined;
  /** First frames of the leaves, by the upper bits of the substream id. */
  private readonly leaves = new Map<number, number>();
  /** That of a leaf which was exchanged, until it is freed. */
  private readonly left = new Map<number, number>();

  /** All descriptors invalid. Refusal ENOMEM. */
  constructor(system: System, memory: PhysicalMemory, { log2Pasids, canStall }: PasidTableDevice) {
    system.failures.point("pasidtable.table.allocate");
    this.system = system;
    this.memory = memory;
    this.canStall = canStall;
    this.log2Entries = log2Pasids;
    this.isTwoLevel = log2Pasids > LOG2_LEAF_ENTRIES_MAX;
    this.leafFrames = framesFor(2 ** Math.min(log2Pasids, LOG2_LEAF_ENTRIES_MAX) * ENTRY_BYTES);
    this.level1Frames = framesFor(2 ** (log2Pasids - LOG2_LEAF_ENTRIES_MAX) * LEVEL1_BYTES);
    if (this.isTwoLevel) this.level1 = memory.allocate(this.level1Frames, this.level1Frames);
    else this.leaves.set(0, this.allocateSpare());
  }

  /** What S1ContextPtr points to. */
  get address(): number {
    return (this.level1 ?? this.leaves.get(0)!) * PAGE_SIZE;
  }

  get movesOnExchange(): boolean {
    return !this.isTwoLevel;
  }

  reserve(substreamId: number): boolean {
    const index = leafOf(substreamId);
    if (this.leaves.has(index)) return false;
    this.lead(index, this.allocateSpare());
    return true;
  }

  /** Physical address of the CD of a reserved substream. */
  entryAddress(substreamId: number): number {
    return addressIn(this.leaves.get(leafOf(substreamId))!, substreamId);
  }

  changesInPlace(substreamId: number, context: ArmContext): boolean {
    const current = readEntry(this.memory, this.entryAddress(substreamId));
    return changesInOneStep(current, this.descriptor(context), contextDescriptorKind);
  }

  *write(substreamId: number, context: ArmContext | undefined, forgotten: () => Task<void>): Task<void> {
    const address = this.entryAddress(substreamId);
    yield* writeEntry(this.memory, address, this.descriptor(context), contextDescriptorKind, forgotten);
  }

  says(substreamId: number, context: ArmContext | undefined): boolean {
    const current = readEntry(this.memory, this.entryAddress(substreamId));
    return this.descriptor(context).every((word, i) => word === current[i]);
  }

  allocateSpare(): number {
    this.system.failures.point("pasidtable.leaf.allocate");
    return this.memory.allocate(this.leafFrames, this.leafFrames);
  }

  exchange(substreamId: number, context: ArmContext, fresh: number): number {
    const index = leafOf(substreamId);
    const old = this.leaves.get(index)!;
    for (let frame = 0; frame < this.leafFrames; frame++) this.memory.copyFrame(old + frame, fresh + frame);
    fillEntry(this.memory, addressIn(fresh, substreamId), this.descriptor(context));
    this.left.set(index, old);
    this.lead(index, fresh);
    return old;
  }

  *writeLeaving(substreamId: number, context: ArmContext, forgotten: () => Task<void>): Task<void> {
    const leaf = this.left.get(leafOf(substreamId));
    if (leaf === undefined) return;
    const address = addressIn(leaf, substreamId);
    yield* writeEntry(this.memory, address, this.descriptor(context), contextDescriptorKind, forgotten);
  }

  freeSpare(left: number): void {
    for (const [index, leaf] of this.left) if (leaf === left) this.left.delete(index);
    this.memory.free(left, this.leafFrames);
  }

  free(): void {
    for (const leaf of this.leaves.values()) this.memory.free(leaf, this.leafFrames);
    if (this.level1 !== undefined) this.memory.free(this.level1, this.level1Frames);
  }

  private descriptor(context: ArmContext | undefined): Entry {
    return context?.descriptor(this.canStall) ?? newEntry();
  }

  private lead(index: number, leaf: number): void {
    this.leaves.set(index, leaf);
    if (this.level1 === undefined) return;
    const pointer = leaf * PAGE_SIZE;
    const at = this.level1 * PAGE_SIZE + index * LEVEL1_BYTES;
    this.memory.writeDoubleword(at, ((pointer % 2 ** 32) | LEVEL1_VALID) >>> 0, Math.floor(pointer / 2 ** 32));
  }
}

function framesFor(bytes: number): number {
  return Math.ceil(bytes / PAGE_SIZE);
}

function leafOf(substreamId: number): number {
  return Math.floor(substreamId / 2 ** LOG2_LEAF_ENTRIES_MAX);
}

function addressIn(leaf: number, substreamId: number): number {
  return leaf * PAGE_SIZE + (substreamId % 2 ** LOG2_LEAF_ENTRIES_MAX) * ENTRY_BYTES;
}
