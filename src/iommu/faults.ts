// Runs in a browser.
/**
 * Page requests of devices (reference 2.8): a driver reports them, whoever attached the domain answers them.
 *
 * Requests come one by one; those of one group id belong together, and the one with LAST_PAGE completes the group. Only
 * complete groups are handed on. Always true: each group is answered exactly once, by whoever has it; what is left when
 * a device may not report any more, or when the time for it is over, is answered INVALID.
 */
import { assert, EBUSY, EINVAL, ENODEV, ENOMEM, Refusal, refuse, type Task } from "../runtime/index.ts";
import type { Device } from "./device.ts";
import type { Domain } from "./driver.ts";
import { groupOf, NO_PASID } from "./group.ts";

/** Flags of a page request. */
export const REQUEST_PASID_VALID = 1;
export const REQUEST_LAST_PAGE = 2;
export const REQUEST_RESPONSE_NEEDS_PASID = 4;

/** Rights that a page request asks for. */
export const REQUEST_READ = 1;
export const REQUEST_WRITE = 2;
export const REQUEST_EXECUTE = 4;
export const REQUEST_PRIVILEGED = 8;

/** Answers to a group: the access may be repeated; it is refused; something is broken. */
export const RESPONSE_SUCCESS = 0;
export const RESPONSE_INVALID = 1;
export const RESPONSE_FAILURE = 2;
export type ResponseCode = typeof RESPONSE_SUCCESS | typeof RESPONSE_INVALID | typeof RESPONSE_FAILURE;

/** One access that found no translation, all numbers as the device gave them. */
export interface PageRequest {
  readonly flags: number;
  /** Without meaning unless REQUEST_PASID_VALID. */
  readonly pasid: number;
  /** The device's number of the group (grpid). */
  readonly group: number;
  /** REQUEST_READ, … */
  readonly rights: number;
  readonly address: bigint;
}

/** Takes a complete group, and answers it some day. A Refusal has it answered FAILURE. */
export type PageRequestHandler = (group: PageRequestGroup) => void;

/** What the core keeps of a device that may report page requests. */
export interface DeviceFaults {
  /** Requests of groups that are not complete, in the order of their arrival, each with whose business it is. */
  partial: { readonly request: PageRequest; readonly handle: object }[];
  /** Complete, and not answered. */
  readonly pending: Set<PageRequestGroup>;
}

/** Requests that belong together, and the only way to answer them. */
export class PageRequestGroup {
  readonly device: Device;
  /** In the order of arrival; the last one completed the group. */
  readonly requests: readonly PageRequest[];
  /** What came with the attach of the PASID, or of the device's own traffic, that the requests belong to. */
  readonly handle: object | undefined;
  private readonly faults: DeviceFaults | undefined;
  private answered = false;
  /** Ends the time that there is for an answer. */
  private stopTimer: (() => void) | undefined;

  constructor(device: Device, requests: readonly PageRequest[], handle: object | undefined) {
    this.device = device;
    this.requests = requests;
    this.handle = handle;
    this.faults = device.iommu!.faults;
    this.faults?.pending.add(this);
  }

  get isAnswered(): boolean {
    return this.answered;
  }

  /** If nobody has answered when so many nanoseconds have passed, the answer is INVALID. */
  expireAfter(timeout: number): void {
    const { system } = groupOf(this.device);
    this.stopTimer = system.clock.after(timeout, () => {
      if (system.events.on) system.events.emit({ kind: "iommu.fault.expire", device: this.device.name });
      system.tasks.start(`expired page request of ${this.device.label}`, this.respond(RESPONSE_INVALID));
    });
  }

  /** Answers the device, if nobody has yet and its driver knows how. Cannot fail. */
  *respond(code: ResponseCode): Task<void> {
    if (this.answered) return;
    this.answered = true;
    this.stopTimer?.();
    this.faults?.pending.delete(this);
    const { driver } = this.device.iommu!.instance;
    if (driver.pageResponse === undefined) return;
    yield* driver.pageResponse(this.device, this.requests[this.requests.length - 1], code);
  }
}

