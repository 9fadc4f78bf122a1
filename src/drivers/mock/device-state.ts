// Runs in a browser.
import { allowPageRequests, type Device, type Domain, forbidPageRequests } from "../../iommu/index.ts";
import type { Task } from "../../runtime/index.ts";
import type { MockViommu } from "./viommu.ts";

/** Words of every emulated cache: of a device, of a nested domain. */
export const CACHE_WORDS = 4;
/** What a device's cache holds until it is invalidated. */
const CACHE_FILLED = 0xbaddad;

/** What the driver keeps of a mock device, as long as the device lives. */
export interface MockDeviceState {
  readonly tracksDirty: boolean;
  /** An emulated cache of the device: what is invalidated becomes 0 and stays so, whatever the device is attached to. */
  readonly cache: Uint32Array;
  /** The viommu whose nested domain the device's own traffic goes through, and the id that the guest had given it then. */
  viommu: MockViommu | undefined;
  virtualId: bigint;
  /** The next attach of PASID 1024 fails. */
  failsNextSpecialPasid: boolean;
  /** Attachments to domains that take page requests. */
  faultingAttachments: number;
}

export function newMockState(tracksDirty: boolean): MockDeviceState {
  return {
    tracksDirty,
    cache: new Uint32Array(CACHE_WORDS).fill(CACHE_FILLED),
    viommu: undefined,
    virtualId: 0n,
    failsNextSpecialPasid: false,
    faultingAttachments: 0,
  };
}

export function mockStateOf(device: Device): MockDeviceState {
  return device.iommu!.data as MockDeviceState;
}

/** The device may report page requests while it is attached to something that takes them. */
export function* followPageRequests(device: Device, to: Domain, from: Domain | undefined): Task<void> {
  const state = mockStateOf(device);
  if (to.pageRequestHandler !== undefined) {
    if (state.faultingAttachments === 0) allowPageRequests(device);
    state.faultingAttachments++;
  }
  if (from?.pageRequestHandler !== undefined) {
    state.faultingAttachments--;
    if (state.faultingAttachments === 0) yield* forbidPageRequests(device);
  }
}
