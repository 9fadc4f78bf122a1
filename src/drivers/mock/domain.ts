// Runs in a browser.
/** Domains with a page table that no hardware reads, and the one that blocks. */
import {
  type Aperture,
  type Device,
  type DirtyReader,
  Domain,
  type IommuDriver,
  TableDomain,
} from "../../iommu/index.ts";
import type { PhysicalMemory } from "../../memory/index.ts";
import { type Amdv1Format, amdv1 } from "../../pagetable/index.ts";
import { done, EOPNOTSUPP, refuse, type System, type Task } from "../../runtime/index.ts";
import { attachDevice, attachPasid } from "./attach.ts";

/** A table that clients may choose, and what of its input the emulated IOMMU can translate. */
interface TableType {
  readonly format: Amdv1Format;
  readonly aperture: Aperture;
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

export class MockPagingDomain extends TableDomain {
  readonly label: string;
  readonly owner: IommuDriver;
  readonly canTrackDirty: boolean;
  /** Writes are being marked. */
  isTracking = false;

  /** Refusal ENOMEM. */
  constructor(
    system: System,
    memory: PhysicalMemory,
    owner: IommuDriver,
    { format, aperture }: TableType,
    canTrackDirty: boolean,
  ) {
    super(system, memory, format, aperture);
    this.owner = owner;
    this.canTrackDirty = canTrackDirty;
    this.label = `mock domain with its table at 0x${this.table.root.toString(16)}`;
  }

  override *attachDevice(device: Device, old: Domain | undefined): Task<void> {
    yield* attachDevice(device, this, old, { tracksDirty: this.canTrackDirty });
  }

  override *setDevicePasid(device: Device, pasid: number, old: Domain | undefined): Task<void> {
    yield* attachPasid(device, pasid, this, old);
  }

  /** Nobody walks the tables, so nobody has to forget them. */
  protected override invalidate(): Task<void> {
    return done;
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
