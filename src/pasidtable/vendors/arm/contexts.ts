// Runs in a browser.
/**
 * The contexts of one SMMU, and the ASIDs that they are tagged with.
 *
 * An ASID is of a context of the driver's own, *private*, or of the memory of a process, *shared*. Where the CPU's TLB
 * maintenance is broadcast to the SMMU, shared memory has the ASID that the CPU uses for it, so that one invalidation
 * reaches both; a private context that has this number gets another first (reference 1.5; invariant 33). Where it is not,
 * the number is only the SMMU's, and what goes is invalidated because the notifier says so.
 *
 * Always true: an ASID that is free, or changes its context, has nothing in any TLB. A private context gives it back when
 * nothing points to it and its holder has invalidated it; one that is moved is flushed here, after every descriptor with the
 * new number is known to the hardware, and before the old number is anybody else's.
 *
 * The order of a sharing, each step undone if a later one fails: pin the process's ASID → move what has it → take it →
 * register the notifier. Writing the table comes after, and cannot fail.
 */
import type { PhysicalMemory } from "../../../memory/index.ts";
import {
  assert,
  EBUSY,
  ENOSPC,
  ESRCH,
  IdAllocator,
  Mutex,
  refuse,
  type System,
  type Task,
} from "../../../runtime/index.ts";
import type { PasidTableDevice, PasidTableVendor } from "../../vendor.ts";
import { ArmContext, type ArmPageTable, type AsidHolder } from "./context.ts";
import { ArmContextTable } from "./context-table.ts";

/** The memory of a process, as far as it can be shared. `Notifier` is what hears of its changes. */
export interface SharedMemory<Notifier> {
  readonly label: string;
  /** Of the CPU's own table of it. */
  readonly root: number;
  readonly format: ArmPageTable["format"];
  /** The ASID that the CPU uses for it, kept until {@link unpinAsid}; 0 if it is gone, or has none. */
  pinAsid(): number;
  unpinAsid(): void;
  /** Lets the notifier hear; what it returns ends that. */
  use(notifier: Notifier): () => void;
}

/** One use of shared memory, given back whole to {@link ArmContexts.unshare}. */
export interface Share<Notifier> {
  readonly memory: SharedMemory<Notifier>;
  readonly context: ArmContext;
  readonly notifier: Notifier;
}

export interface ArmContextsOptions {
  /** For people: `"SMMU smmu3.0x09050000"`. */
  readonly label: string;
  readonly asidBits: number;
  /** The TLB maintenance of the CPU reaches this SMMU. */
  readonly broadcast: boolean;
  /** It sets access flags and dirty states, in the tables of processes as well. */
  readonly dirtyState: boolean;
  /** It stalls all faulting transactions that it can. */
  readonly mustStall: boolean;
  /** When it returns, no TLB has anything under the ASID. Called from here only: drivers invalidate by themselves. */
  readonly flush: (asid: number) => Task<void>;
}

interface Sharing {
  readonly context: ArmContext;
  readonly uses: Map<Share<unknown>, () => void>;
}

export class ArmContexts implements PasidTableVendor<ArmContext, ArmContextTable> {
  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly options: ArmContextsOptions;
  /** ASID 0 is nobody's. */
  private readonly asids: IdAllocator;
  private readonly contexts = new Map<number, ArmContext>();
  private readonly sharings = new Map<SharedMemory<never>, Sharing>();
  /** One sharing at a time: two could want the same number. */
  private readonly sharing: Mutex;

  constructor(system: System, memory: PhysicalMemory, options: ArmContextsOptions) {
    this.system = system;
    this.memory = memory;
    this.options = options;
    this.asids = new IdAllocator(1, 2 ** options.asidBits - 1);
    this.sharing = new Mutex(system, "pasidtable.sharing");
  }

  /** How many ASIDs are taken. */
  get size(): number {
    return this.asids.size;
  }

  allocate(device: PasidTableDevice): ArmContextTable {
    return new ArmContextTable(this.system, this.memory, device);
  }

  /** A private context. Refusal EBUSY if no ASID is free. */
  prepare(table: ArmPageTable, holder: AsidHolder): ArmContext {
    const { mustStall } = this.options;
    return this.enter(new ArmContext(table, this.takeAsid(), { holder, isShared: false, mustStall }));
  }

  /** Gives a private context's ASID back. No table has it, and the hardware has nothing under it any more. */
  release(context: ArmContext): void {
    assert(context.tables.size === 0, () => `${context.label} is released but still in ${context.tables.size} tables`);
    assert(this.contexts.get(context.asid) === context, () => `${context.label} is released but has no ASID`);
    this.contexts.delete(context.asid);
    this.asids.free(context.asid);
  }

