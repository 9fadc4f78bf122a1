// Runs in a browser.
/** Domains with a page table: stage 1 under an ASID, or stage 2 under a VMID. Each belongs to one SMMU. */
import {
  type Device,
  type DirtyReader,
  type Domain,
  emptyGather,
  extendGather,
  type IommuDriver,
  liesApart,
  PagingDomain,
  type UnmapGather,
} from "../../iommu/index.ts";
import { type Granule, type LpaeFormat, lpae, PageTable } from "../../pagetable/index.ts";
import type { ArmContext, AsidHolder } from "../../pasidtable/index.ts";
import { assert, bigintOf, DoneTask, done, EINVAL, ENOSPC, numberOf, refuse, type Task } from "../../runtime/index.ts";
import { attach, attachPasid } from "./attach.ts";
import type { Features } from "./features.ts";
import type { SmmuV3Instance } from "./instance.ts";
import { DomainInvalidation, type InvalidationTarget } from "./invalidation.ts";
import { type Master, masterOf, type StreamEntryTranslation, stage1Translation, type Translation } from "./master.ts";
import { handingOverPageRequests } from "./page-requests.ts";
import { stage2Entry } from "./stream-table-entry.ts";

export interface PagingOptions {
  readonly stage: 1 | 2;
  /** Stage 2: a guest's stage 1 may be put above it. */
  readonly nestingParent: boolean;
  /** Stage 1: hardware marks what was written to. */
  readonly dirtyTracking: boolean;
}

export class SmmuV3PagingDomain extends PagingDomain implements AsidHolder {
  readonly owner: IommuDriver;
  readonly instance: SmmuV3Instance;
  readonly stage: 1 | 2;
  readonly aperture: { readonly start: bigint; readonly last: bigint };
  private readonly table: PageTable;
  /** Stage 1: what CDs say; it has the ASID. */
  private readonly context: ArmContext | undefined;
  /** Stage 2. */
  private readonly ownVmid: number | undefined;
  /** Who must forget what is unmapped. */
  readonly invalidation: DomainInvalidation;
  private readonly translation: Translation;

  /** Refusals: EBUSY or ENOSPC if no ASID or VMID is free; ENOMEM. */
  constructor(instance: SmmuV3Instance, options: PagingOptions) {
    super();
    const { system, memory, features } = instance;
    const format = formatFor(features, options);
    this.instance = instance;
    this.owner = instance.driver;
    this.stage = options.stage;
    this.table = new PageTable(system, memory, format);
    this.aperture = { start: 0n, last: BigInt(format.inputEnd) - 1n };
    this.invalidation = new DomainInvalidation(instance.commands, {
      granule: format.granule,
      bitsPerLevel: format.bitsPerLevel,
      byRange: features.rangeInvalidation,
    });
    try {
      if (options.stage === 1) {
        const { root } = this.table;
        const { dirtyTracking } = options;
        const label = `${instance.name} stage 1 domain`;
        this.context = instance.contexts.prepare({ label, root, format, dirtyTracking }, this);
        this.translation = stage1Translation(this.context, this.invalidation);
      } else {
        this.ownVmid = reserveVmid(instance);
        this.translation = this.describeStage2(this.ownVmid, format, options.nestingParent);
      }
    } catch (error) {
      this.table.free();
      throw error;
    }
  }

  get label(): string {
    return this.context?.label ?? `${this.instance.name} stage 2 domain, VMID ${this.ownVmid}`;
  }

  /** Of a stage 2. */
  get vmid(): number {
    assert(this.ownVmid !== undefined, () => `${this.label} is no stage 2`);
    return this.ownVmid;
  }

  get pageSizes(): readonly number[] {
    return this.table.format.pageSizes;
  }

  /** Physical address of the root table, and the frames that its tables take. */
  get root(): number {
    return this.table.root;
  }

  get tableFrames(): number {
    return this.table.tableFrames;
  }

  /** What STEs say of a stage 2, for those above it. */
  get stage2Translation(): StreamEntryTranslation {
    const { translation } = this;
    assert(translation.kind === "stage 2", () => `${this.label} is no stage 2`);
    return translation;
  }

  /** Refusals: EINVAL for a device behind another IOMMU; EOPNOTSUPP for page requests of several stream ids; ENOMEM. */
  override *attachDevice(device: Device, old: Domain | undefined): Task<void> {
    const master = this.masterOf(device);
    yield* handingOverPageRequests(master, this, old, attach(master, this.translation));
  }

  /** Refusals: as above, and EINVAL for stage 2, and beside stage 2. */
  override *setDevicePasid(device: Device, pasid: number, old: Domain | undefined): Task<void> {
    const master = this.masterOf(device);
    const { translation } = this;
    if (translation.kind !== "stage 1") {
      return refuse(EINVAL, () => `${this.label} is no stage 1: PASID ${pasid} of ${device.label} cannot use it`);
    }
    yield* handingOverPageRequests(master, this, old, attachPasid(master, pasid, translation));
  }

