// Runs in a browser.
import type { IommufdDevice } from "../iommufd/index.ts";
import type { Process } from "../memory/index.ts";
import { EINVAL, ENOSPC, refuse, type Task } from "../runtime/index.ts";
import { ATTACH_FLAG_PASID, AttachIommufdPt, DetachIommufdPt } from "../uapi/index.ts";
import { readArgument } from "./info.ts";

const ATTACH_MINIMUM = AttachIommufdPt.endOf("pt_id");
const DETACH_MINIMUM = DetachIommufdPt.endOf("flags");

/** The device's own traffic, which has no PASID. */
type Attachment = number | "RID";

/**
 * What a bound device is attached to, as ATTACH and DETACH see it (reference 5.2): the first time is an attach, each later
 * one a replace, for the device's own traffic and each PASID apart. With the device's mutex held.
 */
export class Attachments {
  readonly bound: IommufdDevice;
  private readonly label: string;
  private readonly attached = new Set<Attachment>();

  constructor(label: string, bound: IommufdDevice) {
    this.label = label;
    this.bound = bound;
  }

  *attach(process: Process, argument: number): Task<number> {
    const { bound, attached } = this;
    const request = readArgument(process, argument, new AttachIommufdPt(), ATTACH_MINIMUM);
    const attachment = this.attachmentOf(process, argument, request, AttachIommufdPt.size);
    const pasid = pasidOf(attachment);
    if (attached.has(attachment)) {
      request.pt_id = yield* bound.replace(request.pt_id, pasid);
    } else {
      if (pasid >= 0x80000000) refuse(ENOSPC, () => `PASID 0x${pasid.toString(16)} does not fit into 31 bits`);
      request.pt_id = yield* bound.attach(request.pt_id, pasid);
      attached.add(attachment);
    }
    try {
      process.memory.write(argument + AttachIommufdPt.offsets.pt_id, request.$bytes.subarray(8, 12));
    } catch (error) {
      // Linux detaches the device's own traffic here, also where a PASID was attached.
      yield* this.detachOne("RID");
      throw error;
    }
    return 0;
  }

  *detach(process: Process, argument: number): Task<number> {
    const request = readArgument(process, argument, new DetachIommufdPt(), DETACH_MINIMUM);
    yield* this.detachOne(this.attachmentOf(process, argument, request, DetachIommufdPt.size));
    return 0;
  }

  /** Detaches everything, PASIDs first, and unbinds. Cannot fail. */
  *release(): Task<void> {
    for (const attachment of [...this.attached]) if (attachment !== "RID") yield* this.detachOne(attachment);
    yield* this.detachOne("RID");
    yield* this.bound.unbind();
  }

  private *detachOne(attachment: Attachment): Task<void> {
    if (!this.attached.delete(attachment)) return;
    yield* this.bound.detach(pasidOf(attachment));
  }

  /** EINVAL for flags that are unknown, or an argsz that has no room for the PASID. */
  private attachmentOf(
    process: Process,
    argument: number,
    request: { argsz: number; flags: number; pasid: number; $bytes: Uint8Array },
    size: number,
  ): Attachment {
    const { argsz, flags } = request;
    if (flags & ~ATTACH_FLAG_PASID) {
      refuse(EINVAL, () => `${this.label}: flags 0x${flags.toString(16)} has unknown bits`);
    }
    if (!(flags & ATTACH_FLAG_PASID)) return "RID";
    if (argsz < size) refuse(EINVAL, () => `argsz ${argsz} is below ${size}: no room for the PASID`);
    process.memory.read(argument, request.$bytes.subarray(0, size));
    return request.pasid;
  }
}

function pasidOf(attachment: Attachment): number {
  return attachment === "RID" ? 0 : attachment;
}
