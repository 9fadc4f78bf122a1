// Runs in a browser.
import { type Device, Domain } from "../../iommu/index.ts";
import type { Task } from "../../runtime/index.ts";
import { attach } from "./attach.ts";
import { masterOf, type Translation } from "./master.ts";
import { ceasePageRequests } from "./page-requests.ts";

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
    yield* attach(master, this.translation);
    yield* ceasePageRequests(master, old);
  }

  override free(): void {}
}
