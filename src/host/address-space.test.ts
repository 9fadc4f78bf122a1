import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { PAGE_EXECUTE, PAGE_READ, PAGE_SIZE, PAGE_WRITE, PhysicalMemory } from "../memory/index.ts";
import { EFAULT, System } from "../runtime/index.ts";
import { ClientAddressSpace } from "./address-space.ts";
import { Maps, USER_END } from "./maps.ts";
import { SharedFiles } from "./shared-files.ts";

/** The address space of this very process, as that of a client. */
function setUp() {
  const memory = new PhysicalMemory(new System(), { ram: [{ base: 0, size: 2 ** 21 }] });
  const space = new ClientAddressSpace(process.pid, "the test", { memory, sharedFiles: new SharedFiles(memory) });
  const vmas = [...new Maps(readFileSync("/proc/self/maps", "latin1")).endingBehind(0)];
  const stack = vmas.find(({ path }) => path === "[stack]")!.end / PAGE_SIZE - 1;
  const code = vmas.find(({ executable, inode }) => executable && inode !== 0)!.start / PAGE_SIZE;
  return { memory, space, stack, code };
}

test("a page that is looked at without a pin has a frame that shows it, with the rights of its mapping", () => {
  const { memory, space, stack, code } = setUp();
  const { page, count, pfn: first, rights } = space.faultIn(stack, PAGE_WRITE);
  const pfn = first + stack - page;
  expect(rights & (PAGE_READ | PAGE_WRITE)).toBe(PAGE_READ | PAGE_WRITE);
  const [there, here] = [new Uint8Array(64), new Uint8Array(64)];
  memory.read(pfn * PAGE_SIZE + 100, there);
  expect(space.peek(stack * PAGE_SIZE + 100, here)).toBe(true);
  expect(there).toEqual(here);
  // What of the stack is in the same 2 MiB comes with it, and is the same for each of its pages.
  expect([page % 512 === 0 || space.vmas.allow((page - 1) * PAGE_SIZE, page * PAGE_SIZE, true), count > 1]).toEqual([
    page % 512 === 0,
    true,
  ]);
  for (const other of [page, stack]) expect(space.faultIn(other, PAGE_READ)).toMatchObject({ page, count, pfn: first });
  expect(memory.pinCount(pfn)).toBe(0);
  expect(space.faultIn(code, PAGE_READ | PAGE_EXECUTE).rights & PAGE_WRITE).toBe(0);
  const refused = expect.objectContaining({ errno: EFAULT });
  expect(() => space.faultIn(code, PAGE_WRITE)).toThrow(refused);
  expect(() => space.faultIn(1, PAGE_READ)).toThrow(refused);
  expect(() => space.faultIn(USER_END / PAGE_SIZE, PAGE_READ)).toThrow(refused);
});

test("who looks at pages hears of a change first, in whole groups of 2 MiB; then their frames are gone", () => {
  const { memory, space, stack, code } = setUp();
  const frames = space.faultIn(stack, PAGE_READ).count + space.faultIn(code, PAGE_READ).count;
  expect(memory.adoptedFrames).toBe(frames);
  const heard: string[] = [];
  space.notifiers.watch({
    invalidateStart: (start, end) => heard.push(`${start} ${end}: ${memory.adoptedFrames}`),
    invalidateEnd: () => heard.push("over"),
    release: () => heard.push(`release: ${memory.adoptedFrames}`),
  });
  const [start, end] = [stack * PAGE_SIZE + 10, stack * PAGE_SIZE + 20];
  const group = Math.floor(stack / 512) * 512;
  space.changing(start, end);
  expect([memory.adoptedFrames, space.notifiers.isChanging(group), space.notifiers.isChanging(group + 512)]).toEqual([
    1,
    true,
    false,
  ]);
  space.changed(start, end);
  expect(space.notifiers.isChanging(group)).toBe(false);
  space.die();
  expect(heard).toEqual([`${group * PAGE_SIZE} ${(group + 512) * PAGE_SIZE}: ${frames}`, "over", "release: 1"]);
  expect(memory.adoptedFrames).toBe(0);
});

test("pages of a file come one by one, since they can lie behind its end", () => {
  const { space, code } = setUp();
  expect(space.faultIn(code, PAGE_READ)).toMatchObject({ page: code, count: 1 });
});
