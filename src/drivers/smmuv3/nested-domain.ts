// Runs in a browser.
import { type Device, type Domain, type IommuDriver, NestedDomain } from "../../iommu/index.ts";
import type { Entry } from "../../pasidtable/index.ts";
import { EINVAL, ENOENT, refuse, type Task } from "../../runtime/index.ts";
import { attach, refuseBesidePasids } from "./attach.ts";
import type { GuestStreamEntry } from "./guest-stream-entry.ts";
import { type GuestStream, masterOf, type Translation } from "./master.ts";
import { handingOverPageRequests } from "./page-requests.ts";
import { abortEntry, CONFIG_BYPASS, CONFIG_STAGE1, nestedEntry } from "./stream-table-entry.ts";
import type { SmmuV3Viommu } from "./viommu.ts";

/**
 * What a guest says of a stream, above the stage 2 that shows its memory: its context descriptors and tables lie there,
 * and it writes them without telling anybody. It has no invalidation of its own: see {@link SmmuV3Viommu.invalidate}.
 */
export class SmmuV3NestedDomain extends NestedDomain {
  readonly label: string;
  readonly owner: IommuDriver;
  private readonly viommu: SmmuV3Viommu;
  private readonly guest: GuestStreamEntry;

  /** Refusal ENOMEM. */
  constructor(viommu: SmmuV3Viommu, guest: GuestStreamEntry) {
    super();
    const { instance } = viommu;
    instance.system.failures.point("smmuv3.nested-domain.allocate");
    this.viommu = viommu;
    this.guest = guest;
    this.owner = instance.driver;
    const config = guest.config === CONFIG_STAGE1 ? "stage 1" : guest.config === CONFIG_BYPASS ? "bypass" : "abort";
    this.label = `nested domain (${config}) of ${viommu.label}`;
  }

  /**
   * Refusals: EINVAL for a device behind another IOMMU; EBUSY beside PASIDs; ENOENT for a device without vdevice where the
   * guest translates; then those of page requests.
   */
  override *attachDevice(device: Device, old: Domain | undefined): Task<void> {
    const master = masterOf(device);
    const { instance, parent } = this.viommu;
    if (master.instance !== instance) {
      refuse(EINVAL, () => `${this.label} belongs to another IOMMU than ${device.label}: ${master.instance.label}`);
    }
    refuseBesidePasids(master, this.label);
    const stage2 = parent.stage2Translation;
    const translation: Translation = {
      ...stage2,
      label: this.label,
      guest: this.guestStream(device),
      streamEntry: (canStall) => this.streamEntry(stage2.streamEntry(canStall)),
    };
    yield* handingOverPageRequests(master, this, old, attach(master, translation));
  }

  override free(): void {}

  private streamEntry(parent: Entry): Entry {
    const { config, words } = this.guest;
    if (config === CONFIG_STAGE1) return nestedEntry(parent, words);
    return config === CONFIG_BYPASS ? parent : abortEntry();
  }

  /** Under which id the guest hears of the device. Without translation it need not have one. */
  private guestStream(device: Device): GuestStream | undefined {
    const { viommu, guest } = this;
    if (!guest.valid) return undefined;
    const virtualId = viommu.services.virtualId(device);
    if (virtualId !== undefined) return { viommu, virtualId: Number(BigInt.asUintN(32, virtualId)) };
    if (guest.config !== CONFIG_STAGE1) return undefined;
    return refuse(ENOENT, () => `${device.label} has no vdevice on ${viommu.label}: the guest cannot name it`);
  }
}