  /**
   * A context for the memory of a process, the same for each use of it; `notifier` hears of its changes until
   * {@link unshare}. Refusals, and then nothing has changed: ESRCH if the process has no ASID, ENOSPC if there is none for
   * a context that is in the way, EBUSY if none is free where it needs one of its own.
   */
  *share<Notifier>(memory: SharedMemory<Notifier>, notifier: Notifier): Task<Share<Notifier>> {
    yield* this.sharing.take();
    try {
      const known = this.sharings.get(memory);
      const sharing = known ?? { context: yield* this.shareFirst(memory), uses: new Map() };
      const share: Share<Notifier> = { memory, context: sharing.context, notifier };
      try {
        this.system.failures.point("pasidtable.share.use");
        sharing.uses.set(share as Share<unknown>, memory.use(notifier));
      } catch (error) {
        if (known === undefined) this.unshareLast(memory, sharing.context);
        throw error;
      }
      this.sharings.set(memory, sharing);
      return share;
    } finally {
      this.sharing.release();
    }
  }

  /** Ends one use. With the last one no table has the context any more, and nothing is under its ASID. Cannot fail. */
  unshare<Notifier>(share: Share<Notifier>): void {
    const { memory, context } = share;
    const sharing = this.sharings.get(memory);
    const stopHearing = sharing?.uses.get(share as Share<unknown>);
    assert(sharing !== undefined && stopHearing !== undefined, () => `${context.label} is not shared by this use`);
    stopHearing();
    sharing.uses.delete(share as Share<unknown>);
    if (sharing.uses.size > 0) return;
    this.sharings.delete(memory);
    this.unshareLast(memory, context);
  }

  /**
   * The process is gone: lets its descriptors stay valid but translate nothing, everywhere. Waits for nobody. What the TLB
   * has is the notifier's to invalidate, afterwards. Cannot fail.
   */
  *quiesce(context: ArmContext): Task<void> {
    context.isQuiet = true;
    for (const table of context.tables) yield* table.refresh(context);
  }

  private *shareFirst<Notifier>(memory: SharedMemory<Notifier>): Task<ArmContext> {
    const { broadcast, mustStall, dirtyState } = this.options;
    const { label, root, format } = memory;
    const table = { label, root, format, dirtyTracking: dirtyState };
    const asid = broadcast ? yield* this.takeAsidOf(memory) : this.takeAsid();
    return this.enter(new ArmContext(table, asid, { holder: undefined, isShared: broadcast, mustStall }));
  }

  private *takeAsidOf<Notifier>(memory: SharedMemory<Notifier>): Task<number> {
    const asid = memory.pinAsid();
    if (asid === 0) refuse(ESRCH, () => `${memory.label} has no ASID that could be shared`);
    try {
      yield* this.vacate(asid);
    } catch (error) {
      memory.unpinAsid();
      throw error;
    }
    return asid;
  }

  private takeAsid(): number {
    this.system.failures.point("pasidtable.asid.allocate");
    return this.asids.allocate() ?? refuse(EBUSY, () => `${this.options.label}: no ASID is free`);
  }

  private unshareLast<Notifier>(memory: SharedMemory<Notifier>, context: ArmContext): void {
    this.release(context);
    if (context.isShared) memory.unpinAsid();
  }

  /** Takes this very number, from a private context that has it, if one does. Refusal ENOSPC. */
  private *vacate(asid: number): Task<void> {
    const { label, flush } = this.options;
    if (this.asids.reserve(asid)) return;
    const context = this.contexts.get(asid);
    assert(context?.holder !== undefined, () => `${label}: ASID ${asid} is wanted for two processes`);
    this.system.failures.point("pasidtable.asid.move");
    const other = this.asids.allocate() ?? refuse(ENOSPC, () => `${label}: no ASID is free for ${context.label}`);
    context.holder.alsoUnder(other);
    context.asid = other;
    this.contexts.delete(asid);
    this.enter(context);
    for (const table of context.tables) yield* table.rewrite(context);
    yield* flush(asid);
    context.holder.notUnder(asid);
    const { events } = this.system;
    if (events.on)
      events.emit({ kind: "pasidtable.asid.move", label, context: context.table.label, from: asid, to: other });
  }

  private enter(context: ArmContext): ArmContext {
    this.contexts.set(context.asid, context);
    return context;
  }
}
