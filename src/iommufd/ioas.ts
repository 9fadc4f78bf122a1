// Runs in a browser.
import { Mutex, type Task } from "../runtime/index.ts";
import type { IommufdContext } from "./context.ts";
import type { PagingHwpt } from "./hwpt.ts";
import { IovaSpace } from "./iova-space.ts";
import { IommufdObject } from "./objects.ts";

/** An IO address space: an IOVA space, and the HWPTs that show it to devices. */
export class Ioas extends IommufdObject {
  static readonly noun = "IOAS";
  readonly kind = "IOAS";
  readonly context: IommufdContext;
  readonly space: IovaSpace;
  /** Guards `hwpts`: held while HWPTs come and go. */
  readonly mutex: Mutex;
  /** The HWPTs linked to it, in the order of their creation. */
  readonly hwpts: PagingHwpt[] = [];

  constructor(context: IommufdContext, id: number) {
    super(id, Ioas.noun);
    this.context = context;
    this.space = new IovaSpace(context.system, this.label);
    this.mutex = new Mutex(context.system, "iommufd.ioas");
  }

  *destroy(): Task<void> {
    if (this.context.compatIoas === this) this.context.compatIoas = undefined;
    this.space.clear();
  }

  describe(): Record<string, unknown> {
    return { hwpts: this.hwpts.map((hwpt) => hwpt.id), ...this.space.describe() };
  }
}
