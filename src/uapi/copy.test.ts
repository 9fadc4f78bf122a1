import { beforeEach, describe, expect, it } from "vitest";
import { LibraryProcess, PhysicalMemory } from "../memory/index.ts";
import { errnoName, Refusal, System } from "../runtime/index.ts";
import { copyIn, copyOut } from "./copy.ts";
import { HwptAlloc, iommufdCommands } from "./iommufd.ts";

const row = iommufdCommands.HWPT_ALLOC;
let process: LibraryProcess;
let page: number;

beforeEach(() => {
  const system = new System();
  process = new LibraryProcess(system, new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 24 }] }));
  page = process.memory.map(1);
});

function give(address: number, size: number, bytes: number[] = []): { address: number; request?: number } {
  const all = new Uint8Array(4 + bytes.length);
  new DataView(all.buffer).setUint32(0, size, true);
  all.set(bytes, 4);
  process.memory.write(address, all);
  return { address };
}

function attempt(address: number, request = row.number): { errno?: string; given?: number; known: Uint8Array } {
  const known = new Uint8Array(row.struct.size).fill(0xaa);
  try {
    return { given: copyIn(process.memory, address, request, row, known), known };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return { errno: errnoName(error.errno), known };
  }
}

describe("the generic size rule", () => {
  it.each<[string, () => { address: number; request?: number }, string]>([
    ["a size that cannot be read, before a wrong number", () => ({ address: 8, request: 0xc0003b89 }), "EFAULT"],
    ["a wrong number, before a bad size", () => ({ ...give(page, 0), request: 0xc0003b89 }), "ENOTTY"],
    ["a size below the first version's", () => give(page, row.minimum - 1), "EINVAL"],
    ["a non-zero byte behind the struct", () => give(page, 49, [...Array(44).fill(0), 1]), "E2BIG"],
    ["a non-zero byte before unreadable ones", () => give(page, 8192, [...Array(1000).fill(0), 1]), "E2BIG"],
    ["an unreadable tail", () => give(page, 4097), "EFAULT"],
    ["an endless tail", () => give(page, 0xffffffff), "EFAULT"],
    ["a struct that is not all there", () => give(page + 4092, 48), "EFAULT"],
  ])("refuses %s", (_what, prepare, errno) => {
    const { address, request } = prepare();
    expect(attempt(address, request).errno).toBe(errno);
  });

  it("extends a shorter struct with zeros, even at the end of readable memory", () => {
    const address = page + 4096 - row.minimum;
    give(address, row.minimum, Array(row.minimum - 4).fill(0x11));
    const { given, known } = attempt(address);
    expect(given).toBe(row.minimum);
    expect([...known.subarray(4, row.minimum)].every((byte) => byte === 0x11)).toBe(true);
    expect([...known.subarray(row.minimum)].every((byte) => byte === 0)).toBe(true);
  });

  it("accepts a longer struct whose tail is zero, and writes back only what it knows", () => {
    give(page, 100, Array(44).fill(1));
    const { given, known } = attempt(page);
    expect(given).toBe(100);
    known.fill(7);
    copyOut(process.memory, page, known, 100);
    const after = new Uint8Array(60);
    process.memory.read(page, after);
    expect([...after.subarray(0, 48)].every((byte) => byte === 7)).toBe(true);
    expect([...after.subarray(48)].every((byte) => byte === 0)).toBe(true);
  });

  it("writes back no more than the client knows", () => {
    copyOut(process.memory, page, new Uint8Array(HwptAlloc.size).fill(7), 24);
    const after = new Uint8Array(25);
    process.memory.read(page, after);
    expect([after[23], after[24]]).toEqual([7, 0]);
  });
});
