// Runs in a browser.
/**
 * The memory of a process, shown to devices: CDs that point to the CPU's own table of it (reference 6.7, "SVA"), under the
 * CPU's ASID of it or one of the SMMU's own, see `pasidtable/`. What goes from the table is invalidated here, at once, when
 * the mm tells.
 *
 * When the process ends its CDs stay valid, with walks switched off: what devices still send is aborted and nothing is
 * recorded (invariant 34). So the domain lives until the last of them is unbound.
 */
import type { Device, Domain, IommuDriver, Mm, MmInvalidation, MmUser } from "../../iommu/index.ts";
import { SvaDomain } from "../../iommu/index.ts";
import type { Share } from "../../pasidtable/index.ts";
import { EINVAL, EOPNOTSUPP, refuse, type Task } from "../../runtime/index.ts";
import { attachPasid } from "./attach.ts";
import type { SmmuV3Instance } from "./instance.ts";
import { DomainInvalidation } from "./invalidation.ts";
import { masterOf, type Stage1, stage1Translation } from "./master.ts";
import { handingOverPageRequests } from "./page-requests.ts";

export class SmmuV3SvaDomain extends SvaDomain implements MmUser {
  readonly owner: IommuDriver;
  readonly mm: Mm;
  private readonly instance: SmmuV3Instance;
  private readonly invalidation: DomainInvalidation;
  /** Both from {@link make}, before anybody else has the domain. */
  private share!: Share<MmUser>;
  private translation!: Stage1;

  /**
   * Refusals: EOPNOTSUPP where the SMMU cannot walk the CPU's tables; EBUSY if no ASID is free; with the CPU's ASIDs ESRCH
   * for a process that has none, ENOSPC if what has it can get no other.
   */
  static *make(instance: SmmuV3Instance, mm: Mm): Task<SmmuV3SvaDomain> {
    checkSharing(instance, mm);
    const domain = new SmmuV3SvaDomain(instance, mm);
    domain.share = yield* instance.contexts.share<MmUser>(mm, domain);
    domain.translation = stage1Translation(domain.share.context, domain.invalidation);
    return domain;
  }

  private constructor(instance: SmmuV3Instance, mm: Mm) {
    super();
    this.instance = instance;
    this.owner = instance.driver;
    this.mm = mm;
    const { granule, bitsPerLevel } = mm.cpu.format;
    const byRange = instance.features.rangeInvalidation;
    this.invalidation = new DomainInvalidation(instance.commands, { granule, bitsPerLevel, byRange });
  }

  get label(): string {
    return `${this.share.context.label} on ${this.instance.name}`;
  }

  /** Refusals: EINVAL for a device behind another SMMU, a process that is gone, and beside stage 2; ENOMEM. */
  override *setDevicePasid(device: Device, pasid: number, old: Domain | undefined): Task<void> {
    const master = masterOf(device);
    if (master.instance !== this.instance) {
      refuse(EINVAL, () => `${this.label} belongs to another IOMMU than ${device.label}`);
    }
    if (this.mm.released) refuse(EINVAL, () => `${this.mm.label} is gone`);
    yield* handingOverPageRequests(master, this, old, attachPasid(master, pasid, this.translation));
  }

  invalidate({ start, end, leafSize, tables }: MmInvalidation): void {
    const { invalidation } = this;
    if (!invalidation.isUsed) return;
    this.instance.system.tasks.atOnce(invalidation.invalidate({ start, size: end - start, leafSize, tables }));
  }

  release(): void {
    const { contexts, system } = this.instance;
    system.tasks.atOnce(contexts.quiesce(this.share.context));
    this.invalidate({ start: 0, end: this.mm.cpu.format.inputEnd, leafSize: 0, tables: true });
  }

  override free(): void {
    this.instance.contexts.unshare(this.share);
  }
}

/** Devices and CPU walk the same tables: the SMMU must know their format, and see what the CPU's caches hold. */
function checkSharing({ features, options, label }: SmmuV3Instance, { cpu }: Mm): void {
  const need = (met: boolean, why: string): void => {
    if (!met) refuse(EOPNOTSUPP, () => `${label} cannot walk the tables of processes: ${why}`);
  };
  const { granule, outputBits } = cpu.format;
  need(features.stage1, "it has no stage 1");
  need(options.coherent ?? features.coherent, "its accesses are not coherent with the CPU's caches");
  need(features.granules.includes(granule), `it has no granule of ${granule} bytes`);
  need(
    features.outputBits >= outputBits,
    `its addresses have ${features.outputBits} bits, and the CPU's have ${outputBits}`,
  );
  need(
    features.asidBits >= cpu.asidBits,
    `its ASIDs have ${features.asidBits} bits, and the CPU's have ${cpu.asidBits}`,
  );
}
