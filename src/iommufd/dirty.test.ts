import { describe, expect, it } from "vitest";
import { PagingHwpt } from "./hwpt.ts";
import { type FakeDomain, type Values, World } from "./world.test-support.ts";

const M = 2n ** 64n - 1n;
const TRACKING = 2;

/** IOAS 1, device 2, HWPT 3 with tracking, HWPT 4 without; 8 pages at 0x10000, 2 at 0x20000, all of 4 KiB. */
function tracked(): { world: World; domain: FakeDomain; bitmap: number } {
  const world = new World();
  world.ioas();
  world.bind();
  world.call("OPTION", { option_id: 1, op: 0, object_id: 1, val64: 0 });
  expect(world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1, flags: TRACKING }).out.out_hwpt_id).toBe(3);
  expect(world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1 }).out.out_hwpt_id).toBe(4);
  world.map(1, world.pages(8), 0x8000, 0x10000);
  world.map(1, world.pages(2), 0x2000, 0x20000);
  const { domain } = world.context.objects.find(3, PagingHwpt);
  return { world, domain: domain as FakeDomain, bitmap: world.pages(1) };
}

function bits(world: World, bitmap: number, bytes: number): number[] {
  const read = new Uint8Array(bytes);
  world.process.memory.read(bitmap, read);
  return [...read]
    .flatMap((byte, i) => Array.from({ length: 8 }, (_, b) => ((byte >> b) & 1 ? i * 8 + b : -1)))
    .filter((bit) => bit >= 0);
}

const get = (world: World, values: Values) =>
  world.call("HWPT_GET_DIRTY_BITMAP", { hwpt_id: 3, iova: 0x10000, length: 0x8000, page_size: 4096, ...values }).errno;

describe("SET_DIRTY_TRACKING", () => {
  it.each<[string, Values, string]>([
    ["flags", { flags: 2, hwpt_id: 9 }, "EOPNOTSUPP"],
    ["no HWPT", { hwpt_id: 1 }, "ENOENT"],
    ["a HWPT made without", { hwpt_id: 4 }, "EOPNOTSUPP"],
  ])("refuses %s", (_what, values, errno) => {
    const { world } = tracked();
    expect(world.call("HWPT_SET_DIRTY_TRACKING", { hwpt_id: 3, flags: 1, ...values }).errno).toBe(errno);
  });

  it("begins with nothing dirty, also if it was on; off leaves what is marked", () => {
    const { world, domain, bitmap } = tracked();
    for (const _ of [1, 2]) {
      domain.written(0x10000n);
      domain.written(0x20000n);
      expect(world.call("HWPT_SET_DIRTY_TRACKING", { hwpt_id: 3, flags: 1, reserved: 9 }).errno).toBe("");
      expect([domain.tracking, domain.dirty.size]).toEqual([true, 0]);
    }
    domain.written(0x11000n);
    for (const _ of [1, 2]) expect(world.call("HWPT_SET_DIRTY_TRACKING", { hwpt_id: 3 }).errno).toBe("");
    expect(domain.tracking).toBe(false);
    expect([get(world, { data: bitmap }), bits(world, bitmap, 1)]).toEqual(["", [1]]);
  });
});

describe("GET_DIRTY_BITMAP", () => {
  it.each<[string, Values, string]>([
    ["flags", { flags: 2, hwpt_id: 9 }, "EOPNOTSUPP"],
    ["reserved", { reserved: 1, hwpt_id: 9 }, "EOPNOTSUPP"],
    ["no HWPT", { hwpt_id: 1, length: 0 }, "ENOENT"],
    ["a range that wraps", { iova: M, length: 2, page_size: 0 }, "EOVERFLOW"],
    ["no length", { length: 0, page_size: 0 }, "EOVERFLOW"],
    ["a start between pages", { iova: 0x10800, page_size: 0 }, "EINVAL"],
    ["a length between pages", { length: 0x800, page_size: 0 }, "EINVAL"],
    ["no page size", { page_size: 0, hwpt_id: 4 }, "EINVAL"],
    ["a start between larger pages", { iova: 0x11000, page_size: 0x2000, hwpt_id: 4 }, "EINVAL"],
    ["an end between larger pages", { length: 0x7000, page_size: 0x2000, hwpt_id: 4 }, "EINVAL"],
    ["a HWPT made without", { hwpt_id: 4 }, "EOPNOTSUPP"],
  ])("refuses %s", (_what, values, errno) => {
    expect(get(tracked().world, values)).toBe(errno);
  });

  it.each<[string, Values, number[]]>([
    ["a bit for each page", {}, [0, 3, 7]],
    ["smaller pages: all bits of a leaf", { page_size: 2048 }, [0, 1, 6, 7, 14, 15]],
    ["larger pages: what is in them together", { page_size: 0x4000 }, [0, 1]],
    ["a page size that is no power of two counts by its lowest bit", { page_size: 0x1800 }, [0, 1, 6, 7, 14, 15]],
    ["a part of the range", { iova: 0x13000, length: 0x2000 }, [0]],
    ["up to the first hole", { length: 0x12000 }, [0, 3, 7]],
    ["nothing where the range begins with a hole", { iova: 0xf000, length: 0x9000 }, []],
  ])("shows %s", (_what, values, expected) => {
    const { world, domain, bitmap } = tracked();
    for (const iova of [0x10000n, 0x13000n, 0x17000n, 0x20000n]) domain.written(iova);
    expect(get(world, { data: bitmap + 5, ...values })).toBe("");
    expect(bits(world, bitmap + 5, 4)).toEqual(expected);
  });

  it("cleans whole leaves, also their part outside of the range, and lets the hardware notice the next write", () => {
    const { world, domain, bitmap } = tracked();
    let synced = 0;
    const sync = domain.sync.bind(domain);
    domain.sync = function* () {
      synced++;
      yield* sync();
    };
    for (const iova of [0x10000n, 0x13000n]) domain.written(iova);
    const NO_CLEAR = 1;
    expect([get(world, { data: bitmap, flags: NO_CLEAR }), domain.dirty.size, synced]).toEqual(["", 2, 0]);
    expect([get(world, { data: bitmap, length: 0x2000 }), [...domain.dirty], synced]).toEqual(["", [0x13000n], 1]);
  });

  it("sets bits and never takes one away, across pages of the bitmap", () => {
    const { world, domain, bitmap } = tracked();
    const [edge] = [world.pages(2) + 4095];
    world.process.memory.write(edge, new Uint8Array([0x02, 0x80]));
    for (const iova of [0x10000n, 0x17000n]) domain.written(iova);
    expect(get(world, { data: edge, page_size: 2048 })).toBe("");
    expect(bits(world, edge, 2)).toEqual([0, 1, 14, 15]);
    expect(bits(world, bitmap, 64)).toEqual([]);
  });

  it("passes over a bitmap that nobody can write, and cleans all the same", () => {
    const { world, domain } = tracked();
    domain.written(0x10000n);
    expect([get(world, { data: 8 }), domain.dirty.size]).toEqual(["", 0]);
    expect(get(world, { data: M })).toBe("");
  });
});
