import { describe, expect, test } from "vitest";
import { ENOMEM, Refusal, System } from "../runtime/index.ts";
import { BusError, type FrameBacking, PAGE_SIZE, PhysicalMemory, wordIndex } from "./index.ts";

const MiB = 2 ** 20;
const GiB = 2 ** 30;

function machine(size = 64 * MiB): { system: System; memory: PhysicalMemory } {
  const system = new System();
  return { system, memory: new PhysicalMemory(system, { ram: [{ base: GiB, size }] }) };
}

/** A file of some pages, kept in an array. */
class Pages implements FrameBacking {
  readonly bytes: Uint8Array;
  readonly told: [number, number][] = [];

  constructor(count: number) {
    this.bytes = new Uint8Array(count * PAGE_SIZE);
  }

  read(page: number, offset: number, into: Uint8Array): void {
    const start = page * PAGE_SIZE + offset;
    into.set(this.bytes.subarray(start, start + into.length));
  }

  write(page: number, offset: number, from: Uint8Array): void {
    this.bytes.set(from, page * PAGE_SIZE + offset);
  }

  unpinned(page: number, count: number): void {
    this.told.push([page, count]);
  }
}

function busErrorAt(action: () => void): number | undefined {
  try {
    action();
  } catch (error) {
    if (error instanceof BusError) return error.address;
    throw error;
  }
  return undefined;
}

describe("RAM", () => {
  test("reads 0 until written, and 256 GiB of it cost nothing", () => {
    const { memory } = machine(256 * GiB);
    expect(memory.readWord(200 * GiB)).toBe(0);
    const bytes = new Uint8Array(100).fill(7);
    memory.read(100 * GiB - 50, bytes);
    expect(bytes).toEqual(new Uint8Array(100));
    expect(memory.words(200 * GiB)).toBeUndefined();
    expect(memory.residentBytes).toBe(0);
    memory.writeWord(200 * GiB + 4, 0xfedcba98);
    expect(memory.readWord(200 * GiB + 4)).toBe(0xfedcba98);
    expect(memory.words(200 * GiB)?.[wordIndex(200 * GiB + 4)]).toBe(0xfedcba98);
    expect(memory.residentBytes).toBe(2 * MiB);
  });

  test("words are little-endian, and bytes go across chunks at any alignment", () => {
    const { memory } = machine();
    const at = GiB + 2 * MiB - 3;
    memory.write(at, Uint8Array.of(1, 2, 3, 4, 5, 6, 7));
    expect(memory.readWord(GiB + 2 * MiB - 4)).toBe(0x03020100);
    expect(memory.readWord(GiB + 2 * MiB)).toBe(0x07060504);
    const long = Uint8Array.from({ length: 5 * MiB }, (_, i) => i * 7);
    memory.write(GiB + 1, long);
    const back = new Uint8Array(long.length);
    memory.read(GiB + 1, back);
    expect(Buffer.compare(back, long)).toBe(0);
  });

  test("where nothing is, an access is a bus error at the first missing byte", () => {
    const { memory } = machine();
    const end = GiB + 64 * MiB;
    expect(busErrorAt(() => memory.readWord(0))).toBe(0);
    expect(busErrorAt(() => memory.readWord(end))).toBe(end);
    expect(busErrorAt(() => memory.writeWord(2 ** 51, 1))).toBe(2 ** 51);
    expect(busErrorAt(() => memory.readWord(2 ** 62))).toBe(2 ** 62);
    expect(busErrorAt(() => memory.read(end - 10, new Uint8Array(20)))).toBe(end);
    expect(busErrorAt(() => memory.write(end - 10, new Uint8Array(20).fill(1)))).toBe(end);
    expect(memory.readWord(end - 4)).toBe(0x01010101);
    expect(memory.isBacked(end - 1)).toBe(true);
    expect(memory.isBacked(end)).toBe(false);
    expect(memory.words(end)).toBeUndefined();
  });

  test("several ranges: a hole between them is a hole, neighbours are one", () => {
    const memory = new PhysicalMemory(new System(), {
      ram: [
        { base: 0, size: 2 * MiB },
        { base: 2 * MiB, size: 2 * MiB },
        { base: 8 * MiB, size: 2 * MiB },
      ],
    });
    memory.write(2 * MiB - 2, Uint8Array.of(1, 2, 3, 4));
    expect(memory.readWord(2 * MiB)).toBe(0x0403);
    expect(busErrorAt(() => memory.readWord(4 * MiB))).toBe(4 * MiB);
    expect(() => memory.allocate(1025)).toThrow();
    expect(memory.allocate(1000)).toBe(0);
    expect(memory.allocate(512)).toBe(2048);
    expect(memory.allocate()).toBe(1000);
  });
});