/** From now on the device may report page requests. EBUSY: it may already. ENODEV: its driver cannot answer any. */
export function allowPageRequests(device: Device): void {
  const iommu = device.iommu!;
  if (iommu.faults !== undefined) refuse(EBUSY, () => `${device.label} reports page requests already`);
  const { driver } = iommu.instance;
  if (driver.pageResponse === undefined) refuse(ENODEV, () => `driver ${driver.name} cannot answer page requests`);
  iommu.faults = { partial: [], pending: new Set() };
}

/** The mirror image of {@link allowPageRequests}; what is not answered yet is answered INVALID. Cannot fail. */
export function* forbidPageRequests(device: Device): Task<void> {
  const { faults } = device.iommu!;
  assert(faults !== undefined, () => `${device.label} never reported page requests`);
  faults.partial = [];
  for (const group of [...faults.pending]) yield* group.respond(RESPONSE_INVALID);
  device.iommu!.faults = undefined;
}

/**
 * What `handle` came with is detached: its groups that nobody answered yet are answered INVALID (invariant 24), those that
 * are not complete are forgotten. Cannot fail.
 */
export function* cancelPageRequests(device: Device, handle: object): Task<void> {
  const { faults } = device.iommu!;
  if (faults === undefined) return;
  faults.partial = faults.partial.filter((each) => each.handle !== handle);
  for (const group of [...faults.pending]) if (group.handle === handle) yield* group.respond(RESPONSE_INVALID);
}

/**
 * The queue that devices report through lost requests, perhaps the last ones of groups: those that are not complete never
 * will be, and are forgotten. The devices ask again.
 */
export function discardPartialRequests(devices: Iterable<Device>): void {
  for (const { iommu } of devices) if (iommu?.faults !== undefined) iommu.faults.partial = [];
}

/**
 * A device met no translation. EINVAL: nobody handles page requests of what is attached, or the device was not allowed to
 * report any; it has been answered INVALID then.
 */
export function* reportPageRequest(device: Device, request: PageRequest): Task<void> {
  const attachment = attachmentFor(device, request);
  const { faults } = device.iommu!;
  if (attachment === undefined || faults === undefined) {
    yield* new PageRequestGroup(device, [request], undefined).respond(RESPONSE_INVALID);
    refuse(EINVAL, () => `nobody handles the page request of ${device.label} at 0x${request.address.toString(16)}`);
  }
  const { handle, handler } = attachment;
  if ((request.flags & REQUEST_LAST_PAGE) === 0) {
    faults.partial.push({ request, handle });
    return;
  }
  const earlier = faults.partial.filter((each) => each.request.group === request.group && each.handle === handle);
  faults.partial = faults.partial.filter((each) => !earlier.includes(each));
  const group = new PageRequestGroup(device, [...earlier.map((each) => each.request), request], handle);
  try {
    groupOf(device).system.failures.point("iommu.fault.group", ENOMEM);
    const { pageRequestTimeout } = device.iommu!;
    if (pageRequestTimeout !== undefined) group.expireAfter(pageRequestTimeout);
    handler(group);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    yield* group.respond(RESPONSE_FAILURE);
  }
}

/**
 * Whose business a request is: its PASID's. A PASID without attachment is the guest's own if the hardware finds PASIDs in
 * tables of the guest, that is below the nested domain of the device's own traffic.
 */
function attachmentFor(
  device: Device,
  { flags, pasid }: PageRequest,
): { readonly handler: PageRequestHandler; readonly handle: object } | undefined {
  const group = groupOf(device);
  const isOwn = (flags & REQUEST_PASID_VALID) === 0 || pasid === NO_PASID;
  const isGuests = !isOwn && !group.handles.has(pasid) && (group.driver.userPasidTables ?? false);
  let domain: Domain | undefined;
  let handle: object | undefined;
  if (isOwn || (isGuests && group.domain?.type === "nested")) {
    domain = group.domain;
    handle = group.handle;
  } else {
    domain = group.pasidDomains.get(pasid);
    handle = group.handles.get(pasid);
  }
  const handler = domain?.pageRequestHandler;
  return handler === undefined || handle === undefined ? undefined : { handler, handle };
}
