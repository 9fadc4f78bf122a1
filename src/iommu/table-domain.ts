// Runs in a browser.
/** Domains whose translations are in a page table in memory: what all of them do alike. */
import type { PhysicalMemory } from "../memory/index.ts";
import { type Format, PageTable } from "../pagetable/index.ts";
import { bigintOf, DoneTask, done, numberOf, type System, type Task } from "../runtime/index.ts";
import { PagingDomain } from "./driver.ts";
import { emptyGather, extendGather, liesApart, type UnmapGather } from "./gather.ts";

export type Aperture = PagingDomain["aperture"];

export abstract class TableDomain extends PagingDomain {
  readonly aperture: Aperture;
  protected readonly table: PageTable;
  private readonly frames: PhysicalMemory;

  /** `aperture`, if it is less than the table can translate. Refusal ENOMEM. */
  constructor(system: System, memory: PhysicalMemory, format: Format, aperture?: Aperture) {
    super();
    this.frames = memory;
    this.table = new PageTable(system, memory, format);
    this.aperture = aperture ?? { start: 0n, last: BigInt(format.inputEnd) - 1n };
  }

  /** When it ends, no hardware uses what `gather` collected. */
  protected abstract invalidate(gather: UnmapGather): Task<void>;

  get pageSizes(): readonly number[] {
    return this.table.format.pageSizes;
  }

  override map(iova: bigint, physical: number, size: number, prot: number): Task<void> {
    this.table.map(numberOf(iova), physical, size, prot);
    return done;
  }

  override unmap(iova: bigint, size: number, gather: UnmapGather): Task<number> {
    const wait = liesApart(gather, iova, size) ? this.sync(gather) : done;
    return wait === done ? new DoneTask(this.remove(iova, size, gather)) : this.removeAfter(wait, iova, size, gather);
  }

  override sync(gather: UnmapGather): Task<void> {
    if (gather.last < gather.start) return done;
    const wait = this.invalidate(gather);
    if (wait !== done) return this.forgetAfter(wait, gather);
    this.forget(gather);
    return done;
  }

  override translate(iova: bigint): number | undefined {
    return this.table.translate(Number(iova))?.physical;
  }

  private *removeAfter(wait: Task<void>, iova: bigint, size: number, gather: UnmapGather): Task<number> {
    yield* wait;
    return this.remove(iova, size, gather);
  }

  private *forgetAfter(wait: Task<void>, gather: UnmapGather): Task<void> {
    yield* wait;
    this.forget(gather);
  }

  private remove(iova: bigint, size: number, gather: UnmapGather): number {
    const start = numberOf(iova);
    const removed = this.table.unmap(start, size, gather);
    if (removed > 0) extendGather(gather, iova, bigintOf(start + removed - 1));
    return removed;
  }

  private forget(gather: UnmapGather): void {
    for (const pfn of gather.freedTables) this.frames.free(pfn);
    emptyGather(gather);
  }
}
