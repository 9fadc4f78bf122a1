// Runs in a browser.
import { type Device, Domain } from "../../iommu/index.ts";
import type { Task } from "../../runtime/index.ts";
import { attach } from "./attach.ts";
import { masterOf } from "./master.ts";
import { attachBesidePasids, detachPasid } from "./tables.ts";

/** What translates nothing, for all devices of all virtio IOMMUs: behind each it is a domain without mappings. */
export class BlockedDomain extends Domain {
  readonly label = "the blocked domain";
  readonly type = "blocked";
  readonly owner: undefined;

  /** Refusals: ENOSPC if no domain id is free; what the device answers. */
  override *attachDevice(device: Device): Task<void> {
    const master = masterOf(device);
    if ((master.tables?.pasids.size ?? 0) > 0) yield* attachBesidePasids(master, "blocked");
    else yield* attach(master, master.instance.blockedTranslation());
  }

  override *setDevicePasid(device: Device, pasid: number): Task<void> {
    const master = masterOf(device);
    if (master.tables !== undefined) yield* detachPasid(master, pasid);
  }

  override free(): void {}
}
