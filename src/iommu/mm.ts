// Runs in a browser.
/**
 * The CPU's page table of a process, which devices may walk too.
 *
 * Where things live. What a page of a process is, its {@link AddressSpace} alone knows. The table here mirrors it: real
 * descriptors in physical memory, in the CPU's format, entered when a device asks for a page ({@link Mm.handleFault}), with
 * the frame that the process itself has there. What hardware remembers of the table is its users' business, the domains
 * that show it to devices: they are told what to forget ({@link MmUser}).
 *
 * Always true: an entry's frame and rights are no other than the process's own, now. So before anything about a page
 * changes, the space tells (`MmNotifiers`); the entries go and the users have forgotten them when that returns, and no entry
 * comes back before the change is over: faults wait for it.
 * Allowed to be missing: an entry. A page that nobody asked for since it last changed is not in the table.
 *
 * An mm outlives its process while somebody holds it: the table is empty then and stays so. It is freed with the last
 * holder; the process is one.
 *
 * Design principle: nothing here pins. The price: what a device does not repeat after a fault it cannot do at all.
 *
 * Lock order: none. Whatever changes the table runs through in one go; only the wait for a change to end can block.
 */
import { type AddressSpace, type MmNotifier, PAGE_EXECUTE, PAGE_READ, PAGE_SIZE, PAGE_WRITE } from "../memory/index.ts";
import { type LpaeFormat, PageTable, PROT_CACHE, PROT_NOEXEC, PROT_READ, PROT_WRITE } from "../pagetable/index.ts";
import {
  EFAULT,
  type Holder,
  numberOf,
  RefCount,
  refuse,
  type System,
  type Task,
  WaitQueue,
} from "../runtime/index.ts";
import type { Cpu } from "./cpu.ts";
import { newGather, type UnmapGather } from "./gather.ts";

/** Entries that are gone from the table, and what hardware may have kept of them. `end` is exclusive. */
export interface MmInvalidation {
  readonly start: number;
  readonly end: number;
  /** Bytes of each leaf, 0 if they differ. */
  readonly leafSize: number;
  /** Tables went too. */
  readonly tables: boolean;
}

/** Who shows the table of an mm to hardware. Nothing here may block: what it does is done when it returns. */
export interface MmUser {
  /** When this returns, no access uses what is gone. */
  invalidate(gone: MmInvalidation): void;
  /** The process is gone: when this returns, no access walks the table or uses what it had. The last call. */
  release(): void;
}

/** Who holds an mm: its process. */
const PROCESS = "the process";

export class Mm implements MmNotifier {
  readonly cpu: Cpu;
  readonly space: AddressSpace;
  readonly table: PageTable;
  private readonly system: System;
  private readonly references: RefCount;
  private readonly users = new Set<MmUser>();
  private readonly changes: WaitQueue;
  private readonly freed: (() => void)[] = [];
  private gone = false;
  private asid = 0;
  private asidPins = 0;

  /** Refusal ENOMEM. Made by {@link Cpu.mmOf}: one for each address space. */
  constructor(cpu: Cpu, space: AddressSpace) {
    this.cpu = cpu;
    this.space = space;
    this.system = cpu.system;
    this.references = new RefCount(this.label);
    this.changes = new WaitQueue(cpu.system, "iommu.mm.changes");
    this.table = new PageTable(cpu.system, cpu.memory, cpu.format);
    this.references.get(PROCESS);
    space.notifiers.watch(this);
  }

  get label(): string {
    return `the memory of ${this.space.label}`;
  }

  /** Physical address of the root table, and the form of all of them. */
  get root(): number {
    return this.table.root;
  }

  get format(): LpaeFormat {
    return this.cpu.format;
  }

  /** The process is gone. */
  get released(): boolean {
    return this.gone;
  }

  /** Keeps it until {@link put}, whatever becomes of the process. */
  get(holder: Holder): void {
    this.references.get(holder);
  }

  put(holder: Holder): void {
    if (this.references.put(holder) > 0) return;
    this.table.free();
    for (const tell of this.freed) tell();
  }

  /** Calls `tell` when the last holder is gone. */
  whenFreed(tell: () => void): void {
    this.freed.push(tell);
  }

  /** The CPU's ASID of it, which stays until {@link unpinAsid}; 0 if the process is gone, or no ASID is left. */
  pinAsid(): number {
    if (this.asidPins === 0) this.asid = this.gone ? 0 : this.cpu.takeAsid();
    if (this.asid > 0) this.asidPins++;
    return this.asid;
  }

