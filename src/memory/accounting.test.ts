import { describe, expect, test } from "vitest";
import { EINVAL, ENOMEM, Refusal, System } from "../runtime/index.ts";
import {
  accountModeOf,
  CAP_IPC_LOCK,
  CAP_SYS_ADMIN,
  charge,
  LibraryProcess,
  type LibraryProcessOptions,
  PAGE_SIZE,
  PhysicalMemory,
  uncharge,
} from "./index.ts";

function client(options: LibraryProcessOptions): LibraryProcess {
  const system = new System();
  return new LibraryProcess(system, new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 21 }] }), options);
}

function refusalOf(action: () => void): Refusal | undefined {
  try {
    action();
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  return undefined;
}

describe("accounting of pinned pages", () => {
  test("CAP_IPC_LOCK frees from accounting; otherwise the option decides between user and process", () => {
    expect(accountModeOf(client({ capabilities: [CAP_IPC_LOCK] }), true)).toBe("none");
    expect(accountModeOf(client({ capabilities: [CAP_SYS_ADMIN] }), true)).toBe("process");
    expect(accountModeOf(client({}), false)).toBe("user");
  });

  test("user mode adds up the processes of a user against the limit of the one that pins", () => {
    const user = { uid: 7, lockedPages: 0 };
    const first = client({ pid: 10, user, memlockLimit: 10 * PAGE_SIZE + 4095 });
    const second = client({ pid: 11, user, memlockLimit: 12 * PAGE_SIZE });
    charge(first, "user", 8);
    expect(refusalOf(() => charge(first, "user", 3))?.errno).toBe(ENOMEM);
    charge(first, "user", 2);
    charge(second, "user", 2);
    const refusal = refusalOf(() => charge(second, "user", 1));
    expect(refusal?.errno).toBe(ENOMEM);
    expect(refusal?.reason).toBe("RLIMIT_MEMLOCK: user 7 has 12 pages locked, 1 more go over the limit of 12");
    expect([first.memory.lockedPages, first.memory.pinnedPages]).toEqual([0, 10]);
    uncharge(first, "user", 10);
    charge(second, "user", 10);
    expect(user.lockedPages).toBe(12);
    expect(first.memory.pinnedPages).toBe(0);
  });

  test("process mode counts against the process alone", () => {
    const user = { uid: 7, lockedPages: 1000 };
    const process = client({ user, memlockLimit: 4 * PAGE_SIZE });
    charge(process, "process", 4);
    expect(refusalOf(() => charge(process, "process", 1))?.errno).toBe(ENOMEM);
    expect([process.memory.lockedPages, process.memory.pinnedPages, user.lockedPages]).toEqual([4, 4, 1000]);
    uncharge(process, "process", 4);
    expect([process.memory.lockedPages, process.memory.pinnedPages]).toEqual([0, 0]);
  });

  test("without accounting there is no limit, and pinned pages are counted all the same", () => {
    const process = client({ memlockLimit: 0 });
    charge(process, "none", 5);
    expect([process.memory.lockedPages, process.memory.pinnedPages, process.user.lockedPages]).toEqual([0, 5, 0]);
    uncharge(process, "none", 5);
    expect(process.memory.pinnedPages).toBe(0);
  });

  test("a process that is gone cannot be charged by process (EINVAL), but gives back what it had", () => {
    const process = client({});
    charge(process, "process", 2);
    process.exit();
    expect(refusalOf(() => charge(process, "process", 1))?.errno).toBe(EINVAL);
    uncharge(process, "process", 2);
    expect(process.memory.lockedPages).toBe(0);
  });

  test("giving back more than was charged is our bug", () => {
    const process = client({});
    charge(process, "user", 2);
    expect(() => uncharge(process, "user", 3)).toThrow("never charged");
  });
});
