// Runs in a browser.
/**
 * Rights: what a translation grants, or what an access needs. One bit for each kind of access, so that "may it?" is
 * `(granted & needed) === needed`, in the walker and in a TLB alike.
 */
export type Rights = number;

export const RIGHT_READ = 1;
export const RIGHT_WRITE = 2;
export const RIGHT_EXECUTE = 4;
/** The same three for privileged accesses, each with a bit of its own. */
export const RIGHT_PRIVILEGED_READ = 8;
export const RIGHT_PRIVILEGED_WRITE = 16;
export const RIGHT_PRIVILEGED_EXECUTE = 32;

const PRIVILEGED_SHIFT = 3;
const ANY_WRITE = RIGHT_WRITE | RIGHT_PRIVILEGED_WRITE;

/** The same access, made with privilege. */
export function privileged(rights: Rights): Rights {
  return rights << PRIVILEGED_SHIFT;
}

/** Does one of them write? */
export function writes(rights: Rights): boolean {
  return (rights & ANY_WRITE) !== 0;
}

/** `"privileged write"`, for people. */
export function rightsName(rights: Rights): string {
  const names = ["read", "write", "execute", "privileged read", "privileged write", "privileged execute"];
  return names.filter((_, bit) => ((rights >> bit) & 1) !== 0).join(", ") || "nothing";
}
