// Runs in a browser.
/** What happens when a mock device comes to a domain: nothing is translated, but rules are kept and ids remembered. */
import type { Device, Domain } from "../../iommu/index.ts";
import { EINVAL, ENOENT, ENOMEM, refuse, type Task } from "../../runtime/index.ts";
import { followPageRequests, mockStateOf } from "./device-state.ts";
import type { MockViommu } from "./viommu.ts";

/** The PASID whose attaches fail every second time: for those who test what happens then. */
const SPECIAL_PASID = 1024;

/** What the rules need to know of the domain to attach. */
export interface Target {
  readonly tracksDirty?: boolean;
  /** Of a nested domain that was made by a viommu. */
  readonly viommu?: MockViommu | undefined;
}

/**
 * The device's own traffic. Refusals: EINVAL for dirty tracking with a device that has none, ENOENT for a viommu on which
 * the device has no vdevice.
 */
export function* attachDevice(
  device: Device,
  to: Domain,
  from: Domain | undefined,
  { tracksDirty = false, viommu }: Target,
): Task<void> {
  const state = mockStateOf(device);
  if (tracksDirty && !state.tracksDirty) refuse(EINVAL, () => `${device.label} cannot track what it writes to`);
  let virtualId = 0n;
  if (viommu !== undefined) {
    virtualId =
      viommu.services.virtualId(device) ?? refuse(ENOENT, () => `${device.label} has no vdevice on ${viommu.label}`);
  }
  yield* followPageRequests(device, to, from);
  // A move within the viommu keeps the id that the device came with.
  if (viommu === state.viommu) return;
  state.viommu = viommu;
  state.virtualId = virtualId;
}

/** One PASID. Refusal ENOMEM for every second attach of {@link SPECIAL_PASID}. */
export function* attachPasid(device: Device, pasid: number, to: Domain, from: Domain | undefined): Task<void> {
  const state = mockStateOf(device);
  if (pasid === SPECIAL_PASID) {
    const fails = state.failsNextSpecialPasid && to.type !== "blocked";
    state.failsNextSpecialPasid = !fails && to.type !== "blocked";
    if (fails) refuse(ENOMEM, () => `every second attach of PASID ${SPECIAL_PASID} of a mock device fails`);
  }
  yield* followPageRequests(device, to, from);
}
