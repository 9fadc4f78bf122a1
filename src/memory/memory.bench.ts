import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type Benchmark, median, type Row } from "../../bench/benchmark.ts";
import { System } from "../runtime/index.ts";
import { LibraryProcess, PAGE_SIZE, PhysicalMemory } from "./index.ts";

const GiB = 2 ** 30;
/** 64 MiB. */
const PAGES = 16384;

function machine(): { system: System; memory: PhysicalMemory } {
  const system = new System();
  return { system, memory: new PhysicalMemory(system, { ram: [{ base: GiB, size: 256 * GiB }] }) };
}

function readWord(high: boolean): number {
  const { memory } = machine();
  const base = high ? 200 * GiB : GiB;
  for (let i = 0; i < 1024; i++) memory.writeWord(base + i * 4, i);
  let total = 0;
  const time = median((repeats) => {
    let sum = 0;
    for (let i = 0; i < repeats; i++) sum = (sum + memory.readWord(base + (i & 1023) * 4)) | 0;
    total = sum;
  }, 1_000_000);
  return total !== 0 ? time : Number.NaN;
}

/** What a device does: some bytes at any address. */
function readBytes(length: number): number {
  const { memory } = machine();
  memory.write(200 * GiB, new Uint8Array(2 ** 20).fill(1));
  const into = new Uint8Array(length);
  return median((repeats) => {
    for (let i = 0; i < repeats; i++) memory.read(200 * GiB + (i & 1023) * 8, into);
  }, 100_000);
}

function allocateAndFree(): number {
  const { memory } = machine();
  memory.allocate(1000);
  return median((repeats) => {
    for (let i = 0; i < repeats; i++) memory.free(memory.allocate());
  }, 100_000);
}

/** The same where the chunk exists, so that the frame must be zeroed each time. */
function allocateWriteAndFree(): number {
  const { memory } = machine();
  memory.allocate(1000);
  return median((repeats) => {
    for (let i = 0; i < repeats; i++) {
      const pfn = memory.allocate();
      memory.writeWord(pfn * PAGE_SIZE, 1);
      memory.free(pfn);
    }
  }, 100_000);
}

function pinAndUnpin(): { pin: number; unpin: number } {
  const { system, memory } = machine();
  const process = new LibraryProcess(system, memory);
  process.memory.map(3);
  const page = process.memory.map(PAGES) / PAGE_SIZE;
  const both = median((repeats) => {
    for (let i = 0; i < repeats; i++) memory.unpin(process.memory.pin(page, PAGES, true));
  }, 1000);
  const nested = process.memory.pin(page, PAGES, true);
  const again = median((repeats) => {
    for (let i = 0; i < repeats; i++) memory.unpin(process.memory.pin(page + 1, PAGES - 2, true));
  }, 1000);
  memory.unpin(nested);
  return { pin: both, unpin: again };
}

function heap(): number {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  // Buffers that one collection found are counted as gone in the next.
  for (let i = 0; i < 3; i++) collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

/** Bytes kept for each page of 1 GiB that is mapped and pinned page by page. */
function bookkeeping(): number {
  const { system, memory } = machine();
  const process = new LibraryProcess(system, memory);
  const count = GiB / PAGE_SIZE;
  const before = heap();
  const page = process.memory.map(count) / PAGE_SIZE;
  for (let i = 0; i < count; i++) process.memory.pin(page + i, 1, true);
  const bytes = (heap() - before) / count;
  return memory.pinnedFrames === count ? bytes : Number.NaN;
}

const row = (what: string, value: number, unit: Row["unit"], limit: number): Row => ({
  what,
  value,
  unit,
  goal: `≤ ${limit} ${unit}`,
  met: value <= limit,
});

const benchmark: Benchmark = {
  name: "memory",
  rows: () => {
    const { pin, unpin } = pinAndUnpin();
    return [
      row("read a word of RAM", readWord(false), "ns", 10),
      row("read a word of RAM above 128 GiB", readWord(true), "ns", 10),
      row("read 8 bytes at any address", readBytes(8), "ns", 100),
      row("read a page", readBytes(PAGE_SIZE), "ns", 500),
      row("allocate and free a frame", allocateAndFree(), "ns", 100),
      row("allocate, write and free a frame (it is zeroed each time)", allocateWriteAndFree(), "ns", 250),
      row("pin and unpin 64 MiB of contiguous frames", pin / 1000, "µs", 20),
      row("pin and unpin 64 MiB less its ends, pinned already", unpin / 1000, "µs", 20),
      row("bookkeeping for a page pinned by itself", bookkeeping(), "bytes", 8),
    ];
  },
};
export default benchmark;
