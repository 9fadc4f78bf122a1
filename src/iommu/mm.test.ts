import { describe, expect, test } from "vitest";
import { LibraryProcess, PAGE_EXECUTE, PAGE_READ, PAGE_SIZE, PAGE_WRITE, PhysicalMemory } from "../memory/index.ts";
import { EFAULT, EINVAL, ENOMEM, Refusal, System } from "../runtime/index.ts";
import { Cpu } from "./cpu.ts";
import type { Mm, MmInvalidation } from "./mm.ts";

function setUp() {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 2 ** 30, size: 64 * 2 ** 20 }] });
  const cpu = new Cpu(system, memory);
  const process = new LibraryProcess(system, memory, { pid: 7 });
  const mm = cpu.mmOf(process.memory);
  const told: (MmInvalidation | "release")[] = [];
  mm.use({ invalidate: (gone) => told.push(gone), release: () => told.push("release") });
  return { system, memory, cpu, process, mm, told };
}

function fault({ system }: { system: System }, mm: Mm, address: number, rights = PAGE_READ): number {
  try {
    system.run("a fault", mm.handleFault(BigInt(address), rights));
    return 0;
  } catch (error) {
    if (error instanceof Refusal) return error.errno;
    throw error;
  }
}

/** A byte as a device finds it in the table; undefined where the table has nothing. */
function deviceReads(memory: PhysicalMemory, mm: Mm, address: number): number | undefined {
  const found = mm.table.translate(address);
  if (found === undefined) return undefined;
  const byte = new Uint8Array(1);
  memory.read(found.physical, byte);
  return byte[0];
}

describe("the table of a process", () => {
  test("has a page once somebody asked for it, with what the process has there", () => {
    const world = setUp();
    const { memory, process, mm } = world;
    const address = process.memory.map(2);
    process.memory.write(address, new Uint8Array([42]));
    expect(deviceReads(memory, mm, address)).toBeUndefined();
    expect(fault(world, mm, address + 5)).toBe(0);
    expect(deviceReads(memory, mm, address)).toBe(42);
    process.memory.write(address, new Uint8Array([43]));
    expect(deviceReads(memory, mm, address)).toBe(43);
    expect(deviceReads(memory, mm, address + PAGE_SIZE)).toBeUndefined();
  });

  test("gives no right that the process does not have", () => {
    const world = setUp();
    const { process, mm } = world;
    const address = process.memory.map(1, { writable: false });
    expect(fault(world, mm, address, PAGE_WRITE)).toBe(EFAULT);
    expect(fault(world, mm, address, PAGE_EXECUTE)).toBe(EFAULT);
    expect(fault(world, mm, address)).toBe(0);
    expect(fault(world, mm, address + PAGE_SIZE)).toBe(EFAULT);
    expect(fault(world, mm, 2 ** 48)).toBe(EFAULT);
    process.memory.protect(address, 1, { writable: true });
    expect(fault(world, mm, address, PAGE_WRITE)).toBe(0);
  });

  test("loses a page before the process does, and tells what is gone as one range", () => {
    const { system, process, mm, told } = setUp();
    const pages = 262144;
    const sparse = [0, 1, 2, 700, 262143];
    const big = 2 ** 30;
    // A space of 1 GiB with few frames: pages come one by one.
    for (const page of sparse) process.memory.map(1, { address: big + page * PAGE_SIZE });
    for (const page of sparse) system.run("fault", mm.handleFault(BigInt(big + page * PAGE_SIZE), PAGE_READ));
    process.memory.unmap(big, pages);
    expect(told).toEqual([{ start: big, end: big + pages * PAGE_SIZE, leafSize: PAGE_SIZE, tables: true }]);
    expect([...mm.table.leaves()]).toEqual([]);
    process.memory.unmap(big, pages);
    expect(told).toHaveLength(1);
  });

  test.each<[string, (process: LibraryProcess, address: number) => unknown]>([
    ["mprotect", ({ memory }, address) => memory.protect(address, 1, { writable: false })],
    ["madvise", ({ memory }, address) => memory.discard(address, 1)],
    ["mremap", ({ memory }, address) => memory.move(address, 1, 0x5000)],
    ["fork", (process) => process.fork(8)],
  ])("forgets a page at %s", (_what, change) => {
    const world = setUp();
    const { process, mm, told } = world;
    const address = process.memory.map(1);
    fault(world, mm, address, PAGE_WRITE);
    change(process, address);
    expect(mm.table.translate(address)).toBeUndefined();
    expect(told).toHaveLength(1);
  });

  test("shows the parent's page after a fork, whoever writes first", () => {
    const world = setUp();
    const { memory, process, mm } = world;
    const address = process.memory.map(1);
    process.memory.write(address, new Uint8Array([1]));
    const child = process.fork(8);
    fault(world, mm, address);
    expect(fault(world, mm, address)).toBe(0);
    process.memory.write(address, new Uint8Array([2]));
    expect(mm.table.translate(address)).toBeUndefined();
    fault(world, mm, address, PAGE_WRITE);
    expect(deviceReads(memory, mm, address)).toBe(2);
    memory.write(mm.table.translate(address)!.physical, new Uint8Array([3]));
    const bytes = new Uint8Array(1);
    child.memory.read(address, bytes);
    expect(bytes[0]).toBe(1);
  });

  test("is empty for ever once the process is gone, and is freed with its last holder", () => {
    const world = setUp();
    const { memory, cpu, process, mm, told } = world;
    const address = process.memory.map(1);
    fault(world, mm, address);
    mm.get("a test");
    process.exit();
    expect(told).toEqual(["release"]);
    expect([mm.released, [...mm.table.leaves()], fault(world, mm, address)]).toEqual([true, [], EFAULT]);
    expect(cpu.mmOf(process.memory)).toBe(mm);
    mm.put("a test");
    expect(memory.usedFrames).toBe(0);
    expect(() => cpu.mmOf(process.memory)).toThrow(expect.objectContaining({ errno: EINVAL }));
  });

  test("takes neighbours that come with a page, as one leaf where they fit; a change of one of them takes it whole", () => {
    const world = setUp();
    const { process, mm, told } = world;
    const address = process.memory.map(1024);
    const one = process.memory.faultIn.bind(process.memory);
    process.memory.faultIn = (page, rights) => {
      const found = one(page, rights);
      const offset = page % 512;
      return { ...found, page: page - offset, count: 512, pfn: found.pfn - offset };
    };
    const large = 512 * PAGE_SIZE;
    fault(world, mm, address + 5 * PAGE_SIZE, PAGE_WRITE);
    fault(world, mm, address + 6 * PAGE_SIZE, PAGE_WRITE);
    expect([...mm.table.leaves()].map(({ iova, size }) => [iova, size])).toEqual([[address, large]]);
    process.memory.unmap(address + 7 * PAGE_SIZE, 1);
    expect([...mm.table.leaves()]).toEqual([]);
    expect(told).toEqual([{ start: address, end: address + large, leafSize: large, tables: true }]);
  });

  test("stays as it was where memory is short", () => {
    const world = setUp();
    const { system, process, mm } = world;
    const address = process.memory.map(1);
    for (const point of ["iommu.mm.fault", "memory.frames.allocate"]) {
      system.failures.inject((name) => name === point);
      expect(fault(world, mm, address)).toBe(ENOMEM);
      expect([...mm.table.leaves()]).toEqual([]);
    }
  });
});