describe("frames of RAM", () => {
  test("are the lowest free ones, zeroed, aligned as asked", () => {
    const { memory } = machine();
    const base = GiB / PAGE_SIZE;
    expect(memory.allocate()).toBe(base);
    expect(memory.allocate(3)).toBe(base + 1);
    expect(memory.allocate(4, 16)).toBe(base + 16);
    expect(memory.allocate()).toBe(base + 4);
    memory.writeWord((base + 1) * PAGE_SIZE + 8, 5);
    memory.free(base + 1);
    expect(memory.allocate()).toBe(base + 1);
    expect(memory.readWord((base + 1) * PAGE_SIZE + 8)).toBe(0);
    expect(memory.usedFrames).toBe(9);
  });

  test("when no run is left, the refusal is ENOMEM and says what was asked", () => {
    const { memory } = machine(2 * MiB);
    memory.allocate(500);
    let refusal: unknown;
    try {
      memory.allocate(8, 8);
      memory.allocate(8, 8);
    } catch (error) {
      refusal = error;
    }
    expect(refusal).toBeInstanceOf(Refusal);
    expect((refusal as Refusal).errno).toBe(ENOMEM);
    expect((refusal as Refusal).reason).toContain("8 free consecutive frames");
    expect(memory.allocate(4)).toBe(GiB / PAGE_SIZE + 500);
  });

  test("an injected failure takes nothing", () => {
    const { system, memory } = machine();
    system.failures.inject((name) => name === "memory.frames.allocate");
    expect(() => memory.allocate()).toThrow(Refusal);
    expect(memory.usedFrames).toBe(0);
  });

  test("freeing what is not in use is our bug, also twice", () => {
    const { memory } = machine();
    const pfn = memory.allocate(2);
    memory.free(pfn);
    expect(() => memory.free(pfn)).toThrow("not in use");
    expect(() => memory.free(pfn, 2)).toThrow("not in use");
    expect(() => memory.free(3)).toThrow("not in use");
    memory.pin({ pfn: pfn + 1, count: 1 });
    memory.free(pfn + 1);
    expect(() => memory.free(pfn + 1)).toThrow("twice");
  });

  test("a large run freed gives its memory back", () => {
    const { memory } = machine();
    const pfn = memory.allocate(1024);
    for (let i = 0; i < 1024; i++) memory.writeWord((pfn + i) * PAGE_SIZE, i + 1);
    expect(memory.residentBytes).toBe(4 * MiB);
    memory.free(pfn, 1024);
    expect(memory.residentBytes).toBe(0);
  });
});

describe("events", () => {
  test("tell each change of what frames are", () => {
    const { system, memory } = machine();
    const kinds: string[] = [];
    system.events.listen((event) => kinds.push(event.kind.replace("memory.frames.", "")));
    const pfn = memory.allocate();
    memory.pin({ pfn, count: 1 });
    memory.free(pfn);
    memory.unpin([{ pfn, count: 1 }]);
    const other = memory.adopt(new Pages(1), 1);
    memory.rebind(other, 1, new Pages(1));
    memory.drop(other, 1);
    expect(kinds).toEqual(["allocate", "pin", "free", "unpin", "adopt", "rebind", "drop"]);
  });
});

describe("frames of others", () => {
  test("show the pages of their backing, also across its runs", () => {
    const { memory } = machine();
    const file = new Pages(3);
    const other = new Pages(2);
    const pfn = memory.adopt(file, 3);
    const second = memory.adopt(other, 2);
    expect(memory.adoptedFrames).toBe(5);
    memory.write(pfn * PAGE_SIZE + PAGE_SIZE - 2, Uint8Array.of(1, 2, 3, 4));
    expect([...file.bytes.subarray(PAGE_SIZE - 2, PAGE_SIZE + 2)]).toEqual([1, 2, 3, 4]);
    memory.writeWord(second * PAGE_SIZE, 0x11223344);
    expect(other.bytes[0]).toBe(0x44);
    expect(memory.readWord(second * PAGE_SIZE)).toBe(0x11223344);
    expect(memory.isBacked(pfn * PAGE_SIZE)).toBe(true);
    expect(memory.words(pfn * PAGE_SIZE)).toBeUndefined();
    memory.drop(pfn, 3);
    expect(busErrorAt(() => memory.readWord(pfn * PAGE_SIZE))).toBe(pfn * PAGE_SIZE);
    expect(memory.readWord(second * PAGE_SIZE)).toBe(0x11223344);
  });

  test("rebind changes what is behind some of them; the numbers stay", () => {
    const { memory } = machine();
    const file = new Pages(1500);
    const copy = new Pages(700);
    for (let i = 0; i < 1500; i++) file.bytes[i * PAGE_SIZE] = i & 0x7f;
    for (let i = 0; i < 700; i++) copy.bytes[i * PAGE_SIZE] = 0x80 | (i & 0x7f);
    const pfn = memory.adopt(file, 1500);
    memory.rebind(pfn + 400, 690, copy, 10);
    const byte = new Uint8Array(1);
    for (let i = 0; i < 1500; i++) {
      memory.read((pfn + i) * PAGE_SIZE, byte);
      expect(byte[0]).toBe(i >= 400 && i < 1090 ? 0x80 | ((i - 390) & 0x7f) : i & 0x7f);
    }
    memory.drop(pfn + 1, 1499);
    memory.drop(pfn, 1);
    expect(memory.adoptedFrames).toBe(0);
  });

  test("long runs lie in their 2 MiB as the pages do in theirs", () => {
    const { memory } = machine();
    memory.adopt(new Pages(1), 1);
    expect(memory.adopt(new Pages(0), 2000, 0x7f1234567) % 512).toBe(0x167);
    expect(memory.adopt(new Pages(0), 512, 0) % 512).toBe(0);
  });
});

