import { describe, expect, test } from "vitest";
import { PhysicalMemory } from "../memory/index.ts";
import { EADDRINUSE, EINVAL, ENOENT, ENOMEM, ERANGE, type Event, Refusal, System } from "../runtime/index.ts";
import { type LpaeFormat, type LpaeOptions, lpae } from "./formats/lpae.ts";
import { PROT_CACHE, PROT_READ, PROT_WRITE } from "./prot.ts";
import { RIGHT_READ } from "./rights.ts";
import { PageTable, type UnmapResult } from "./table.ts";
import { TranslationStage, Walker } from "./walk.ts";

const K = 1024;
const M = 1024 * K;
const G = 1024 * M;
const PROT = PROT_READ | PROT_WRITE | PROT_CACHE;
const RAM = G;

interface Bench {
  readonly system: System;
  readonly memory: PhysicalMemory;
  readonly format: LpaeFormat;
  readonly table: PageTable;
}

function bench(options: Partial<LpaeOptions> = {}): Bench {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: RAM, size: 64 * M }] });
  const format = lpae({ stage: 1, granule: 4096, inputBits: 48, outputBits: 48, ...options });
  return { system, memory, format, table: new PageTable(system, memory, format) };
}

function newGather(): UnmapResult {
  return { start: 1n, last: 0n, leafSize: 0, freedTables: [] };
}

