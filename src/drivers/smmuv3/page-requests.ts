// Runs in a browser.
/**
 * Stalled transactions as page requests of the core (reference 6.5; 6.7, "Faults").
 *
 * Each is a group of its own, numbered by its stall tag. Whoever handles page requests of the domain that the master (or
 * the PASID) is attached to answers it some day; without such a domain the core answers at once. Either way the answer
 * comes back to {@link answerStalled}, which is the only place that resumes a transaction somebody was told of: so each
 * gets exactly one CMD_RESUME (invariant 35).
 */
import {
  allowPageRequests,
  type Domain,
  forbidPageRequests,
  REQUEST_EXECUTE,
  REQUEST_LAST_PAGE,
  REQUEST_PASID_VALID,
  REQUEST_PRIVILEGED,
  REQUEST_READ,
  REQUEST_WRITE,
  RESPONSE_SUCCESS,
  type ResponseCode,
  reportPageRequest,
} from "../../iommu/index.ts";
import { EOPNOTSUPP, Refusal, refuse, type Task } from "../../runtime/index.ts";
import { RESUME_ABORT, RESUME_RETRY, resume } from "./commands.ts";
import type { EventRecord } from "./event-record.ts";
import type { SmmuV3Instance } from "./instance.ts";
import type { Master } from "./master.ts";
import { turnOffPri, turnOnPri } from "./pri.ts";

/**
 * The master, or one PASID of it, is about to be attached to `domain`: if that takes page requests, it may make some from
 * now on. A master that can neither stall nor ask never makes any, which is fine. Refusal EOPNOTSUPP for several stream ids: an answer
 * does not say which of them it is for.
 */
export function acceptPageRequests(master: Master, domain: Domain): void {
  if (domain.pageRequestHandler === undefined || !canRequest(master)) return;
  const { device, streamIds } = master;
  if (streamIds.length > 1) {
    refuse(
      EOPNOTSUPP,
      () => `${device.label} has ${streamIds.length} stream ids: its page requests cannot be told apart`,
    );
  }
  if (master.faultingAttachments === 0) allowPageRequests(device);
  master.faultingAttachments++;
}

/** The mirror image, once it is not attached to `domain` any more. With the last, what is not answered is. Cannot fail. */
export function* ceasePageRequests(master: Master, domain: Domain | undefined): Task<void> {
  if (domain?.pageRequestHandler === undefined || !canRequest(master)) return;
  master.faultingAttachments--;
  if (master.faultingAttachments > 0) return;
  turnOffPri(master);
  yield* forbidPageRequests(master.device);
}

/** A stalled transaction is a page request, and so is what a PCI device asks for. */
function canRequest({ canStall, pri }: Master): boolean {
  return canStall || pri !== undefined;
}

/** Carries out an `attachment` of the master, or of one PASID of it, from `old` to `domain`. Refusals: both parts'. */
export function* handingOverPageRequests(
  master: Master,
  domain: Domain,
  old: Domain | undefined,
  attachment: Task<void>,
): Task<void> {
  acceptPageRequests(master, domain);
  try {
    yield* attachment;
  } catch (error) {
    yield* ceasePageRequests(master, domain);
    throw error;
  }
  if (master.faultingAttachments > 0) turnOnPri(master);
  yield* ceasePageRequests(master, old);
}

/** An event told of a stalled transaction: somebody will answer it, or it is aborted. */
export function* reportStalled(instance: SmmuV3Instance, event: EventRecord, stallTag: number): Task<void> {
  const { streamId, substreamId } = event;
  const master = instance.masters.get(streamId);
  if (master === undefined || master.streamIds.length > 1 || master.device.group === undefined) {
    resumeTransaction(instance, streamId, stallTag, RESUME_ABORT);
    return;
  }
  try {
    yield* reportPageRequest(master.device, {
      flags: REQUEST_LAST_PAGE | (substreamId === undefined ? 0 : REQUEST_PASID_VALID),
      pasid: substreamId ?? 0,
      group: stallTag,
      rights:
        (event.write ? REQUEST_WRITE : REQUEST_READ) |
        (event.instruction ? REQUEST_EXECUTE : 0) |
        (event.privileged ? REQUEST_PRIVILEGED : 0),
      address: event.address,
    });
  } catch (error) {
    // Nobody's: it has been answered, and the event has been told.
    if (!(error instanceof Refusal)) throw error;
  }
}

/** The answer to the page request that a stalled transaction was. It needs no SYNC. */
export function answerStalled(master: Master, stallTag: number, code: ResponseCode): void {
  const response = code === RESPONSE_SUCCESS ? RESUME_RETRY : RESUME_ABORT;
  resumeTransaction(master.instance, master.streamIds[0], stallTag, response);
}

function resumeTransaction({ commands }: SmmuV3Instance, streamId: number, stallTag: number, response: number): void {
  resume(commands, streamId, stallTag, response);
  commands.publish();
}