describe("pins", () => {
  test("are counted for each frame; the backing hears of the last one", () => {
    const { memory } = machine();
    const file = new Pages(600);
    const pfn = memory.adopt(file, 600);
    memory.pin({ pfn, count: 600 });
    memory.pin({ pfn: pfn + 2, count: 2 });
    expect(memory.pinCount(pfn + 2)).toBe(2);
    expect(memory.pinnedFrames).toBe(600);
    memory.unpin([{ pfn, count: 4 }]);
    expect(file.told).toEqual([[0, 2]]);
    memory.unpin([{ pfn: pfn + 4, count: 596 }]);
    expect(file.told.slice(1)).toEqual([
      [4, 508],
      [512, 88],
    ]);
    expect(memory.pinnedFrames).toBe(2);
    expect(memory.splitByPins({ pfn, count: 600 })).toEqual([
      { pfn, count: 2, pinned: false },
      { pfn: pfn + 2, count: 2, pinned: true },
      { pfn: pfn + 4, count: 596, pinned: false },
    ]);
    memory.unpin([{ pfn: pfn + 2, count: 2 }]);
    expect(memory.pinnedFrames).toBe(0);
    expect(memory.splitByPins({ pfn, count: 600 })).toEqual([{ pfn, count: 600, pinned: false }]);
  });

  test("keep a freed frame, with its content, until the last one goes", () => {
    const { memory } = machine();
    const pfn = memory.allocate(3);
    memory.writeWord((pfn + 1) * PAGE_SIZE, 42);
    memory.pin({ pfn: pfn + 1, count: 1 });
    memory.pin({ pfn: pfn + 1, count: 1 });
    memory.free(pfn, 3);
    expect(memory.usedFrames).toBe(1);
    expect(memory.allocate()).toBe(pfn);
    expect(memory.allocate()).toBe(pfn + 2);
    memory.unpin([{ pfn: pfn + 1, count: 1 }]);
    expect(memory.readWord((pfn + 1) * PAGE_SIZE)).toBe(42);
    memory.unpin([{ pfn: pfn + 1, count: 1 }]);
    expect(memory.allocate()).toBe(pfn + 1);
    expect(memory.readWord((pfn + 1) * PAGE_SIZE)).toBe(0);
  });

  test("keep a dropped frame of others", () => {
    const { memory } = machine();
    const file = new Pages(2);
    const pfn = memory.adopt(file, 2);
    memory.pin({ pfn, count: 2 });
    memory.drop(pfn, 2);
    memory.writeWord(pfn * PAGE_SIZE, 9);
    expect(file.bytes[0]).toBe(9);
    memory.unpin([{ pfn, count: 2 }]);
    expect(file.told).toEqual([[0, 2]]);
    expect(memory.isBacked(pfn * PAGE_SIZE)).toBe(false);
    expect(memory.adoptedFrames).toBe(0);
  });

  test("a backing may drop its frames when told", () => {
    const { memory } = machine();
    const file = new Pages(2);
    const pfn = memory.adopt(file, 2);
    file.unpinned = (page, count) => memory.drop(pfn + page, count);
    memory.pin({ pfn, count: 2 });
    memory.unpin([{ pfn: pfn + 1, count: 1 }]);
    expect(memory.adoptedFrames).toBe(1);
    memory.unpin([{ pfn, count: 1 }]);
    expect(memory.adoptedFrames).toBe(0);
  });

  test("one unpin too many, or a pin of nothing, is our bug", () => {
    const { memory } = machine();
    const pfn = memory.allocate();
    expect(() => memory.unpin([{ pfn, count: 1 }])).toThrow("cannot go down");
    expect(() => memory.pin({ pfn: pfn + 1, count: 1 })).toThrow("not in use");
  });
});
