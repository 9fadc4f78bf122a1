// Runs in a browser.
/**
 * Fault queues: page requests of devices, for user space to answer (reference 3.11).
 *
 * A group of requests is *queued* until it is read, then *awaiting* under a cookie until it is answered. It leaves either
 * way also when the attachment that it came by goes: answered INVALID, its cookie unknown from then on.
 */
import { type PageRequestGroup, RESPONSE_INVALID, RESPONSE_SUCCESS, type ResponseCode } from "../iommu/index.ts";
import { EINVAL, ESPIPE, IdAllocator, Refusal, refuse, type Task } from "../runtime/index.ts";
import { FAULT_LAST_PAGE, FAULT_PASID_VALID, FaultRecord, FaultResponse } from "../uapi/index.ts";
import type { IommufdContext } from "./context.ts";
import type { AttachHandle } from "./igroup.ts";
import { type Get, type Put, RecordQueue } from "./record-file.ts";

export class FaultQueue extends RecordQueue {
  static readonly noun = "fault queue";
  readonly kind = "FAULT";
  readonly inodeName = "iommufd-pgfault";
  readonly writable = true;
  private queued: PageRequestGroup[] = [];
  private readonly awaiting = new Map<number, PageRequestGroup>();
  private readonly cookies = new IdAllocator(0, 2 ** 31 - 1);
  /** 0 is no cookie, until a client answered to it: see {@link accept}. */
  private hasCookieZero = false;

  constructor(context: IommufdContext, id: number) {
    super(context, id, FaultQueue.noun);
    this.cookies.reserve(0);
  }

  /** Queues a group; somebody reads and answers it, or it is answered when its attachment goes. */
  deliver(group: PageRequestGroup): void {
    this.context.system.failures.point("iommufd.fault.deliver");
    this.queued.push(group);
    this.tell("iommufd.fault.queue", group);
    this.tellReadable();
  }

  /** Answers INVALID to whatever came by an attachment that is gone. Cannot fail. */
  *discard(handle: AttachHandle): Task<void> {
    const left = this.queued.filter((group) => group.handle === handle);
    this.queued = this.queued.filter((group) => group.handle !== handle);
    if (left.length > 0) this.tellReadable();
    for (const [cookie, group] of this.awaiting) {
      if (group.handle !== handle) continue;
      this.forget(cookie);
      left.push(group);
    }
    for (const group of left) yield* this.respond(group, RESPONSE_INVALID);
  }

  *destroy(): Task<void> {
    const left = [...this.queued.splice(0), ...this.awaiting.values()];
    for (const cookie of [...this.awaiting.keys()]) this.forget(cookie);
    for (const group of left) yield* this.respond(group, RESPONSE_INVALID);
  }

  readable(): boolean {
    return this.queued.length > 0;
  }

  describe(): Record<string, unknown> {
    return { queued: this.queued.length, awaiting: [...this.awaiting.keys()] };
  }

  /** Whole groups. ESPIPE: no multiple of a record. EINVAL: not even the first fits. EFAULT: it stays. */
  protected take(count: number, put: Put): number {
    if (count % FaultRecord.size !== 0) refuse(ESPIPE, () => `${count} bytes: records have ${FaultRecord.size}`);
    let done = 0;
    while (this.queued.length > 0) {
      const [group] = this.queued;
      const size = group.requests.length * FaultRecord.size;
      if (done + size > count) {
        if (done === 0) refuse(EINVAL, () => `${count} bytes: the next group of ${this.label} has ${size}`);
        break;
      }
      const cookie = this.cookies.allocate()!;
      try {
        put(done, recordsOf(group, cookie));
      } catch (error) {
        this.cookies.free(cookie);
        if (done === 0 || !(error instanceof Refusal)) throw error;
        break;
      }
      this.queued.shift();
      this.awaiting.set(cookie, group);
      done += size;
    }
    return done;
  }

  /** ESPIPE: no multiple of a response. EFAULT, or EINVAL (code, cookie), at the first; later ones end the write. */
  protected *give(count: number, get: Get): Task<number> {
    if (count % FaultResponse.size !== 0) refuse(ESPIPE, () => `${count} bytes: responses have ${FaultResponse.size}`);
    for (let done = 0; done < count; done += FaultResponse.size) {
      let group: PageRequestGroup;
      let code: ResponseCode;
      try {
        const response = new FaultResponse(get(done, FaultResponse.size));
        code = codeOf(response.code);
        group = this.accept(response.cookie);
      } catch (error) {
        if (done === 0 || !(error instanceof Refusal)) throw error;
        return done;
      }
      yield* this.respond(group, code);
    }
    return count;
  }

  /**
   * The group of a cookie, which is free from then on. An answer to the cookie 0 frees it though it was never given: while
   * groups await answers, Linux takes it for one of its numbers from then on.
   */
  private accept(cookie: number): PageRequestGroup {
    const group = this.awaiting.get(cookie);
    if (group !== undefined) {
      this.forget(cookie);
      return group;
    }
    if (cookie === 0 && !this.hasCookieZero && this.awaiting.size > 0) {
      this.hasCookieZero = true;
      this.cookies.free(0);
    }
    return refuse(EINVAL, () => `no group of ${this.label} awaits an answer under the cookie ${cookie}`);
  }

  private forget(cookie: number): void {
    this.awaiting.delete(cookie);
    this.cookies.free(cookie);
  }

  private *respond(group: PageRequestGroup, code: ResponseCode): Task<void> {
    this.tell("iommufd.fault.respond", group, code);
    yield* group.respond(code);
  }

  private tell(kind: string, group: PageRequestGroup, code?: ResponseCode): void {
    const { events } = this.context.system;
    if (events.on) events.emit({ kind, queue: this.id, device: group.device.name, requests: group.requests, code });
  }
}

/** A group's records, as a client reads them. */
function recordsOf(group: PageRequestGroup, cookie: number): Uint8Array {
  const bytes = new Uint8Array(group.requests.length * FaultRecord.size);
  const { device } = group.handle as AttachHandle;
  for (const [index, request] of group.requests.entries()) {
    const record = new FaultRecord(bytes.subarray(index * FaultRecord.size));
    record.flags = request.flags & (FAULT_PASID_VALID | FAULT_LAST_PAGE);
    record.dev_id = device.id;
    record.pasid = request.pasid;
    record.grpid = request.group;
    record.perm = request.rights;
    record.addr = request.address;
    record.cookie = cookie;
  }
  return bytes;
}

function codeOf(code: number): ResponseCode {
  if (code === RESPONSE_SUCCESS || code === RESPONSE_INVALID) return code;
  return refuse(EINVAL, () => `response code ${code} is neither SUCCESS (0) nor INVALID (1)`);
}
