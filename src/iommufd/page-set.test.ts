import { describe, expect, it } from "vitest";
import { type AccountMode, LibraryProcess, PhysicalMemory } from "../memory/index.ts";
import { type Refusal, System } from "../runtime/index.ts";
import { PageSet, type PageSource } from "./page-set.ts";

const PAGES = 4;

/** A file of 4 pages, pinned for a process, and another process that may take it over. */
function pinned(mode: AccountMode) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 21 }] });
  const pfn = memory.allocate(PAGES);
  const source: PageSource = {
    label: "a file",
    kind: "file",
    pin(page, count) {
      const run = { pfn: pfn + page, count };
      memory.pin(run);
      return [run];
    },
  };
  const [creator, taker] = [10, 11].map(
    (pid) =>
      new LibraryProcess(system, memory, { pid, memlockLimit: PAGES * 4096, user: { uid: pid, lockedPages: 0 } }),
  );
  const set = new PageSet({ system, memory }, source, true, creator, mode);
  set.acquire(0, PAGES - 1, creator);
  const change = (payer = taker): number => {
    try {
      set.changePayer(payer);
      return 0;
    } catch (error) {
      return (error as Refusal).errno;
    }
  };
  const counts = ({ user, memory: { lockedPages, pinnedPages } }: LibraryProcess) => [
    user.lockedPages,
    lockedPages,
    pinnedPages,
  ];
  return { creator, taker, set, change, counts };
}

describe("who pays when pages change hands", () => {
  it.each([
    { mode: "user", paid: [4, 0, 4] },
    { mode: "process", paid: [0, 4, 4] },
  ] as const)("by $mode: the taker, as the creator did", ({ mode, paid }) => {
    const { creator, taker, set, change, counts } = pinned(mode);
    expect([change(), counts(creator), counts(taker)]).toEqual([0, [0, 0, 0], paid]);
    set.release(0, PAGES - 1);
    expect(counts(taker)).toEqual([0, 0, 0]);
  });

  it("nobody, where nobody did: the pages stay pinned for their creator, whatever the taker's limit", () => {
    const { creator, taker, change, counts } = pinned("none");
    taker.memlockLimit = 0;
    expect([change(), counts(creator), counts(taker)]).toEqual([0, [0, 0, 4], [0, 0, 0]]);
  });

  it("nothing changes over the taker's limit (ENOMEM), and when a process that paid itself is gone (EINVAL)", () => {
    const { creator, taker, change, counts } = pinned("process");
    taker.memlockLimit -= 1;
    expect([change(), counts(creator), counts(taker)]).toEqual([12, [0, 4, 4], [0, 0, 0]]);
    creator.memlockLimit = 0;
    expect([change(creator), counts(creator)]).toEqual([0, [0, 4, 4]]);
    taker.memlockLimit += 1;
    creator.exit();
    expect([change(), counts(taker)]).toEqual([22, [0, 0, 0]]);
  });
});

it("a user pays for what it mapped, also when its process has become another's", () => {
  const { creator, set, counts } = pinned("user");
  const before = creator.user;
  Object.assign(creator, { user: { uid: 0, lockedPages: 7 } });
  set.release(0, PAGES - 1);
  expect([before.lockedPages, counts(creator)]).toEqual([0, [7, 0, 0]]);
});
