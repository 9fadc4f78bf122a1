// Runs in a browser.
/**
 * Tokens of SR-IOV (reference 5.2): who uses a physical function and who uses its virtual ones must know of each other,
 * since the one can do anything to the others. They show that by a secret number that the user of the physical function
 * chose; until somebody chose one it is a number that nobody knows.
 */
import { physicalFunctionOf } from "../pci/index.ts";
import { EACCES, EINVAL, refuse, type System } from "../runtime/index.ts";
import type { VfioDevice } from "./device.ts";

export const TOKEN_SIZE = 16;

/** A number that nobody knows. */
export function unknownToken({ random }: System): Uint8Array {
  return Uint8Array.from({ length: TOKEN_SIZE }, () => random.below(256));
}

/**
 * Whether who opens the device with this token, or without one, may. Whoever opens a physical function whose virtual ones
 * nobody uses sets its token so. EACCES: no token or a wrong one. EINVAL: a token, and there is nothing to show it to.
 */
export function checkToken(device: VfioDevice, token: Uint8Array | undefined): void {
  const { member, label, siblings } = device;
  const physical = physicalFunctionOf(member);
  const owner = physical === undefined ? device : siblings.get(physical);
  if (owner?.token === undefined) {
    if (token !== undefined) refuse(EINVAL, () => `${label} shares nothing with others of vfio-pci: it takes no token`);
    return;
  }
  const users = member.virtualFunctions?.present.filter((virtual) => siblings.get(virtual)?.bound !== undefined);
  if (users?.length !== 0) mustMatch(owner, token, label);
  else if (token !== undefined) owner.token = token;
}

function mustMatch(owner: VfioDevice, token: Uint8Array | undefined, label: string): void {
  if (token === undefined)
    refuse(EACCES, () => `${label} is opened with the token of ${owner.label}, and there is none`);
  if (token.some((byte, index) => byte !== owner.token![index])) {
    refuse(EACCES, () => `the token is not that of ${owner.label}, which ${label} is opened with`);
  }
}

/** `vf_token=UUID`, as an option of a device's name. EINVAL for anything else. */
export function parseTokenOption(option: string): Uint8Array {
  const match = /^vf_token=([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$/i.exec(option);
  if (match === null) refuse(EINVAL, () => `"${option}" is no option of a device: vf_token=UUID is the only one`);
  const digits = match[1].replaceAll("-", "");
  return Uint8Array.from({ length: TOKEN_SIZE }, (_, index) =>
    Number.parseInt(digits.slice(2 * index, 2 * index + 2), 16),
  );
}
