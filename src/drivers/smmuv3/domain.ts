// Runs in a browser.
/** Domains with a page table: stage 1 under an ASID, or stage 2 under a VMID. Each belongs to one SMMU. */
import {
  type Device,
  type DirtyReader,
  type Domain,
  type IommuDriver,
  TableDomain,
  type UnmapGather,
} from "../../iommu/index.ts";
import { type Granule, type LpaeFormat, lpae } from "../../pagetable/index.ts";
import type { ArmContext, AsidHolder } from "../../pasidtable/index.ts";
import { assert, done, EINVAL, ENOSPC, numberOf, refuse, type Task } from "../../runtime/index.ts";
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

export class SmmuV3PagingDomain extends TableDomain implements AsidHolder {
  readonly owner: IommuDriver;
  readonly instance: SmmuV3Instance;
  readonly stage: 1 | 2;
  /** Stage 1: what CDs say; it has the ASID. */
  private readonly context: ArmContext | undefined;
  /** Stage 2. */
  private readonly ownVmid: number | undefined;
  /** Who must forget what is unmapped. */
  readonly invalidation: DomainInvalidation;
  private readonly translation: Translation;

  /** Refusals: EBUSY or ENOSPC if no ASID or VMID is free; ENOMEM. */
  constructor(instance: SmmuV3Instance, options: PagingOptions) {
    const { system, memory, features } = instance;
    const format = formatFor(features, options);
    super(system, memory, format);
    this.instance = instance;
    this.owner = instance.driver;
    this.stage = options.stage;
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

  /** See `invalidation.ts`. */
  protected override invalidate(gather: UnmapGather): Task<void> {
    if (!this.invalidation.isUsed) return done;
    const start = numberOf(gather.start);
    const size = numberOf(gather.last) - start + 1;
    const { leafSize, freedTables } = gather;
    return this.invalidation.invalidate({ start, size, leafSize, tables: freedTables.length > 0 });
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
