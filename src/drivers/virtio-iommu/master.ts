// Runs in a browser.
import type { Device, ReservedRegion } from "../../iommu/index.ts";
import type { IntervalMap } from "../../runtime/index.ts";
import type { VirtioIommuInstance } from "./instance.ts";
import type { MasterTables } from "./tables.ts";

/** A device behind a virtio IOMMU, kept in `device.iommu.data`. */
export interface Master {
  readonly device: Device;
  readonly instance: VirtioIommuInstance;
  /** Its endpoints. */
  readonly endpoints: readonly number[];
  /** What the IOMMU says must not be mapped. */
  readonly reserved: readonly ReservedRegion[];
  /** The domain that its endpoints are attached to. */
  translation: Translation | undefined;
  /** A 1:1 domain of its own, where the IOMMU has no domains that translate nothing; made when first needed. */
  identity: Translation | undefined;
  /** Present where it may translate by tables of our own. */
  readonly tables: MasterTables | undefined;
}

export interface Mapping {
  readonly physical: number;
  /** Of the MAP request. */
  readonly flags: number;
}

/** A domain as the IOMMU knows it by number: it exists there while it has endpoints, and here as long as it may come back. */
export interface Translation {
  readonly label: string;
  readonly id: number;
  /** It translates nothing, and has no mappings. */
  readonly bypass: boolean;
  /** What it maps. The IOMMU has the same while there are endpoints. */
  readonly mappings: IntervalMap<Mapping>;
  /** How many endpoints are attached. */
  endpoints: number;
}

export function masterOf(device: Device): Master {
  return device.iommu!.data as Master;
}
