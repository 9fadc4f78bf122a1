// Runs in a browser.
import type { Device } from "../../iommu/index.ts";
import type { ArmContext, ArmContextTable, Entry, PasidTable } from "../../pasidtable/index.ts";
import type { SmmuV3Instance } from "./instance.ts";
import type { DomainInvalidation, InvalidationTarget } from "./invalidation.ts";
import type { SmmuV3Viommu } from "./viommu.ts";

/** A device under an SMMU's care (the architecture's *client device* with its streams), kept in `device.iommu.data`. */
export interface Master {
  readonly device: Device;
  readonly instance: SmmuV3Instance;
  readonly streamIds: readonly number[];
  /** Width of the substream ids that it may use, 0 for none. */
  readonly substreamBits: number;
  /** A faulting transaction of it may be stalled. */
  readonly canStall: boolean;
  /** Made with the first domain that needs it. */
  contextTable: PasidTable<ArmContext, ArmContextTable> | undefined;
  /** What its own traffic, which has no PASID, translates through. */
  translation: Translation;
  /** What its PASIDs translate through. */
  readonly pasids: Map<number, Stage1>;
  /** Attachments, of its own traffic and of PASIDs, to domains that take page requests; 0 if it cannot stall. */
  faultingAttachments: number;
}

/** Translation by a CD, and what it may leave in the TLB. */
export interface Stage1 {
  readonly kind: "stage 1";
  readonly label: string;
  readonly context: ArmContext;
  readonly invalidation: DomainInvalidation;
  readonly targets: readonly InvalidationTarget[];
}

export function stage1Translation(context: ArmContext, invalidation: DomainInvalidation): Stage1 {
  return {
    kind: "stage 1",
    context,
    invalidation,
    get label() {
      return context.label;
    },
    get targets(): InvalidationTarget[] {
      return [{ kind: context.isShared ? "broadcast asid" : "asid", tag: context.asid }];
    },
  };
}

/** What the traffic of a master without PASID translates through, and so what it may leave in the TLB. */
export type Translation =
  | { readonly kind: "abort" | "bypass"; readonly label: string }
  | Stage1
  | StreamEntryTranslation;

/** All of it stands in the STE: stage 2, with or without a guest's stage 1 above it. */
export interface StreamEntryTranslation {
  readonly kind: "stage 2";
  readonly label: string;
  readonly streamEntry: (canStall: boolean) => Entry;
  readonly invalidation: DomainInvalidation;
  readonly targets: readonly InvalidationTarget[];
  /** Who hears of events of stage 1. */
  readonly guest?: GuestStream | undefined;
}

/** The guest that a stream belongs to, and what it calls the stream. */
export interface GuestStream {
  readonly viommu: SmmuV3Viommu;
  readonly virtualId: number;
}

/** The master that a probed device is. */
export function masterOf(device: Device): Master {
  return device.iommu!.data as Master;
}
