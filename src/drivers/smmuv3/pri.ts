// Runs in a browser.
/**
 * Page requests of PCI devices (PRI; reference 6.5; Arm IHI 0070 chapter 8), as page requests of the core.
 *
 * A device that translates ahead may ask for pages while it, or a PASID of it, is attached to a domain whose owner answers.
 * Every last request of a group gets exactly one CMD_PRI_RESP (invariant 35): from the SMMU if it found no room for the
 * request, else from {@link answerRequested}, which the core calls for whoever answers, or for nobody.
 */
import {
  type Device,
  discardPartialRequests,
  type PageRequest,
  REQUEST_EXECUTE,
  REQUEST_LAST_PAGE,
  REQUEST_PASID_VALID,
  REQUEST_PRIVILEGED,
  REQUEST_READ,
  REQUEST_RESPONSE_NEEDS_PASID,
  REQUEST_WRITE,
  RESPONSE_FAILURE,
  RESPONSE_INVALID,
  RESPONSE_SUCCESS,
  type ResponseCode,
  reportPageRequest,
} from "../../iommu/index.ts";
import {
  disablePageRequests,
  EXTENDED_PRI,
  enablePageRequests,
  type PciFunction,
  PRI_RESPONSE_NEEDS_PASID,
  PRI_STATUS,
} from "../../pci/index.ts";
import { Refusal, type Task } from "../../runtime/index.ts";
import type { DeviceAts } from "./ats.ts";
import { respondToPageRequest } from "./commands.ts";
import type { SmmuV3Instance } from "./instance.ts";
import type { Master } from "./master.ts";

/** Requests that one device may have outstanding: the queue holds those of several. */
const OUTSTANDING_MAX = 32;

/** CMD_PRI_RESP's own codes. */
const responseCodes = { [RESPONSE_SUCCESS]: 2, [RESPONSE_INVALID]: 1, [RESPONSE_FAILURE]: 0 } as const;

/** A device that may ask for pages. */
export interface DevicePri {
  readonly member: PciFunction;
  readonly responseNeedsPasid: boolean;
  isEnabled: boolean;
}

/** PRI of a device that has ATS; undefined if it or the SMMU lacks it. */
export function findPri(ats: DeviceAts | undefined, { pageRequests }: SmmuV3Instance): DevicePri | undefined {
  const capability = ats?.member.extendedCapability(EXTENDED_PRI);
  if (ats === undefined || capability === undefined || pageRequests === undefined) return undefined;
  const status = ats.member.readConfig(capability + PRI_STATUS, 2);
  return {
    member: ats.member,
    responseNeedsPasid: (status & PRI_RESPONSE_NEEDS_PASID) !== 0,
    isEnabled: false,
  };
}

/** Somebody answers now. It needs ATS, without which nothing is asked for. */
export function turnOnPri({ pri, ats, device, instance: { system } }: Master): void {
  if (pri === undefined || pri.isEnabled || !ats!.isEnabled) return;
  enablePageRequests(pri.member, OUTSTANDING_MAX);
  pri.isEnabled = true;
  if (system.events.on) system.events.emit({ kind: "smmuv3.pri.enable", device: device.name });
}

/** Before nobody answers any more. What is outstanding is answered still. */
export function turnOffPri({ pri, device, instance: { system } }: Master): void {
  if (pri === undefined || !pri.isEnabled) return;
  disablePageRequests(pri.member);
  pri.isEnabled = false;
  if (system.events.on) system.events.emit({ kind: "smmuv3.pri.disable", device: device.name });
}

/** A record of the page request queue, four words: somebody will answer it, or it is answered at once. */
export function* reportRequested(instance: SmmuV3Instance, words: Uint32Array): Task<void> {
  const [streamId, flags, low, high] = words;
  const bit = (position: number, flag: number): number => (((flags >>> position) & 1) === 1 ? flag : 0);
  const master = instance.masters.get(streamId);
  const request: PageRequest = {
    flags:
      bit(31, REQUEST_PASID_VALID) |
      bit(30, REQUEST_LAST_PAGE) |
      (master?.pri?.responseNeedsPasid ? bit(31, REQUEST_RESPONSE_NEEDS_PASID) : 0),
    pasid: bit(31, 1) === 1 ? flags & 0xfffff : 0,
    group: low & 0x1ff,
    rights: bit(29, REQUEST_WRITE) | bit(28, REQUEST_READ) | bit(27, REQUEST_EXECUTE) | bit(26, REQUEST_PRIVILEGED),
    address: BigInt(high) * 2n ** 32n + BigInt(low - (low % 4096)),
  };
  // The end of a PASID's requests: nobody waits for an answer.
  const isForPasid = (request.flags & REQUEST_PASID_VALID) !== 0;
  if (isForPasid && (request.rights & (REQUEST_READ | REQUEST_WRITE)) === 0) return;
  if (master === undefined || master.device.group === undefined) {
    respond(instance, streamId, request, RESPONSE_FAILURE);
    return;
  }
  try {
    yield* reportPageRequest(master.device, request);
  } catch (error) {
    // Nobody's: it has been answered.
    if (!(error instanceof Refusal)) throw error;
  }
}

/** The queue was full: last requests were lost, and answered by the SMMU. Their groups will never be complete. */
export function forgetPartial({ masters }: SmmuV3Instance): void {
  const devices = new Set<Device>();
  for (const { device } of masters.values()) devices.add(device);
  discardPartialRequests(devices);
}

/** The answer to the group that `request` completed, or to one that nobody wanted. It needs no SYNC. */
export function answerRequested({ instance, streamIds }: Master, request: PageRequest, code: ResponseCode): void {
  respond(instance, streamIds[0], request, code);
}

function respond({ commands }: SmmuV3Instance, streamId: number, request: PageRequest, code: ResponseCode): void {
  const { flags, pasid, group } = request;
  if ((flags & REQUEST_LAST_PAGE) === 0) return;
  const substreamId = (flags & REQUEST_RESPONSE_NEEDS_PASID) === 0 ? undefined : pasid;
  respondToPageRequest(commands, streamId, substreamId, group, responseCodes[code]);
  commands.publish();
}
