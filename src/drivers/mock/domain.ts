// Runs in a browser.
/** Domains with a page table that no hardware reads, and the one that blocks. */
import {
  type Device,
  type DirtyReader,
  Domain,
  type IommuDriver,
  PagingDomain,
  type UnmapGather,
} from "../../iommu/index.ts";
import type { PhysicalMemory } from "../../memory/index.ts";
import { type Amdv1Format, amdv1, PageTable } from "../../pagetable/index.ts";
import { DoneTask, done, EOPNOTSUPP, numberOf, refuse, type System, type Task } from "../../runtime/index.ts";
import { attachDevice, attachPasid } from "./attach.ts";

/** A table that clients may choose, and what of its input the emulated IOMMU can translate. */
interface TableType {
  readonly format: Amdv1Format;
  readonly aperture: { readonly start: bigint; readonly last: bigint };
}

const GRANULE_BITS = 11;
const INPUT_BITS = 38;
const LARGEST_PAGE_BITS = 36;

const everySize = Array.from({ length: LARGEST_PAGE_BITS - GRANULE_BITS + 1 }, (_, n) => 2 ** (GRANULE_BITS + n));

/** By the number that clients choose by: pages of half the CPU's size, or of the CPU's size and large ones only. */
const tableTypes: readonly TableType[] = [
  {
    format: amdv1({ granuleBits: GRANULE_BITS, inputBits: INPUT_BITS, pageSizes: everySize }),
    aperture: { start: 0x0100_0000n, last: 0x7fff_ffffn },
  },
  {
    format: amdv1({ granuleBits: GRANULE_BITS, inputBits: INPUT_BITS, pageSizes: [2 ** 12, 2 ** 20] }),
    aperture: { start: 0n, last: BigInt(2 ** INPUT_BITS - 1) },
  },
];

/** Refusal EOPNOTSUPP for a type that there is not. */
export function tableType(number: number): TableType {
  return tableTypes[number] ?? refuse(EOPNOTSUPP, () => `the mock IOMMU has no page tables of type ${number}`);
}

export class MockPagingDomain extends PagingDomain {
  readonly label: string;
  readonly owner: IommuDriver;
  readonly aperture: { readonly start: bigint; readonly last: bigint };
  readonly canTrackDirty: boolean;
  /** Writes are being marked. */
  isTracking = false;
  private readonly memory: PhysicalMemory;
  private readonly table: PageTable;

  /** Refusal ENOMEM. */
  constructor(
    system: System,
    memory: PhysicalMemory,
    owner: IommuDriver,
    { format, aperture }: TableType,
    canTrackDirty: boolean,
  ) {
    super();
    this.memory = memory;
    this.owner = owner;
    this.aperture = aperture;
    this.canTrackDirty = canTrackDirty;
    this.table = new PageTable(system, memory, format);
    this.label = `mock domain with its table at 0x${this.table.root.toString(16)}`;
  }

  get pageSizes(): readonly number[] {
    return this.table.format.pageSizes;
  }

  override *attachDevice(device: Device, old: Domain | undefined): Task<void> {
    yield* attachDevice(device, this, old, { tracksDirty: this.canTrackDirty });
  }

  override *setDevicePasid(device: Device, pasid: number, old: Domain | undefined): Task<void> {
    yield* attachPasid(device, pasid, this, old);
  }

  override map(iova: bigint, physical: number, size: number, prot: number): Task<void> {
    this.table.map(numberOf(iova), physical, size, prot);
    return done;
  }

  override unmap(iova: bigint, size: number, gather: UnmapGather): Task<number> {
    return new DoneTask(this.table.unmap(numberOf(iova), size, gather));
  }

  /** Nobody walks the tables, so nobody has to forget them. */
  override sync({ freedTables }: UnmapGather): Task<void> {
    for (const pfn of freedTables) this.memory.free(pfn);
    freedTables.length = 0;
    return done;
  }

  override translate(iova: bigint): number | undefined {
    return this.table.translate(Number(iova))?.physical;
  }

  override *setDirtyTracking(on: boolean): Task<void> {
    this.isTracking = on;
  }

  /** As a device that writes to `iova` would; nothing happens where nothing is mapped. */
  markDirty(iova: bigint): void {
    this.table.markDirty(Number(iova));
  }

  /** Of a leaf of several entries, all but the last entry is told: what Linux's AMDv1 tables do (reference 4.3). */
  override *readDirty(iova: bigint, size: number, reader: DirtyReader): Task<void> {
    const start = Number(iova);
    const end = start + size;
    this.table.visitDirty(start, size, reader.clear, (leaf, leafSize, entrySize) => {
      const told = leafSize > entrySize ? leafSize - entrySize : leafSize;
      const from = Math.max(leaf, start);
      const to = Math.min(leaf + told, end);
      if (from < to) reader.report(BigInt(from), to - from);
    });
  }

  override free(): void {
    this.table.free();
  }
}

/** Where mock devices are while nobody uses them: one for all, for ever. */
export class MockBlockedDomain extends Domain {
  readonly label = "the mock blocked domain";
  readonly type = "blocked";
  readonly owner: undefined;

  override *attachDevice(device: Device, old: Domain | undefined): Task<void> {
    yield* attachDevice(device, this, old, {});
  }

  override *setDevicePasid(device: Device, pasid: number, old: Domain | undefined): Task<void> {
    yield* attachPasid(device, pasid, this, old);
  }

  override free(): void {}
}
