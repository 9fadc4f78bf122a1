// Runs in a browser.
import type { AddressSpace, PhysicalMemory } from "../memory/index.ts";
import { PAGE_SIZE } from "../memory/index.ts";
import { type LpaeFormat, lpae } from "../pagetable/index.ts";
import { EINVAL, IdAllocator, refuse, type System } from "../runtime/index.ts";
import { Mm } from "./mm.ts";

/** What user addresses have, in bits. */
const VIRTUAL_BITS = 48;

export interface CpuOptions {
  /** Width of its physical addresses; 48 if absent. */
  readonly physicalBits?: number;
  /** Width of its ASIDs; 16 if absent. */
  readonly asidBits?: 8 | 16;
  /** Devices can walk the tables of processes; true if absent. */
  readonly sharesTables?: boolean;
}

/** A TLB that the CPU's TLB maintenance reaches: what it has under `asid` of `size` bytes from `start` on goes, at once. */
export type TlbInvalidation = (asid: number, start: number, size: number) => void;

/** The machine's CPU, as far as devices can share something with it: the form of its page tables, and whose they are. */
export class Cpu {
  readonly system: System;
  readonly memory: PhysicalMemory;
  /** Of the tables of all processes. */
  readonly format: LpaeFormat;
  readonly asidBits: 8 | 16;
  readonly sharesTables: boolean;
  private readonly asids: IdAllocator;
  private readonly tlbs = new Set<TlbInvalidation>();
  private readonly mms = new Map<AddressSpace, Mm>();

  constructor(system: System, memory: PhysicalMemory, options: CpuOptions = {}) {
    const { physicalBits = 48, asidBits = 16, sharesTables = true } = options;
    this.system = system;
    this.memory = memory;
    this.asidBits = asidBits;
    this.asids = new IdAllocator(1, 2 ** asidBits - 1);
    this.sharesTables = sharesTables;
    this.format = lpae({ stage: 1, granule: PAGE_SIZE, inputBits: VIRTUAL_BITS, outputBits: physicalBits });
  }

  /** The mm of a process's memory. Refusals: EINVAL if the process is gone and so is its mm; ENOMEM. */
  mmOf(space: AddressSpace): Mm {
    let mm = this.mms.get(space);
    if (mm === undefined) {
      if (!space.alive) refuse(EINVAL, () => `the memory of ${space.label} is gone`);
      mm = new Mm(this, space);
      mm.whenFreed(() => this.mms.delete(space));
      this.mms.set(space, mm);
    }
    return mm;
  }

  /** TLB maintenance is broadcast to `tlb` from now on. */
  broadcastTo(tlb: TlbInvalidation): void {
    this.tlbs.add(tlb);
  }

  /** The CPU's own TLB has nothing of it, and no other that hears of it. */
  invalidateTlb(asid: number, start: number, size: number): void {
    for (const tlb of this.tlbs) tlb(asid, start, size);
  }

  /** @internal An ASID for an mm that keeps it; 0 if none is left. */
  takeAsid(): number {
    return this.asids.allocate() ?? 0;
  }

  /** @internal */
  giveAsid(asid: number): void {
    this.asids.free(asid);
  }
}