describe("the CPU's ASID of a process", () => {
  test("stays while it is pinned, and then may be another's", () => {
    const { system, memory, cpu, process, mm } = setUp();
    const other = cpu.mmOf(new LibraryProcess(system, memory).memory);
    expect([mm.pinAsid(), other.pinAsid(), mm.pinAsid()]).toEqual([1, 2, 1]);
    mm.unpinAsid();
    expect(mm.pinAsid()).toBe(1);
    mm.unpinAsid();
    mm.unpinAsid();
    expect(cpu.mmOf(new LibraryProcess(system, memory).memory).pinAsid()).toBe(1);
    process.exit();
    expect(mm.pinAsid()).toBe(0);
  });

  test("cannot be had once all are pinned", () => {
    const { system, memory } = setUp();
    const cpu = new Cpu(system, memory, { asidBits: 8 });
    const pin = (): number => cpu.mmOf(new LibraryProcess(system, memory).memory).pinAsid();
    expect(Array.from({ length: 255 }, pin).at(-1)).toBe(255);
    expect(pin()).toBe(0);
  });

  test("is what TLBs hear of that the CPU's maintenance reaches, as long as it is pinned, and before the users", () => {
    const world = setUp();
    const { cpu, process, mm, told } = world;
    const heard: (readonly number[])[] = [];
    cpu.broadcastTo((...invalidation) => heard.push([...invalidation, told.length]));
    const address = process.memory.map(2);
    fault(world, mm, address);
    process.memory.discard(address, 1);
    expect(heard).toEqual([]);
    mm.pinAsid();
    fault(world, mm, address + PAGE_SIZE);
    process.memory.unmap(address, 2);
    expect(heard).toEqual([[1, address + PAGE_SIZE, PAGE_SIZE, 1]]);
    process.exit();
    expect(heard.at(-1)).toEqual([1, 0, 2 ** 48, 3]);
  });
});

describe("a fault in a range that is being changed", () => {
  test("waits until the change is over, and sees what came of it", () => {
    const { system, process, mm } = setUp();
    const address = process.memory.map(4);
    const { notifiers } = process.memory;
    const answers: string[] = [];
    notifiers.invalidateStart(address, address + 2 * PAGE_SIZE);
    for (const page of [0, 1, 2]) {
      system.tasks.start("fault", mm.handleFault(BigInt(address + page * PAGE_SIZE), PAGE_READ), ({ ok }) => {
        answers.push(`page ${page}: ${ok ? "entered" : "refused"}`);
      });
    }
    expect(answers).toEqual(["page 2: entered"]);
    process.memory.unmap(address, 1);
    expect(answers).toHaveLength(1);
    notifiers.invalidateEnd(address, address + 2 * PAGE_SIZE);
    system.tasks.drain();
    expect(answers).toEqual(["page 2: entered", "page 0: refused", "page 1: entered"]);
  });

  test("is refused when the process ends in the middle of it", () => {
    const { system, process, mm } = setUp();
    const address = process.memory.map(1);
    process.memory.notifiers.invalidateStart(address, address + PAGE_SIZE);
    const ends: boolean[] = [];
    system.tasks.start("fault", mm.handleFault(BigInt(address), PAGE_READ), ({ ok }) => ends.push(ok));
    process.exit();
    system.tasks.drain();
    expect(ends).toEqual([false]);
  });
});
