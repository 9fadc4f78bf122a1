// Runs in a browser.
import { assert, EINVAL, ENOMEM, refuse } from "../runtime/index.ts";
import { CAP_IPC_LOCK, type Process } from "./process.ts";
import { PAGE_SIZE } from "./types.ts";

/** Against what pinned pages count: nothing, the user over all its processes, or the one process. */
export type AccountMode = "none" | "user" | "process";

/** Who pays: the process that made the mapping, with its limit as it is now. */
export type Payer = Pick<Process, "label" | "user" | "memory" | "memlockLimit">;

/** Whose user pays in user mode: the one that the process belonged to then, which it may have left. */
type PayingUser = Payer["user"];

/** The mode of what `process` maps. `perProcess` is what IOMMU_OPTION_RLIMIT_MODE was set to. Reference 3.6. */
export function accountModeOf(process: Pick<Process, "capable">, perProcess: boolean): AccountMode {
  if (process.capable(CAP_IPC_LOCK)) return "none";
  return perProcess ? "process" : "user";
}

/**
 * Charges pinned pages; `pinnedPages` of the address space grows in every mode. All or nothing. Reference 3.6.
 * Throws Refusal ENOMEM over RLIMIT_MEMLOCK, EINVAL in process mode when the address space is gone.
 */
export function charge(payer: Payer, mode: AccountMode, pages: number, user: PayingUser = payer.user): void {
  const { memory } = payer;
  if (mode === "process") {
    if (!memory.alive) refuse(EINVAL, () => `${payer.label} is gone and cannot be charged`);
    checkLimit(payer, memory.lockedPages + (memory.mlockedPages ?? 0), pages, payer.label);
    memory.lockedPages += pages;
  } else if (mode === "user") {
    checkLimit(payer, user.lockedPages, pages, `user ${user.uid}`);
    user.lockedPages += pages;
  }
  memory.pinnedPages += pages;
}

/** Gives back what {@link charge} took, also from a process that is gone. */
export function uncharge(payer: Payer, mode: AccountMode, pages: number, user: PayingUser = payer.user): void {
  const { memory } = payer;
  if (mode === "process") memory.lockedPages -= pages;
  else if (mode === "user") user.lockedPages -= pages;
  memory.pinnedPages -= pages;
  assert(
    memory.pinnedPages >= 0 && memory.lockedPages >= 0 && user.lockedPages >= 0,
    () => `${payer.label} gives back ${pages} pages that were never charged in ${mode} mode`,
  );
}

function checkLimit(payer: Payer, locked: number, pages: number, debtor: string): void {
  const limit = Math.floor(payer.memlockLimit / PAGE_SIZE);
  if (locked + pages <= limit) return;
  refuse(
    ENOMEM,
    () => `RLIMIT_MEMLOCK: ${debtor} has ${locked} pages locked, ${pages} more go over the limit of ${limit}`,
  );
}
