// Runs in a browser.
/**
 * The memory of a process, shown to devices: CDs that point to the CPU's own table of it, under an ASID that is private to
 * the SMMU (reference 6.7, "SVA"). What goes from the table is invalidated here, at once, when the mm tells.
 *
 * When the process ends its CDs stay valid, with walks switched off: what devices still send is aborted and nothing is
 * recorded (invariant 34). So the domain lives until the last of them is unbound.
 */
import type { Device, Domain, IommuDriver, Mm, MmInvalidation, MmUser } from "../../iommu/index.ts";
import { SvaDomain } from "../../iommu/index.ts";
import { EBUSY, EINVAL, EOPNOTSUPP, refuse, type Task } from "../../runtime/index.ts";
import { attachPasid, rewriteContext } from "./attach.ts";
import { releasedDescriptor, stage1Descriptor } from "./context-descriptor.ts";
import type { Entry } from "./entry-writer.ts";
import type { SmmuV3Instance } from "./instance.ts";
import { DomainInvalidation } from "./invalidation.ts";
import { masterOf, type Stage1 } from "./master.ts";
import { handingOverPageRequests } from "./page-requests.ts";

export class SmmuV3SvaDomain extends SvaDomain implements MmUser {
  readonly label: string;
  readonly owner: IommuDriver;
  readonly mm: Mm;
  readonly asid: number;
  private readonly instance: SmmuV3Instance;
  private readonly translation: Stage1;
  private readonly stopHearing: () => void;

  /** Refusals: EOPNOTSUPP where the SMMU cannot walk the CPU's tables; EBUSY if no ASID is free. */
  constructor(instance: SmmuV3Instance, mm: Mm) {
    super();
    checkSharing(instance, mm);
    instance.system.failures.point("smmuv3.asid.allocate");
    this.asid = instance.asids.allocate() ?? refuse(EBUSY, () => `${instance.name}: no ASID is free`);
    this.instance = instance;
    this.owner = instance.driver;
    this.mm = mm;
    this.label = `${mm.label} on ${instance.name}, ASID ${this.asid}`;
    const { granule, bitsPerLevel } = mm.cpu.format;
    this.translation = {
      kind: "stage 1",
      label: this.label,
      targets: [{ kind: "asid", tag: this.asid }],
      invalidation: new DomainInvalidation(instance.commands, {
        granule,
        bitsPerLevel,
        byRange: instance.features.rangeInvalidation,
      }),
      descriptor: (canStall) => this.descriptor(canStall),
    };
    this.stopHearing = mm.use(this);
  }

  /** Refusals: EINVAL for a device behind another SMMU, a process that is gone, and beside stage 2; ENOMEM. */
  override *setDevicePasid(device: Device, pasid: number, old: Domain | undefined): Task<void> {
    const master = masterOf(device);
    if (master.instance !== this.instance) {
      refuse(EINVAL, () => `${this.label} belongs to another IOMMU than ${device.label}`);
    }
    if (this.mm.released) refuse(EINVAL, () => `${this.mm.label} is gone`);
    yield* handingOverPageRequests(master, this, old, attachPasid(master, pasid, this.translation));
    // It may have gone meanwhile.
    if (this.mm.released) yield* rewriteContext(master, pasid);
  }

  invalidate({ start, end, leafSize, tables }: MmInvalidation): void {
    const { invalidation } = this.translation;
    if (!invalidation.isUsed) return;
    const wait = invalidation.invalidate({ start, size: end - start, leafSize, tables });
    if (wait !== undefined) this.instance.system.tasks.atOnce(wait);
  }

  release(): void {
    const { masters, system } = this.instance;
    for (const master of new Set(masters.values())) {
      for (const [pasid, translation] of master.pasids) {
        if (translation === this.translation) system.tasks.atOnce(rewriteContext(master, pasid));
      }
    }
    this.invalidate({ start: 0, end: this.mm.cpu.format.inputEnd, leafSize: 0, tables: true });
  }

  override free(): void {
    this.stopHearing();
    this.instance.asids.free(this.asid);
  }

  private descriptor(canStall: boolean): Entry {
    const { mm, asid, instance } = this;
    const { features } = instance;
    const { format } = mm.cpu;
    if (mm.released) return releasedDescriptor({ asid, format }, features.stalls === "forced");
    return stage1Descriptor({ asid, root: mm.table.root, format, dirtyTracking: features.dirtyState }, canStall);
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
