import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { PAGE_EXECUTE, PAGE_READ, PAGE_SIZE, PAGE_WRITE, PhysicalMemory } from "../memory/index.ts";
import { EFAULT, System } from "../runtime/index.ts";
import { ClientAddressSpace } from "./address-space.ts";
import { SharedFiles } from "./shared-files.ts";
import { parseMaps, USER_END } from "./vmas.ts";

/** The address space of this very process, as that of a client. */
function setUp() {
  const memory = new PhysicalMemory(new System(), { ram: [{ base: 0, size: 2 ** 21 }] });
  const space = new ClientAddressSpace(process.pid, "the test", { memory, sharedFiles: new SharedFiles(memory) });
  const vmas = parseMaps(readFileSync("/proc/self/maps", "latin1"));
  const stack = vmas.find(({ path }) => path === "[stack]")!.end / PAGE_SIZE - 1;
  const code = vmas.find(({ executable, inode }) => executable && inode !== 0)!.start / PAGE_SIZE;
  return { memory, space, stack, code };
}

test("a page that is looked at without a pin has a frame that shows it, with the rights of its mapping", () => {
  const { memory, space, stack, code } = setUp();
  const { pfn, rights } = space.faultIn(stack, PAGE_WRITE);
  expect(rights & (PAGE_READ | PAGE_WRITE)).toBe(PAGE_READ | PAGE_WRITE);
  const [there, here] = [new Uint8Array(64), new Uint8Array(64)];
  memory.read(pfn * PAGE_SIZE + 100, there);
  expect(space.peek(stack * PAGE_SIZE + 100, here)).toBe(true);
  expect(there).toEqual(here);
  expect([space.faultIn(stack, PAGE_READ).pfn, memory.pinCount(pfn)]).toEqual([pfn, 0]);
  expect(space.faultIn(code, PAGE_READ | PAGE_EXECUTE).rights & PAGE_WRITE).toBe(0);
  const refused = expect.objectContaining({ errno: EFAULT });
  expect(() => space.faultIn(code, PAGE_WRITE)).toThrow(refused);
  expect(() => space.faultIn(1, PAGE_READ)).toThrow(refused);
  expect(() => space.faultIn(USER_END / PAGE_SIZE, PAGE_READ)).toThrow(refused);
});

test("who looks at pages hears of a change first; then their frames are gone", () => {
  const { memory, space, stack } = setUp();
  space.faultIn(stack, PAGE_READ);
  space.faultIn(stack - 1, PAGE_READ);
  const heard: string[] = [];
  space.notifiers.watch({
    invalidateStart: (start, end) =>
      heard.push(`${start / PAGE_SIZE - stack} ${end / PAGE_SIZE - stack}: ${memory.adoptedFrames}`),
    invalidateEnd: () => heard.push("over"),
    release: () => heard.push(`release: ${memory.adoptedFrames}`),
  });
  const [start, end] = [stack * PAGE_SIZE + 10, stack * PAGE_SIZE + 20];
  space.changing(start, end);
  expect([memory.adoptedFrames, space.notifiers.isChanging(stack)]).toEqual([1, true]);
  space.changed(start, end);
  expect(space.notifiers.isChanging(stack)).toBe(false);
  space.die();
  expect(heard).toEqual(["0 1: 2", "over", "release: 1"]);
  expect(memory.adoptedFrames).toBe(0);
});