  /** The mirror image. What has translations under the ASID must have forgotten them. */
  unpinAsid(): void {
    if (--this.asidPins > 0) return;
    this.cpu.giveAsid(this.asid);
    this.asid = 0;
  }

  /** What it returns ends that. Not after the {@link released} of the process. */
  use(user: MmUser): () => void {
    this.users.add(user);
    return () => this.users.delete(user);
  }

  /**
   * Enters the page at `address`, as an access of the process's own with these rights (PAGE_READ, …) would. Refusal EFAULT if
   * there is no such page, it does not give the rights, or the process is gone; ENOMEM.
   */
  *handleFault(address: bigint, rights: number): Task<void> {
    if (address >= BigInt(this.format.inputEnd)) {
      refuse(EFAULT, () => `0x${address.toString(16)} is no user address of ${this.space.label}`);
    }
    const page = Math.floor(numberOf(address) / PAGE_SIZE);
    const { notifiers } = this.space;
    if (notifiers.isChanging(page)) yield* this.changes.untilUninterrupted(() => !notifiers.isChanging(page));
    this.enter(page, rights || PAGE_READ);
  }

  private enter(page: number, wanted: number): void {
    this.system.failures.point("iommu.mm.fault");
    if (this.gone) refuse(EFAULT, () => `${this.label} is gone`);
    const { page: first, count, pfn, rights } = this.space.faultIn(page, wanted);
    const prot = protOf(rights);
    const known = this.table.translate(page * PAGE_SIZE);
    if (known?.physical === (pfn + page - first) * PAGE_SIZE && known.prot === prot) return;
    const [address, size] = [first * PAGE_SIZE, count * PAGE_SIZE];
    this.forget(address, address + size);
    this.table.map(address, pfn * PAGE_SIZE, size, prot);
    const { events } = this.system;
    if (events.on) events.emit({ kind: "iommu.mm.fault", mm: this.space.label, address, pfn, count, prot });
  }

  /** Lets the users forget all that they have of the table, which stays as it is. */
  invalidateAll(): void {
    if (this.asid > 0) this.cpu.invalidateTlb(this.asid, 0, this.format.inputEnd);
    const everything = { start: 0, end: this.format.inputEnd, leafSize: 0, tables: true };
    for (const user of this.users) user.invalidate(everything);
  }

  /** Takes all entries of a range out, and lets the users forget them: one range, from the first to the last of them. */
  private forget(start: number, end: number): void {
    const { table } = this;
    const mapped = table.nextMapped(start, end);
    if (mapped === undefined) return;
    // A leaf goes whole, also what of it lies before the range.
    const first = mapped - (mapped % table.translate(mapped)!.size);
    const { gather, last } = this.takeOut(first, end);
    const gone = { start: first, end: last, leafSize: gather.leafSize, tables: gather.freedTables.length > 0 };
    if (this.asid > 0) this.cpu.invalidateTlb(this.asid, first, last - first);
    for (const user of this.users) user.invalidate(gone);
    for (const pfn of gather.freedTables) this.cpu.memory.free(pfn);
  }

  private takeOut(first: number, end: number): { gather: UnmapGather; last: number } {
    const { table } = this;
    const gather = newGather();
    let last = first;
    for (let at: number | undefined = first; at !== undefined; at = table.nextMapped(last, end)) {
      last = at + table.unmap(at, end - at, gather);
      // Not empty any more: leaves of another size count.
      gather.last = gather.start;
    }
    return { gather, last };
  }

  // What the address space tells

  invalidateStart(start: number, end: number): void {
    this.forget(start, end);
  }

  invalidateEnd(): void {
    this.changes.wake();
  }

  release(): void {
    this.gone = true;
    for (const user of this.users) user.release();
    this.users.clear();
    if (this.asid > 0) this.cpu.invalidateTlb(this.asid, 0, this.format.inputEnd);
    const { table } = this;
    const first = table.nextMapped(0, this.format.inputEnd);
    if (first !== undefined) {
      const { gather } = this.takeOut(first, this.format.inputEnd);
      for (const pfn of gather.freedTables) this.cpu.memory.free(pfn);
    }
    this.changes.wake();
    if (this.system.events.on) this.system.events.emit({ kind: "iommu.mm.release", mm: this.space.label });
    this.put(PROCESS);
  }
}

/** Devices see what the process may do; stage 1 has no write-only. */
function protOf(rights: number): number {
  const write = (rights & PAGE_WRITE) !== 0 ? PROT_WRITE : 0;
  const execute = (rights & PAGE_EXECUTE) !== 0 ? 0 : PROT_NOEXEC;
  return PROT_READ | PROT_CACHE | write | execute;
}
