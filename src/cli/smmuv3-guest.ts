/**
 * A guest of the scenarios: its memory, its tables of stage 1, and what it tells through its viommu. Its tables lie at the
 * same addresses for it as for the machine, its data elsewhere ({@link DATA_IPA}).
 */
import type { Device, NestedDomain, PagingDomain, UserData, Viommu } from "../iommu/index.ts";
import { PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";
import { type LpaeFormat, lpae, PageTable } from "../pagetable/index.ts";
import type { System, Task } from "../runtime/index.ts";

/** Numbers of the user API. */
const HWPT_DATA_ARM_SMMUV3 = 2;
const INVALIDATE_DATA_ARM_SMMUV3 = 1;

/** Where the guest sees what {@link Guest.give} gives it. */
export const DATA_IPA = 0x1_0000_0000;
const LARGE = 2 ** 21;
/** What of the machine's memory it sees where it is. */
const SEEN_SIZE = 32 * LARGE;

const TLBI_NH_VA = 0x12n;
const CFGI_CD = 0x05n;
const WORD = 2n ** 32n;

/** One guest, with one device that it knows by a stream id of its own. */
export class Guest {
  static readonly virtualId = 0x77;
  readonly asid: number;
  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly device: Device;
  private readonly viommu: Viommu;
  private readonly tables: PageTable;
  private readonly context: number;

  /** `parent` shows its memory from `base` on already: see {@link showMemory}. */
  constructor(system: System, memory: PhysicalMemory, device: Device, viommu: Viommu, asid: number) {
    this.asid = asid;
    this.system = system;
    this.memory = memory;
    this.device = device;
    this.viommu = viommu;
    this.tables = new PageTable(system, memory, lpae({ stage: 1, granule: 4096, inputBits: 48, outputBits: 44 }));
    this.context = memory.allocate() * PAGE_SIZE;
    this.writeContext();
  }

  /** A domain by what the guest's STE says: nothing at all, bypass, or its tables. */
  domain(says: "nothing" | "bypass" | "tables"): NestedDomain {
    const valid = 1n;
    const bypass = 4n * 2n;
    const stage1 = 5n * 2n;
    const cacheable = 0xd4n; // S1CIR, S1COR, S1CSH
    const words = {
      nothing: [0n, 0n],
      bypass: [valid + bypass, 0n],
      tables: [valid + stage1 + BigInt(this.context), cacheable],
    }[says];
    const bytes = new Uint8Array(new BigUint64Array(words).buffer);
    const data: UserData = { type: HWPT_DATA_ARM_SMMUV3, length: bytes.length, bytes, write: () => undefined };
    return this.run(this.viommu.allocateNested!(this.device, 0, data));
  }

  map(iova: number, ipa: number, prot: number): void {
    this.tables.map(iova, ipa, PAGE_SIZE, prot);
  }

  /** Takes a page away, and says so. */
  unmap(iova: number): void {
    this.tables.unmap(iova, PAGE_SIZE, { start: 1n, last: 0n, leafSize: 0, freedTables: [] });
    this.tell([TLBI_NH_VA + BigInt(this.asid) * 2n ** 48n, BigInt(iova) + 1n]);
  }

  /** Lets no address be translated, or again those of the tables, and says so. */
  enable(on: boolean): void {
    this.writeContext(on ? 0n : 2n ** 14n);
    this.tell([CFGI_CD + BigInt(Guest.virtualId) * WORD, 1n]);
  }

  private writeContext(extra = 0n): void {
    const format = this.tables.format as LpaeFormat;
    const attributes = 0x100n + 0x400n + 0x3000n; // IR0, OR0, SH0
    const epd1 = 2n ** 30n;
    const valid = 2n ** 31n;
    const ips44 = 4n * WORD;
    const aa64 = 2n ** 41n;
    const recordAbortPrivate = 7n * 2n ** 45n;
    const asid = BigInt(this.asid) * 2n ** 48n;
    const word = BigInt(format.t0sz) + attributes + epd1 + valid + ips44 + aa64 + recordAbortPrivate + asid + extra;
    const words = [word, BigInt(this.tables.root), 0n, 0xffn];
    this.memory.write(this.context, new Uint8Array(new BigUint64Array(words).buffer));
  }

  private tell(...commands: [bigint, bigint][]): void {
    const bytes = new Uint8Array(new BigUint64Array(commands.flat()).buffer);
    const invalidation = {
      type: INVALIDATE_DATA_ARM_SMMUV3,
      entryLength: 16,
      count: commands.length,
      done: 0,
      read: (index: number, into: Uint8Array) => into.set(bytes.subarray(index * 16, index * 16 + 16)),
    };
    this.run(this.viommu.invalidate!(invalidation));
  }

  private run<T>(code: Task<T>): T {
    return this.system.run("guest", code);
  }
}

/** Lets a nesting parent show the beginning of the machine's memory to guests, where it is. */
export function* showMemory(parent: PagingDomain, base: number, prot: number): Task<void> {
  yield* parent.map(BigInt(base), base, SEEN_SIZE, prot);
}