  override map(iova: bigint, physical: number, size: number, prot: number): Task<void> {
    this.table.map(numberOf(iova), physical, size, prot);
    return done;
  }

  override unmap(iova: bigint, size: number, gather: UnmapGather): Task<number> {
    const wait = liesApart(gather, iova, size) ? this.sync(gather) : done;
    return wait === done ? new DoneTask(this.remove(iova, size, gather)) : this.removeAfter(wait, iova, size, gather);
  }

  /** Invalidates what `gather` collected; the frames of its tables are free afterwards. See `invalidation.ts`. */
  override sync(gather: UnmapGather): Task<void> {
    if (gather.last < gather.start) return done;
    const wait = this.invalidation.isUsed ? this.invalidate(gather) : done;
    if (wait !== done) return this.forgetAfter(wait, gather);
    this.forget(gather);
    return done;
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

  private invalidate(gather: UnmapGather): Task<void> {
    const start = numberOf(gather.start);
    const size = numberOf(gather.last) - start + 1;
    const { leafSize, freedTables } = gather;
    return this.invalidation.invalidate({ start, size, leafSize, tables: freedTables.length > 0 });
  }

  /** The hardware has forgotten it. */
  private forget(gather: UnmapGather): void {
    for (const pfn of gather.freedTables) this.instance.memory.free(pfn);
    emptyGather(gather);
  }

  override translate(iova: bigint): number | undefined {
    return this.table.translate(Number(iova))?.physical;
  }

  /** Hardware marks writes at all times; iommufd begins with everything clean. */
  override *setDirtyTracking(_on: boolean): Task<void> {}

  override *readDirty(iova: bigint, size: number, { clear, report, gather }: DirtyReader): Task<void> {
    const start = Number(iova);
    const end = start + size;
    this.table.visitDirty(start, size, clear, (leaf, leafSize) => {
      const from = Math.max(leaf, start);
      report(BigInt(from), Math.min(leaf + leafSize, end) - from);
      if (!clear) return;
      if (gather.last < gather.start) gather.start = BigInt(leaf);
      gather.last = BigInt(leaf + leafSize - 1);
    });
  }

  override free(): void {
    this.table.free();
    // Its translations were invalidated when the last master left (invariant 32).
    if (this.context !== undefined) this.instance.contexts.release(this.context);
    else this.instance.vmids.free(this.vmid);
  }

  // Of a context that must make way for the ASID of a process

  alsoUnder(asid: number): void {
    this.invalidation.addLike({ kind: "asid", tag: this.context!.asid }, { kind: "asid", tag: asid });
  }

  notUnder(asid: number): void {
    this.invalidation.drop({ kind: "asid", tag: asid });
  }

  private masterOf(device: Device): Master {
    const master = masterOf(device);
    if (master.instance !== this.instance) {
      const { name } = device.iommu!.instance;
      refuse(EINVAL, () => `${this.label} belongs to another IOMMU than ${device.label}, which is behind ${name}`);
    }
    return master;
  }

  private describeStage2(vmid: number, format: LpaeFormat, nestingParent: boolean): Translation {
    const { label, invalidation, table } = this;
    const targets: InvalidationTarget[] = [{ kind: "vmid", tag: vmid }];
    if (nestingParent) targets.push({ kind: "stage 1 of vmid", tag: vmid });
    const content = { vmid, root: table.root, format, nestingParent };
    const { features } = this.instance;
    return {
      kind: "stage 2",
      label,
      invalidation,
      targets,
      streamEntry: (canStall) => stage2Entry(features, content, canStall),
    };
  }
}

/** The page size of the CPU if the SMMU has it, else the nearest that it has. */
function chooseGranule(features: Features): Granule {
  return features.granules[0] as Granule;
}

/** Stage 1 takes 48 bits in, stage 2 what stage 1 puts out; only the 64K granule has more than 48. */
function formatFor(features: Features, { stage, nestingParent, dirtyTracking }: PagingOptions): LpaeFormat {
  const granule = chooseGranule(features);
  const widest = granule === 65536 ? 52 : 48;
  const outputBits = Math.min(features.outputBits, widest);
  return lpae({
    stage,
    granule,
    inputBits: stage === 2 ? outputBits : features.largeInput ? widest : 48,
    outputBits,
    dirty: dirtyTracking,
    forceWriteBack: stage === 2 && nestingParent && features.forcedWriteBack,
  });
}

function reserveVmid(instance: SmmuV3Instance): number {
  instance.system.failures.point("smmuv3.vmid.allocate");
  return instance.vmids.allocate() ?? refuse(ENOSPC, () => `${instance.name}: no VMID is free`);
}
