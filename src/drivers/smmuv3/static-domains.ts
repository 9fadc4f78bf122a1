// Runs in a browser.
import { type Device, Domain } from "../../iommu/index.ts";
import type { Task } from "../../runtime/index.ts";
import { attach, detachPasid } from "./attach.ts";
import { masterOf, type Translation } from "./master.ts";
import { ceasePageRequests, handingOverPageRequests } from "./page-requests.ts";

/** A domain without a table, one for all devices of all SMMUs: it belongs to nobody and is never freed. */
export class StaticDomain extends Domain {
  readonly label: string;
  readonly type: "blocked" | "identity";
  readonly owner: undefined;
  private readonly translation: Translation;

  constructor(type: "blocked" | "identity") {
    super();
    this.label = `the ${type} domain`;
    this.type = type;
    this.translation = { kind: type === "blocked" ? "abort" : "bypass", label: this.label };
  }

  override *attachDevice(device: Device, old: Domain | undefined): Task<void> {
    const master = masterOf(device);
    yield* handingOverPageRequests(master, this, old, attach(master, this.translation));
  }

  override free(): void {}
}

/** What ends the translation of a PASID. Nothing passes by it as it is, so the identity domain is none for PASIDs. */
export class BlockedDomain extends StaticDomain {
  constructor() {
    super("blocked");
  }

  override *setDevicePasid(device: Device, pasid: number, old: Domain | undefined): Task<void> {
    const master = masterOf(device);
    yield* detachPasid(master, pasid);
    yield* ceasePageRequests(master, old);
  }
}
