// Runs in a browser.
/**
 * The table in which an IOMMU finds what each PASID of one device translates through.
 *
 * Who owns what. A *table* is its device's driver's, the {@link PasidTableUser}: it tells the hardware where the table is
 * and what to forget. What the table's bytes are, and what tags (ASIDs) its contexts have, is the *vendor's*: one vendor for
 * each IOMMU, whatever number of tables it has. A *context* is what a PASID translates through, a page table and the tag of
 * what the hardware keeps of it; it belongs to who prepared it (a domain), or, shared, to the memory of a process. One
 * context may be in many tables and there under many PASIDs. A *notifier* is told of changes of shared memory; the vendor
 * registers it and hands it on whole, and never looks into it.
 *
 * Always true:
 * - the hardware finds for each PASID what was written last, or what was there before until the write returns, never a
 *   mixture, and nothing else in between;
 * - a context knows the tables that it may be found in: it is in the list before the first write, and leaves it when the
 *   hardware has forgotten it;
 * - a tag belongs to one context; before it belongs to another the hardware has forgotten everything under it.
 * For a moment false: a PASID that changes by an exchange is found through the old place by hardware that remembers it; so
 * what must end at once ({@link PasidTable.refresh}) ends in both.
 *
 * Design principle: memory is reserved first ({@link PasidTable.prepare}); writing cannot fail.
 *
 * Lock order: the driver's → pasidtable.sharing → pasidtable.table → the user's own. Quieting takes no lock: a process that
 * ends waits for nobody.
 */
import { Mutex, type System, type Task } from "../runtime/index.ts";
import type { Context, PasidTableDevice, PasidTableUser, PasidTableVendor, VendorTable } from "./vendor.ts";

/** A write about to happen, with the memory that it takes. */
export interface PasidTableChange<C> {
  readonly pasid: number;
  readonly context: C;
  readonly spare: number | undefined;
}

export class PasidTable<C extends Context<C>, T extends VendorTable<C> = VendorTable<C>> {
  /** The vendor's part: where the table is, and how it looks. */
  readonly memory: T;
  private readonly user: PasidTableUser;
  private readonly changing: Mutex;
  /** What PASIDs translate through, or are about to. */
  private readonly contexts = new Map<number, C>();
  /** What is being exchanged, and still found by hardware that remembers the old place. */
  private leaving: { readonly pasid: number; readonly context: C } | undefined;

  /** No PASID translates. Refusal ENOMEM. */
  constructor(system: System, vendor: PasidTableVendor<C, T>, user: PasidTableUser, device: PasidTableDevice) {
    this.user = user;
    this.changing = new Mutex(system, "pasidtable.table");
    this.memory = vendor.allocate(device);
  }

  /** Reserves all that writing takes. What it made for the first PASID of a range stays. Refusal ENOMEM. */
  prepare(pasid: number, context: C): PasidTableChange<C> {
    const { memory, user } = this;
    if (memory.reserve(pasid)) user.forget(pasid, false);
    return { pasid, context, spare: memory.changesInPlace(pasid, context) ? undefined : memory.allocateSpare() };
  }

  /** From now on, when it returns, the PASID translates through the context, whatever it did before. Cannot fail. */
  *write({ pasid, context, spare }: PasidTableChange<C>): Task<void> {
    yield* this.changing.take();
    try {
      const before = this.contexts.get(pasid);
      context.tables.add(this);
      this.contexts.set(pasid, context);
      if (spare === undefined) yield* this.writeInPlace(pasid);
      else yield* this.exchange(pasid, before, spare);
      if (before !== undefined) this.letGo(before);
    } finally {
      this.changing.release();
    }
  }

  /** The PASID translates nothing any more. Cannot fail. */
  *clear(pasid: number): Task<void> {
    yield* this.changing.take();
    try {
      const before = this.contexts.get(pasid);
      if (before === undefined) return;
      this.contexts.delete(pasid);
      yield* this.writeInPlace(pasid);
      this.letGo(before);
    } finally {
      this.changing.release();
    }
  }

  /** The context has another tag: lets all its PASIDs here have it, and the hardware know. Cannot fail. */
  *rewrite(context: C): Task<void> {
    yield* this.changing.take();
    try {
      yield* this.refresh(context);
    } finally {
      this.changing.release();
    }
  }

  /**
   * Writes the context once more wherever the hardware may find it in this table, in the middle of a change, too. Waits for
   * nobody. Cannot fail.
   */
  *refresh(context: C): Task<void> {
    for (const [pasid, each] of this.contexts) {
      if (each !== context) continue;
      yield* this.memory.write(pasid, context, () => this.forgotten(pasid));
      if (pasid !== this.leaving?.pasid) yield* this.refreshLeft(pasid, context);
    }
    if (this.leaving?.context === context) yield* this.refreshLeft(this.leaving.pasid, context);
  }

  /** No hardware may know of it any more. */
  free(): void {
    for (const context of this.contexts.values()) context.tables.delete(this);
    this.memory.free();
  }

  /** Until what was written is what the context says: it may be quieted meanwhile. */
  private *writeInPlace(pasid: number): Task<void> {
    do yield* this.memory.write(pasid, this.contexts.get(pasid), () => this.forgotten(pasid));
    while (!this.memory.says(pasid, this.contexts.get(pasid)));
  }

  private *exchange(pasid: number, before: C | undefined, spare: number): Task<void> {
    const { memory, user } = this;
    this.leaving = before && { pasid, context: before };
    const left = memory.exchange(pasid, this.contexts.get(pasid)!, spare);
    if (memory.movesOnExchange) {
      yield* user.move();
    } else {
      user.forget(pasid, false);
      yield* user.sync();
    }
    this.leaving = undefined;
    memory.freeSpare(left);
  }

  /** The old place, while hardware may remember it. */
  private *refreshLeft(pasid: number, context: C): Task<void> {
    yield* this.memory.writeLeaving(pasid, context, () => this.forgotten(pasid));
  }

  private *forgotten(pasid: number): Task<void> {
    this.user.forget(pasid, true);
    yield* this.user.sync();
  }

  private letGo(context: C): void {
    for (const each of this.contexts.values()) if (each === context) return;
    context.tables.delete(this);
  }
}
