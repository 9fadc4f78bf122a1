import { describe, expect, it } from "vitest";
import { World } from "./world.test-support.ts";

const M = 2n ** 64n - 1n;

describe("IOAS_ALLOC", () => {
  it("gives the lowest free id, from 1", () => {
    const world = new World();
    expect([world.ioas(), world.ioas(), world.ioas()]).toEqual([1, 2, 3]);
    expect(world.call("DESTROY", { id: 2 }).errno).toBe("");
    expect(world.ioas()).toBe(2);
  });

  it("has no flags, and leaves no id behind when its result cannot be written", () => {
    const world = new World();
    expect(world.call("IOAS_ALLOC", { flags: 1 }).errno).toBe("EOPNOTSUPP");
    expect(world.call("IOAS_ALLOC", {}, world.unwritable()).errno).toBe("EFAULT");
    expect(world.context.objects.isEmpty).toBe(true);
  });
});

describe("DESTROY", () => {
  it("finds neither 0 nor what never was", () => {
    const world = new World();
    for (const id of [0, 1, 0x7fffffff, 0xffffffff]) expect(world.call("DESTROY", { id }).errno).toBe("ENOENT");
  });

  it("names who uses the object", () => {
    const world = new World();
    const ioas = world.ioas();
    const device = world.bind();
    const hwpt = world.run(device.attach(ioas));
    expect(world.call("DESTROY", { id: ioas })).toMatchObject({
      errno: "EBUSY",
      reason: `IOAS 1 is used by HWPT ${hwpt}`,
    });
    expect(world.call("DESTROY", { id: hwpt })).toMatchObject({
      errno: "EBUSY",
      reason: `HWPT ${hwpt} is used by device 2 (dev0)`,
    });
    expect(world.call("DESTROY", { id: device.id })).toMatchObject({
      errno: "EBUSY",
      reason: "device 2 (dev0) is used by its driver, device 2 (dev0)",
    });
  });

  it("waits for calls that use the object", () => {
    const world = new World();
    const ioas = world.ioas();
    const object = world.context.objects.useAny(ioas);
    let done = false;
    world.system.tasks.spawn("destroy", world.context.objects.destroy(ioas), () => (done = true));
    world.system.tasks.drain();
    expect(done).toBe(false);
    world.context.objects.release(object);
    world.system.tasks.drain();
    expect(done).toBe(true);
    expect(world.context.objects.isEmpty).toBe(true);
  });

  it("gives up after a minute, with EBUSY and the object as it was", () => {
    const world = new World();
    const ioas = world.ioas();
    const object = world.context.objects.useAny(ioas);
    const task = world.system.tasks.spawn("destroy", world.context.objects.destroy(ioas), () => {});
    world.system.tasks.drain();
    (world.system.clock as unknown as { advance(ns: number): void }).advance(61e9);
    world.system.tasks.drain();
    expect(task.outcome).toMatchObject({ ok: false, error: { errno: 16 } });
    world.context.objects.release(object);
    expect(world.call("DESTROY", { id: ioas }).errno).toBe("");
  });

  it("drops the areas of an IOAS that nobody uses", () => {
    const world = new World();
    const ioas = world.ioas();
    expect(world.map(ioas, 0x1000, 4096, 0x1000).errno).toBe("");
    expect(world.call("DESTROY", { id: ioas }).errno).toBe("");
  });
});

describe("IOAS_IOVA_RANGES", () => {
  it("is the whole space with alignment 1 at first", () => {
    const world = new World();
    const array = world.pages(1);
    const { errno, out } = world.call("IOAS_IOVA_RANGES", {
      ioas_id: world.ioas(),
      num_iovas: 4,
      allowed_iovas: array,
    });
    expect({ errno, num: out.num_iovas, alignment: out.out_iova_alignment }).toEqual({
      errno: "",
      num: 1,
      alignment: 1n,
    });
    expect(readRanges(world, array, 1)).toEqual([[0n, M]]);
  });

  it("shows the gaps of the reserved ranges, overlapping and adjacent ones as one", () => {
    const world = new World();
    const ioas = world.ioas();
    const { space } = ioasOf(world, ioas);
    space.reserve(0x1000n, 0x1fffn, undefined);
    space.reserve(0x1800n, 0x2fffn, undefined);
    space.reserve(0x3000n, 0x3fffn, undefined);
    space.reserve(0x8000n, 0x8fffn, undefined);
    const array = world.pages(1);
    const probe = world.call("IOAS_IOVA_RANGES", { ioas_id: ioas });
    expect(probe).toMatchObject({ errno: "EMSGSIZE" });
    expect(probe.out.num_iovas).toBe(3);
    const two = world.call("IOAS_IOVA_RANGES", { ioas_id: ioas, num_iovas: 2, allowed_iovas: array });
    expect(two.errno).toBe("EMSGSIZE");
    expect(readRanges(world, array, 3)).toEqual([
      [0n, 0xfffn],
      [0x4000n, 0x7fffn],
      [0n, 0n],
    ]);
    const edge = world.pages(1) + 4096 - 16;
    expect(world.call("IOAS_IOVA_RANGES", { ioas_id: ioas, num_iovas: 2, allowed_iovas: edge }).errno).toBe("EFAULT");
    expect(readRanges(world, edge, 1)).toEqual([[0n, 0xfffn]]);
  });

  it.each([
    ["reserved", { reserved: 1, ioas_id: 99 }, "EOPNOTSUPP"],
    ["no IOAS", { ioas_id: 99, num_iovas: 1 }, "ENOENT"],
    ["a wild pointer", { ioas_id: 1, num_iovas: 1, allowed_iovas: 0x10 }, "EFAULT"],
  ])("%s", (_what, values, errno) => {
    const world = new World();
    world.ioas();
    const answer = world.call("IOAS_IOVA_RANGES", values);
    expect(answer.errno).toBe(errno);
    expect(answer.out.out_iova_alignment).toBe(0n);
  });
});

