// Runs in a browser.
import type { Device } from "../../iommu/index.ts";
import type { ContextTable } from "./context-table.ts";
import type { Entry } from "./entry-writer.ts";
import type { SmmuV3Instance } from "./instance.ts";
import type { DomainInvalidation, InvalidationTarget } from "./invalidation.ts";

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
  contextTable: ContextTable | undefined;
  /** What its STEs say. */
  translation: Translation;
  /** Attachments, of its own traffic and of PASIDs, to domains that take page requests; 0 if it cannot stall. */
  faultingAttachments: number;
}

/** What a master's STEs say, and so what it may leave in the TLB. */
export type Translation =
  | { readonly kind: "abort" | "bypass"; readonly label: string }
  | {
      readonly kind: "stage 1";
      readonly label: string;
      readonly descriptor: (canStall: boolean) => Entry;
      readonly invalidation: DomainInvalidation;
      readonly targets: readonly InvalidationTarget[];
    }
  | {
      readonly kind: "stage 2";
      readonly label: string;
      readonly streamEntry: (canStall: boolean) => Entry;
      readonly invalidation: DomainInvalidation;
      readonly targets: readonly InvalidationTarget[];
    };

/** The master that a probed device is. */
export function masterOf(device: Device): Master {
  return device.iommu!.data as Master;
}