function refusalOf(action: () => void): Refusal {
  try {
    action();
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** All granules and stages, with the deepest tables. */
const formats: Partial<LpaeOptions>[] = [
  { stage: 1, granule: 4096 },
  { stage: 1, granule: 16384 },
  { stage: 1, granule: 65536, outputBits: 52, inputBits: 52 },
  { stage: 2, granule: 4096 },
  { stage: 2, granule: 16384 },
  { stage: 2, granule: 65536 },
];

/** Runs a test once for each level of each format that may hold leaves. */
function checkAllLevels(name: string, check: (table: Bench, level: number, size: number) => void): void {
  for (const options of formats) {
    const { format } = bench(options);
    for (let level = format.startLevel; level <= 3; level++) {
      if (!format.hasLeaves(level)) continue;
      test(`${name}: level ${level}, ${format.label}`, () => check(bench(options), level, format.span(level)));
    }
  }
}

describe("a leaf at every level", () => {
  checkAllLevels("is mapped, walked to its ends, and gone again", ({ memory, format, table }, level, size) => {
    const walker = new Walker(memory);
    const stage = new TranslationStage({ format, root: table.root });
    const iova = 2 * size;
    const before = table.tableFrames;
    table.map(iova, size, size, PROT);
    expect([...table.leaves()]).toEqual([{ iova, physical: size, size, prot: PROT }]);
    for (const offset of [0, 1, size / 2, size - 1]) {
      expect(walker.walk(stage, iova + offset, RIGHT_READ)).toBe(true);
      expect([walker.output, walker.level, walker.size]).toEqual([size + offset, level, size]);
    }
    expect(walker.walk(stage, iova - 1, RIGHT_READ)).toBe(false);
    const gather = newGather();
    expect(table.unmap(iova, size, gather)).toBe(size);
    expect(gather.leafSize).toBe(size);
    expect(gather.freedTables).toHaveLength(((level - format.startLevel) * format.granule) / 4096);
    expect(table.tableFrames).toBe(before);
    expect(walker.walk(stage, iova, RIGHT_READ)).toBe(false);
  });

  checkAllLevels("goes whole when a part of it is unmapped", ({ format, table }, _, size) => {
    table.map(size, 0, 2 * size, PROT);
    expect(table.unmap(size, format.granule, newGather())).toBe(size);
    expect([...table.leaves()].map((leaf) => leaf.iova)).toEqual([2 * size]);
  });

  checkAllLevels("counts from the IOVA when the unmap begins in its middle", ({ format, table }, level, size) => {
    if (level === 3) return;
    table.map(0, 0, size, PROT);
    expect(table.unmap(size - format.granule, format.granule, newGather())).toBe(format.granule);
    expect([...table.leaves()]).toEqual([]);
  });

  checkAllLevels("is split into the next level's", ({ format, table }, level, size) => {
    if (level === 3) return;
    table.map(size, 2 * size, size, PROT);
    const smaller = format.span(level + 1);
    table.split(size + smaller, smaller);
    const leaves = [...table.leaves()];
    expect(leaves).toHaveLength(size / smaller);
    expect(leaves[1]).toEqual({ iova: size + smaller, physical: 2 * size + smaller, size: smaller, prot: PROT });
    expect(table.unmap(size, size, newGather())).toBe(size);
  });
});

describe("map", () => {
  test("takes the largest leaf wherever both addresses and what is left allow it", () => {
    const { table } = bench();
    table.map(G - 4 * K, 3 * G - 4 * K, G + 2 * M + 12 * K, PROT);
    expect([...table.leaves()].map((leaf) => leaf.size)).toEqual([4 * K, G, 2 * M, 4 * K, 4 * K]);
  });

  test("takes small leaves where only the sizes would allow large ones", () => {
    const { table } = bench();
    table.map(G, 3 * G + 4 * K, 2 * M, PROT);
    expect([...table.leaves()].every((leaf) => leaf.size === 4 * K)).toBe(true);
  });

  test.each<[string, (table: PageTable) => void, number, RegExp]>([
    ["no right", (table) => table.map(0, 0, 4096, PROT_CACHE), EINVAL, /neither read nor written/],
    ["a part of a page", (table) => table.map(0, 0, 4095, PROT), EINVAL, /not whole pages of 0x1000/],
    ["an unaligned IOVA", (table) => table.map(512, 0, 4096, PROT), EINVAL, /0x200 /],
    ["an unaligned address", (table) => table.map(0, 512, 4096, PROT), EINVAL, /0x200 /],
    ["nothing", (table) => table.map(0, 0, 0, PROT), EINVAL, /0x0 bytes/],
    ["input too large", (table) => table.map(2 ** 48 - 4096, 0, 8192, PROT), ERANGE, /48 bits of input/],
    ["output too large", (table) => table.map(0, 2 ** 48 - 4096, 8192, PROT), ERANGE, /48 bits of output/],
    ["a mapped page", (table) => table.map(8 * K, 0, 4096, PROT), EADDRINUSE, /0x2000-0x2fff already/],
    ["pages around a mapped one", (table) => table.map(0, 0, 2 * M, PROT), EADDRINUSE, /0x2000-0x2fff already/],
    ["a block over a mapped page", (table) => table.map(0, 0, G, PROT), EADDRINUSE, /0x0-0x1fffff already/],
    ["a page in a mapped block", (table) => table.map(G + 4 * K, 0, 4096, PROT), EADDRINUSE, /0x40000000-0x401fffff/],
  ])("refuses %s", (_, action, errno, reason) => {
    const { table } = bench();
    table.map(8 * K, 0, 4 * K, PROT);
    table.map(G, 0, 2 * M, PROT);
    const before = [...table.leaves()];
    const refusal = refusalOf(() => action(table));
    expect(refusal.errno).toBe(errno);
    expect(refusal.reason).toMatch(reason);
    expect([...table.leaves()]).toEqual(before);
  });

  test("takes back what it mapped before it met an occupied page", () => {
    const { memory, table } = bench();
    table.map(G + 2 * M + 64 * K, 0, 4 * K, PROT);
    const before = { leaves: [...table.leaves()], frames: table.tableFrames, used: memory.usedFrames };
    expect(refusalOf(() => table.map(G - 4 * M, 4 * K, 8 * M, PROT)).errno).toBe(EADDRINUSE);
    expect({ leaves: [...table.leaves()], frames: table.tableFrames, used: memory.usedFrames }).toEqual(before);
  });
});

describe("unmap", () => {
  test("ends at a hole", () => {
    const { table } = bench();
    table.map(0, 0, 8 * K, PROT);
    table.map(12 * K, 0, 4 * K, PROT);
    expect(table.unmap(0, 16 * K, newGather())).toBe(8 * K);
    expect(table.unmap(0, 16 * K, newGather())).toBe(0);
    expect([...table.leaves()].map((leaf) => leaf.iova)).toEqual([12 * K]);
  });

  test("tells the leaves' size only while all gathered ones agree", () => {
    const { table } = bench();
    table.map(0, 0, 2 * M, PROT);
    table.map(2 * M, 4 * K, 8 * K, PROT);
    const gather = { ...newGather(), freedTables: [] as number[] };
    table.unmap(0, 2 * M, gather);
    expect(gather.leafSize).toBe(2 * M);
    Object.assign(gather, { start: 0n, last: BigInt(2 * M - 1) });
    table.unmap(2 * M, 4 * K, gather);
    expect(gather.leafSize).toBe(0);
    table.unmap(2 * M + 4 * K, 4 * K, gather);
    expect(gather.leafSize).toBe(0);
  });

  test("gives empty tables away instead of freeing them", () => {
    const { memory, table } = bench();
    table.map(G, 0, 4 * K, PROT);
    const used = memory.usedFrames;
    const gather = newGather();
    table.unmap(G, 4 * K, gather);
    expect(gather.freedTables).toHaveLength(3);
    expect([table.tableFrames, memory.usedFrames]).toEqual([1, used]);
    for (const pfn of gather.freedTables) memory.free(pfn);
    expect(memory.usedFrames).toBe(1);
  });

  test("beyond the input is refused", () => {
    expect(refusalOf(() => bench().table.unmap(2 ** 48, 4096, newGather())).errno).toBe(ERANGE);
  });
});

describe("split", () => {
  test("goes down several levels, only where the IOVA is", () => {
    const { table } = bench();
    table.map(0, G, G, PROT);
    table.split(2 * M + 8 * K, 4 * K);
    const leaves = [...table.leaves()];
    expect(leaves).toHaveLength(511 + 512);
    expect(leaves.filter((leaf) => leaf.size === 4 * K).map((leaf) => leaf.iova)[0]).toBe(2 * M);
    for (const leaf of leaves) expect(leaf.physical).toBe(G + leaf.iova);
  });

  test("leaves a smaller leaf as it is", () => {
    const { table } = bench();
    table.map(0, 0, 4 * K, PROT);
    table.split(0, 2 * M);
    expect([...table.leaves()]).toHaveLength(1);
  });

  test("refuses a hole, an impossible size, an impossible IOVA", () => {
    const { table } = bench();
    table.map(0, 0, 2 * M, PROT);
    expect(refusalOf(() => table.split(2 * M, 4 * K)).errno).toBe(ENOENT);
    expect(refusalOf(() => table.split(0, 64 * K)).errno).toBe(EINVAL);
    expect(refusalOf(() => table.split(2 ** 48, 4 * K)).errno).toBe(ERANGE);
  });
});

describe("when memory runs out at any allocation, everything is as before", () => {
  const programs: [string, Partial<LpaeOptions>, (table: PageTable) => void][] = [
    ["one page in an empty table", {}, (table) => table.map(8 * G, 0, 4 * K, PROT)],
    ["pages over three tables", {}, (table) => table.map(G - 2 * M, 4 * K, 6 * M, PROT)],
    ["pages, blocks, pages", {}, (table) => table.map(512 * G - 6 * M - 4 * K, 2 * M - 4 * K, 8 * M + 8 * K, PROT)],
    ["beside what is there", {}, (table) => table.map(4 * K, 0, 4 * M, PROT)],
    ["16K, stage 2", { stage: 2, granule: 16384 }, (table) => table.map(8 * G - 16 * K, 0, 64 * M, PROT)],
    ["64K", { granule: 65536 }, (table) => table.map(8 * G - 64 * K, 0, G, PROT)],
    ["a split over two levels", {}, (table) => table.split(64 * G + 6 * M, 4 * K)],
  ];
  test.each(programs)("%s", (_, options, program) => {
    for (let failing = 1; ; failing++) {
      const { system, memory, table } = bench(options);
      const { pageSizes } = table.format;
      table.map(0, 0, pageSizes[0], PROT);
      table.map(64 * G, 0, pageSizes.at(-1)!, PROT);
      const before = { leaves: [...table.leaves()], frames: table.tableFrames, used: memory.usedFrames };
      let reached = 0;
      system.failures.inject(() => ++reached === failing);
      try {
        program(table);
        expect(failing).toBeGreaterThan(2);
        table.free();
        expect(memory.usedFrames).toBe(0);
        return;
      } catch (error) {
        expect(error).toBeInstanceOf(Refusal);
        expect((error as Refusal).errno).toBe(ENOMEM);
      }
      expect({ leaves: [...table.leaves()], frames: table.tableFrames, used: memory.usedFrames }).toEqual(before);

      // The frames that were given back serve again as if new.
      system.failures.inject(undefined);
      program(table);
      for (const { iova, size } of [...table.leaves()]) table.unmap(iova, size, newGather());
      expect(table.tableFrames).toBe(Math.ceil((table.format.rootEntries * 8) / 4096));
    }
  });

  test("a root that cannot be had leaves nothing", () => {
    const { system, memory, format } = bench();
    const used = memory.usedFrames;
    system.failures.inject((name) => name === "pagetable.table.allocate");
    expect(refusalOf(() => new PageTable(system, memory, format)).errno).toBe(ENOMEM);
    expect(memory.usedFrames).toBe(used);
  });
});

describe("after every single store the hardware sees the old translation, the new one, or none", () => {
  /** The table's memory, with somebody who looks after each store of a word. */
  function watched(options: Partial<LpaeOptions>, look: (view: Bench) => void): Bench {
    const system = new System();
    const memory = new PhysicalMemory(system, { ram: [{ base: RAM, size: 64 * M }] });
    const format = lpae({ stage: 1, granule: 4096, inputBits: 48, outputBits: 48, ...options });
    let view: Bench | undefined;
    const proxies = new Map<Uint32Array, Uint32Array>();
    const proxyOf = (words: Uint32Array | undefined): Uint32Array | undefined => {
      if (words === undefined) return undefined;
      let proxy = proxies.get(words);
      if (proxy === undefined) {
        proxy = new Proxy(words, {
          get: (target, key) => Reflect.get(target, key, target) as unknown,
          set: (target, key, value) => {
            Reflect.set(target, key, value, target);
            if (view !== undefined) look(view);
            return true;
          },
        });
        proxies.set(words, proxy);
      }
      return proxy;
    };
    const watchedMemory = Object.create(memory, {
      words: { value: (pa: number) => proxyOf(memory.words(pa)) },
      chunk: { value: (index: number) => proxyOf(memory.chunk(index)) },
    }) as PhysicalMemory;
    const table = new PageTable(system, watchedMemory, format);
    view = { system, memory, format, table };
    return view;
  }

  function observe(
    options: Partial<LpaeOptions>,
    before: (table: PageTable) => void,
    change: (table: PageTable) => void,
  ) {
    const probes = [0, 4 * K, 2 * M, 2 * M + 4 * K, 2 * M + 8 * K, G, G + 2 * M];
    const look = ({ memory, format, table }: Bench): (number | undefined)[] => {
      const walker = new Walker(memory);
      const stage = new TranslationStage({ format, root: table.root });
      return probes.map((iova) => (walker.walk(stage, iova, RIGHT_READ) ? walker.output : undefined));
    };
    let seen: (number | undefined)[][] = [];
    const view = watched(options, (now) => seen.push(look(now)));
    before(view.table);
    const old = look(view);
    seen = [];
    change(view.table);
    const fresh = look(view);
    expect(seen.length).toBeGreaterThan(1);
    for (const outputs of seen) {
      for (const [i, output] of outputs.entries()) expect([undefined, old[i], fresh[i]]).toContain(output);
    }
    return { old, fresh };
  }

  /** A multiple of 1G with bits in both words. */
  const physical = 0x2765_4000_0000;

  test("while mapping", () => {
    const { fresh } = observe(
      {},
      () => {},
      (table) => table.map(0, physical, 2 * M + 12 * K, PROT),
    );
    expect(fresh[3]).toBe(physical + 2 * M + 4 * K);
  });

  test("while mapping beside what is there", () => {
    const { old, fresh } = observe(
      {},
      (table) => table.map(2 * M + 4 * K, physical, 4 * K, PROT),
      (table) => {
        table.map(2 * M, physical, 4 * K, PROT);
        table.map(2 * M + 8 * K, physical, 4 * K, PROT);
      },
    );
    expect([old[2], old[3], fresh[2], fresh[3]]).toEqual([undefined, physical, physical, physical]);
  });

  test("while unmapping", () => {
    const { old, fresh } = observe(
      {},
      (table) => table.map(0, physical, 2 * M + 12 * K, PROT),
      (table) => table.unmap(0, 2 * M + 8 * K, newGather()),
    );
    expect([old[4], fresh[4], fresh[0]]).toEqual([physical + 2 * M + 8 * K, physical + 2 * M + 8 * K, undefined]);
  });

  test("while splitting", () => {
    const { old, fresh } = observe(
      {},
      (table) => table.map(0, physical, G, PROT),
      (table) => table.split(2 * M, 4 * K),
    );
    expect(fresh).toEqual(old);
  });
});

test("a split takes over all bits of the leaf but the contiguous hint", () => {
  const { memory, format, table } = bench();
  table.map(0, 2 * M, 2 * M, PROT);
  const walker = new Walker(memory);
  const stage = new TranslationStage({ format, root: table.root });
  walker.walk(stage, 0, RIGHT_READ);
  const software = 1 << 23;
  memory.writeWord(walker.descriptorAddress + 4, (1 << 20) | software);
  table.split(0, 4 * K);
  expect(walker.walk(stage, 4 * K, RIGHT_READ)).toBe(true);
  expect([walker.output, walker.contiguous, walker.high]).toEqual([2 * M + 4 * K, false, software]);
});

test("tables by the hundreds are counted apart from each other", () => {
  const { memory, table } = bench();
  const iovas = Array.from({ length: 1100 }, (_, index) => ((index * 7) % 1100) * 2 * M);
  for (const iova of iovas) table.map(iova, 0, 8 * K, PROT);
  const full = table.tableFrames;
  for (const iova of iovas) {
    const gather = newGather();
    table.unmap(iova, 4 * K, gather);
    expect(gather.freedTables).toEqual([]);
  }
  expect(table.tableFrames).toBe(full);
  for (const iova of iovas) table.unmap(iova + 4 * K, 4 * K, newGather());
  expect(table.tableFrames).toBe(1);
  table.free();
  expect(memory.usedFrames).toBe(full - 1);
});

test("concatenated stage-2 roots are aligned to their whole size", () => {
  for (const granule of [4096, 16384, 65536] as const) {
    const { table, format } = bench({
      stage: 2,
      granule,
      inputBits: granule === 65536 ? 46 : granule === 4096 ? 43 : 40,
    });
    expect(format.startTables).toBe(16);
    expect(table.root % (16 * granule)).toBe(0);
    const last = format.inputEnd - granule;
    table.map(last, granule, granule, PROT);
    expect(table.translate(last)?.physical).toBe(granule);
    table.free();
  }
});

test("nothing is translated beyond the input", () => {
  expect(bench().table.translate(2 ** 48)).toBeUndefined();
});

test("each change is an event", () => {
  const { system, table } = bench();
  const events: Event[] = [];
  system.events.listen((event) => events.push(event));
  table.map(0, 0, 2 * M, PROT);
  table.split(0, 4 * K);
  table.unmap(0, 4 * K, newGather());
  const own = events.filter((event) => event.kind.startsWith("pagetable."));
  expect(own.map((event) => event.kind)).toEqual([
    "pagetable.range.map",
    "pagetable.leaf.split",
    "pagetable.range.unmap",
  ]);
  expect(own[0]).toMatchObject({ root: table.root, iova: 0, physical: 0, size: 2 * M, prot: PROT });
});