describe("IOAS_ALLOW_IOVAS", () => {
  it.each<[string, [bigint, bigint][], string]>([
    ["one byte cannot be allowed", [[5n, 5n]], "EINVAL"],
    ["start behind last", [[6n, 5n]], "EINVAL"],
    [
      "an entry that overlaps an earlier one",
      [
        [0x10n, 0x1fn],
        [0x1fn, 0x30n],
      ],
      "EINVAL",
    ],
    [
      "a reserved address",
      [
        [0x10n, 0x1fn],
        [0x5000n, 0x6fffn],
      ],
      "EADDRINUSE",
    ],
    [
      "overlap is found before what is reserved",
      [
        [0x5000n, 0x6fffn],
        [0x5000n, 0x5001n],
      ],
      "EINVAL",
    ],
    [
      "touching entries",
      [
        [0x10n, 0x1fn],
        [0x20n, 0x30n],
      ],
      "",
    ],
    ["none", [], ""],
  ])("%s", (_what, ranges, errno) => {
    const world = new World();
    const ioas = world.ioas();
    ioasOf(world, ioas).space.reserve(0x6000n, 0x6fffn, undefined);
    const before = world.state();
    expect(allow(world, ioas, ranges)).toBe(errno);
    if (errno !== "") expect(world.state()).toEqual(before);
  });

  it("checks entries before it finds the next one unreadable", () => {
    const world = new World();
    const ioas = world.ioas();
    const end = world.pages(1) + 4096 - 16;
    writeRanges(world, end, [[7n, 7n]]);
    const values = { ioas_id: ioas, num_iovas: 0xffffffff, allowed_iovas: end };
    expect(world.call("IOAS_ALLOW_IOVAS", values).errno).toBe("EINVAL");
    writeRanges(world, end, [[7n, 8n]]);
    expect(world.call("IOAS_ALLOW_IOVAS", values).errno).toBe("EFAULT");
    expect(world.call("IOAS_ALLOW_IOVAS", { ...values, ioas_id: 9 }).errno).toBe("ENOENT");
    expect(world.call("IOAS_ALLOW_IOVAS", { ...values, ioas_id: 9, reserved: 1 }).errno).toBe("EOPNOTSUPP");
  });

  it("keeps automatic mappings inside, and later reservations out", () => {
    const world = new World();
    const ioas = world.ioas();
    expect(allow(world, ioas, [[0x40000n, 0x4ffffn]])).toBe("");
    const answer = world.call("IOAS_MAP", { flags: 6, ioas_id: ioas, user_va: 0x1000, length: 4096 });
    expect(answer.out.iova).toBe(0x40000n);
    expect(world.map(ioas, 0x1000, 4096, 0x1000).errno).toBe("");
    expect(() => ioasOf(world, ioas).space.reserve(0x4f000n, 0x60000n, undefined)).toThrow(
      expect.objectContaining({ errno: 98 }),
    );
  });
});

describe("VFIO_IOAS", () => {
  it("sets, gives and clears the IOAS of container ioctls", () => {
    const world = new World();
    const ioas = world.ioas();
    const op = (op: number, ioas_id = 0) => world.call("VFIO_IOAS", { op, ioas_id });
    expect(op(0).errno).toBe("ENODEV");
    expect(op(1, 9).errno).toBe("ENOENT");
    expect(op(1, ioas).errno).toBe("");
    expect(op(0)).toMatchObject({ errno: "", out: { ioas_id: ioas } });
    expect(op(2).errno).toBe("");
    expect(op(0).errno).toBe("ENODEV");
    expect(op(3).errno).toBe("EOPNOTSUPP");
    expect(world.call("VFIO_IOAS", { op: 0, reserved: 1 }).errno).toBe("EOPNOTSUPP");
  });

  it("forgets a destroyed IOAS", () => {
    const world = new World();
    const ioas = world.ioas();
    world.call("VFIO_IOAS", { op: 1, ioas_id: ioas });
    expect(world.call("DESTROY", { id: ioas }).errno).toBe("");
    expect(world.call("VFIO_IOAS", { op: 0 }).errno).toBe("ENODEV");
  });
});

function ioasOf(world: World, id: number): { space: import("./iova-space.ts").IovaSpace } {
  return world.context.objects.any(id) as unknown as { space: import("./iova-space.ts").IovaSpace };
}

function writeRanges(world: World, address: number, ranges: [bigint, bigint][]): void {
  const words = new BigUint64Array(ranges.flat());
  world.process.memory.write(address, new Uint8Array(words.buffer));
}

function readRanges(world: World, address: number, count: number): [bigint, bigint][] {
  const words = new BigUint64Array(count * 2);
  world.process.memory.read(address, new Uint8Array(words.buffer));
  return Array.from({ length: count }, (_, i) => [words[2 * i], words[2 * i + 1]]);
}

function allow(world: World, ioas: number, ranges: [bigint, bigint][]): string {
  const array = world.pages(1);
  writeRanges(world, array, ranges);
  return world.call("IOAS_ALLOW_IOVAS", { ioas_id: ioas, num_iovas: ranges.length, allowed_iovas: array }).errno;
}
