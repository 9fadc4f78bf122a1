/** Processes on devices that translate ahead (ATS): what these know of their own is forgotten like what the SMMU knows. */
import { expect, it } from "vitest";
import { Cpu, Sva } from "../../iommu/index.ts";
import { LibraryProcess, PAGE_READ, PAGE_SIZE, PAGE_WRITE } from "../../memory/index.ts";
import { aheadWorld } from "./ahead.test-support.ts";

/** A process bound to a device that has its first two pages in its own cache. */
function bound() {
  const world = aheadWorld();
  const { system, memory, run } = world;
  const sva = new Sva(system, new Cpu(system, memory));
  const { device, member } = world.probed();
  const process = new LibraryProcess(system, memory);
  const handle = run(sva.bind(device, process.memory));
  const address = process.memory.map(2);
  process.memory.write(address, new Uint8Array([1]));
  process.memory.write(address + PAGE_SIZE, new Uint8Array([2]));
  for (const page of [0, 1]) run(handle.mm.handleFault(BigInt(address + page * PAGE_SIZE), PAGE_READ | PAGE_WRITE));
  /** What the device reads there; undefined if it is refused. */
  const reads = (at: number): number | undefined => {
    const access = world.dma(member, at, { pasid: handle.pasid, length: 1 });
    return access.done ? access.bytes[0] : undefined;
  };
  expect([reads(address), reads(address + PAGE_SIZE)]).toEqual([1, 2]);
  return { ...world, sva, process, handle, address, reads };
}

it("a process that unmaps or protects, forks or ends takes its pages out of the caches of devices before it goes on", () => {
  const { process, address, reads, events } = bound();
  process.memory.unmap(address, 1);
  expect([reads(address), reads(address + PAGE_SIZE)]).toEqual([undefined, 2]);
  process.fork(7);
  process.memory.write(address + PAGE_SIZE, new Uint8Array([3]));
  expect(reads(address + PAGE_SIZE)).toBeUndefined();
  const other = bound();
  other.process.exit();
  expect([other.reads(other.address), other.reads(other.address + PAGE_SIZE)]).toEqual([undefined, undefined]);
  expect([...events, ...other.events]).not.toContain("C_BAD_CD");
});

it("the last unbind does, too", () => {
  const { run, sva, handle, address, reads } = bound();
  run(sva.unbind(handle));
  expect(reads(address)).toBeUndefined();
});

it("a device that asks for pages is given what the process would find, and told where there is nothing", () => {
  const world = aheadWorld();
  const { system, memory, run, dma, hardware } = world;
  const sva = new Sva(system, new Cpu(system, memory));
  const { device, member } = world.probed({}, { pri: 8 });
  const process = new LibraryProcess(system, memory);
  const handle = run(sva.bind(device, process.memory));
  const { pasid } = handle;
  const address = process.memory.map(2);
  process.memory.write(address, new Uint8Array([1]));
  const first = dma(member, address, { pasid, length: 1 });
  expect([first.done, first.bytes[0]]).toEqual([true, 1]);
  expect(dma(member, address + PAGE_SIZE, { pasid, write: true, length: 1 }).done).toBe(true);
  const byte = new Uint8Array(1);
  process.memory.read(address + PAGE_SIZE, byte);
  expect(byte[0]).toBe(0xd5);
  process.memory.unmap(address, 1);
  expect(dma(member, address, { pasid, length: 1 }).done).toBe(false);
  process.exit();
  expect(dma(member, address + PAGE_SIZE, { pasid, length: 1 }).done).toBe(false);
  run(sva.unbind(handle));
  expect([system.tasks.unfinished.size, hardware.occupancy.stalled]).toEqual([0, 0]);
});
