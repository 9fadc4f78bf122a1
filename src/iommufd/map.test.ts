import { describe, expect, it } from "vitest";
import type { FrameBacking } from "../memory/index.ts";
import { PAGE_SIZE } from "../memory/index.ts";
import type { Values } from "./world.test-support.ts";
import { type FakeDomain, World } from "./world.test-support.ts";

const M = 2n ** 64n - 1n;
const PAGE = BigInt(PAGE_SIZE);

/** An IOAS with an area at 0x100000-0x103fff and [0x200000, 0x200fff] reserved. */
function prepared(options: { hwpt?: boolean } = {}): { world: World; ioas: number; va: number } {
  const world = new World();
  const ioas = world.ioas();
  const va = world.pages(16);
  if (options.hwpt) world.run(world.bind().attach(ioas));
  expect(world.map(ioas, va, 0x4000, 0x100000).errno).toBe("");
  spaceOf(world, ioas).reserve(0x200000n, 0x200fffn, undefined);
  return { world, ioas, va };
}

function spaceOf(world: World, id: number): import("./iova-space.ts").IovaSpace {
  return (world.context.objects.any(id) as unknown as import("./ioas.ts").Ioas).space;
}

describe("IOAS_MAP checks in this order", () => {
  // Each row also violates every rule below it, as far as one call can.
  it.each<[string, Values, string, boolean?]>([
    ["unknown flags", { flags: 8, iova: M }, "EOPNOTSUPP"],
    ["reserved", { flags: 7, reserved: 1, iova: M }, "EOPNOTSUPP"],
    ["iova is M, even where the kernel chooses", { flags: 0, iova: M, ioas_id: 9 }, "EOVERFLOW"],
    ["length is M", { flags: 1, length: M, ioas_id: 9 }, "EOVERFLOW"],
    ["neither readable nor writeable", { flags: 1, ioas_id: 9 }, "EINVAL"],
    ["no such IOAS", { flags: 7, ioas_id: 9, user_va: M, length: 2 }, "ENOENT"],
    ["the memory wraps, to exactly 2^64 too", { flags: 7, user_va: M - PAGE + 1n, length: PAGE }, "EOVERFLOW"],
    ["no length", { flags: 7, length: 0, iova: 3 }, "EINVAL"],
    ["too much length", { flags: 7, length: M - PAGE + 1n, iova: 0x100000 }, "EINVAL"],
    ["length against the alignment", { flags: 7, length: 6144, iova: 0x100000 }, "EINVAL", true],
    ["iova against the alignment", { flags: 7, length: PAGE, iova: 0x100800 }, "EINVAL", true],
    ["iova wraps", { flags: 7, length: 2n * PAGE, iova: M - PAGE + 1n }, "EOVERFLOW"],
    ["reserved, although an area is hit first", { flags: 7, length: 0x101000, iova: 0x100000 }, "EINVAL"],
    ["an area is there", { flags: 7, length: PAGE, iova: 0x103000, user_va: 0x800 }, "EEXIST"],
    [
      "offset in the page against the alignment",
      { flags: 7, length: PAGE, iova: 0x300000, user_va: 0x10800 },
      "EINVAL",
      true,
    ],
    ["memory that is not there", { flags: 7, length: PAGE, iova: 0x300000, user_va: 0x10000 }, "EFAULT", true],
    ["memory at the very end", { flags: 7, length: PAGE, iova: 0x300000, user_va: M - 2n * PAGE + 1n }, "EFAULT", true],
    ["memory up to the very end", { flags: 7, length: 4097, iova: 0x300000, user_va: M - 2n * PAGE + 1n }, ""],
  ])("%s", (_what, values, errno, hwpt) => {
    const { world, ioas } = prepared({ hwpt });
    const before = world.state();
    const answer = world.call("IOAS_MAP", { ioas_id: ioas, ...values });
    expect(answer.errno).toBe(errno);
    if (errno !== "") expect(world.state()).toEqual(before);
  });

  it("says which area is in the way", () => {
    const { world, ioas, va } = prepared();
    expect(world.map(ioas, va, 4096, 0x101000).reason).toBe(
      "0x101000-0x101fff overlaps the area 0x100000-0x103fff of IOAS 1",
    );
  });

  it("refuses the last page of the address space with EOVERFLOW, but only when it pins few pages of its caller", () => {
    const world = new World();
    const ioas = world.ioas();
    const device = world.bind(world.device("dev", { page: 1 }));
    world.run(device.attach(ioas));
    const at = (user_va: bigint, length: bigint) =>
      world.call("IOAS_MAP", { flags: 6, ioas_id: ioas, user_va, length }).errno;
    expect(at(M + 1n - 8192n, 4096n)).toBe("EFAULT");
    expect(at(M + 1n - 8192n, 4097n)).toBe("EOVERFLOW");
    expect(at(M + 1n - 8192n, 8191n)).toBe("EOVERFLOW");
    expect(at(M + 1n - 8192n * PAGE, 8192n * PAGE - 1n)).toBe("EOVERFLOW");
    expect(at(M + 1n - 8193n * PAGE, 8193n * PAGE - 1n)).toBe("EFAULT");
  });
});

describe("automatic placement", () => {
  it("keeps the offset in the page and begins behind the first page", () => {
    const world = new World();
    const ioas = world.ioas();
    const place = (user_va: number, length: number) =>
      world.call("IOAS_MAP", { flags: 6, ioas_id: ioas, user_va, length });
    expect(place(0x7000800, 6144).out.iova).toBe(0x1800n);
    expect(world.call("IOAS_UNMAP", { ioas_id: ioas, iova: 0, length: M }).errno).toBe("");
    expect(world.map(ioas, 0x1000, 0x2000, 0x1000).errno).toBe("");
    expect(place(0x7002000, 8192).out.iova).toBe(0x4000n);
  });

  it("refuses what is too long, too little aligned, or does not fit", () => {
    const { world, ioas } = prepared({ hwpt: true });
    const place = (user_va: number | bigint, length: bigint) =>
      world.call("IOAS_MAP", { flags: 6, ioas_id: ioas, user_va, length }).errno;
    expect(place(0, 2n ** 63n - PAGE)).toBe("ENOSPC");
    expect(place(0, 2n ** 63n)).toBe("EOVERFLOW");
    expect(place(0x800, PAGE)).toBe("EINVAL");
  });
});

describe("IOAS_UNMAP", () => {
  it.each<[string, Values, string, bigint?]>([
    ["no such IOAS", { ioas_id: 9, iova: M, length: 0 }, "ENOENT"],
    ["everything", { iova: 0, length: M }, "", 0x4000n],
    ["iova is M", { iova: M, length: 0 }, "EOVERFLOW"],
    ["length is M", { iova: 1, length: M }, "EOVERFLOW"],
    ["no length", { iova: 0x100000, length: 0 }, "EINVAL"],
    ["the range wraps", { iova: M - 1n, length: 3 }, "EOVERFLOW"],
    ["nothing there", { iova: 0x104000, length: 0x1000 }, "ENOENT"],
    ["a part of an area, at its end", { iova: 0x102000, length: 0x2000 }, "ENOENT"],
    ["a part of an area, at its start", { iova: 0x100000, length: 0x2000 }, "ENOENT"],
    ["more than the area", { iova: 0xff000, length: 0x6000 }, "", 0x4000n],
  ])("%s", (_what, values, errno, bytes) => {
    const { world, ioas } = prepared({ hwpt: true });
    const before = world.state();
    const answer = world.call("IOAS_UNMAP", { ioas_id: ioas, ...values });
    expect(answer.errno).toBe(errno);
    if (errno !== "") expect(world.state()).toEqual(before);
    else expect([answer.out.length, world.memory.pinnedFrames]).toEqual([bytes, 0]);
  });

  it("keeps what it removed before its error, and writes no length then", () => {
    const { world, ioas, va } = prepared({ hwpt: true });
    expect(world.map(ioas, va, 0x2000, 0x110000).errno).toBe("");
    const answer = world.call("IOAS_UNMAP", { ioas_id: ioas, iova: 0x100000, length: 0x11000 });
    expect(answer).toMatchObject({ errno: "ENOENT", out: { length: 0x11000n } });
    expect(world.memory.pinnedFrames).toBe(2);
    expect(world.call("IOAS_UNMAP", { ioas_id: ioas, iova: 0, length: M }).out.length).toBe(0x2000n);
    expect(world.call("IOAS_UNMAP", { ioas_id: ioas, iova: 0, length: M })).toMatchObject({
      errno: "",
      out: { length: 0n },
    });
  });
});

describe("IOAS_COPY", () => {
  it.each<[string, Values, string]>([
    ["unknown flags", { flags: 8, length: M }, "EOPNOTSUPP"],
    ["length is M", { length: M, flags: 0 }, "EOVERFLOW"],
    ["src_iova is M", { src_iova: M, flags: 0 }, "EOVERFLOW"],
    ["dst_iova is M, even where the kernel chooses", { dst_iova: M, flags: 0 }, "EOVERFLOW"],
    ["neither readable nor writeable", { flags: 1, src_ioas_id: 9 }, "EINVAL"],
    ["no source", { src_ioas_id: 9, length: 0 }, "ENOENT"],
    ["no length", { length: 0, src_iova: 5 }, "EINVAL"],
    ["the source wraps", { length: 0x2000, src_iova: M - 5n }, "EOVERFLOW"],
    ["a hole behind the source", { src_iova: 0x103000, length: 0x2000, dst_ioas_id: 9 }, "ENOENT"],
    ["no destination", { dst_ioas_id: 9 }, "ENOENT"],
    ["reserved in the destination", { flags: 7, dst_iova: 0x200000 }, "EINVAL"],
    ["an area in the destination", { flags: 7, dst_iova: 0x102000 }, "EEXIST"],
    [
      "within one IOAS, from the middle of an area",
      { flags: 7, dst_iova: 0x300000, src_iova: 0x101000, length: 0x2000 },
      "",
    ],
  ])("%s", (_what, values, errno) => {
    const { world, ioas } = prepared();
    const before = world.state();
    const copy = { flags: 6, dst_ioas_id: ioas, src_ioas_id: ioas, length: 0x1000, src_iova: 0x100000, ...values };
    expect(world.call("IOAS_COPY", copy).errno).toBe(errno);
    if (errno !== "") expect(world.state()).toEqual(before);
  });

  it("may not gain the right to write", () => {
    const world = new World();
    const ioas = world.ioas();
    world.call("IOAS_MAP", { flags: 5, ioas_id: ioas, user_va: 0x10000, length: 4096, iova: 0x1000 });
    const copy = { dst_ioas_id: ioas, src_ioas_id: ioas, length: 4096, src_iova: 0x1000 };
    expect(world.call("IOAS_COPY", { ...copy, flags: 6 }).errno).toBe("EPERM");
    expect(world.call("IOAS_COPY", { ...copy, flags: 4 })).toMatchObject({ errno: "", out: { dst_iova: 0x2000n } });
  });

  it("spans areas, shares their pins, and outlives them", () => {
    const world = new World();
    const [source, target] = [world.ioas(), world.ioas()];
    const device = world.bind();
    world.run(device.attach(target));
    const va = world.pages(8);
    world.map(source, va, 0x2000, 0x10000);
    world.map(source, va + 0x4000, 0x2000, 0x12000);
    expect(world.memory.pinnedFrames).toBe(0);
    const copy = { flags: 7, dst_ioas_id: target, src_ioas_id: source, length: 0x2000, src_iova: 0x11000 };
    expect(world.call("IOAS_COPY", { ...copy, dst_iova: 0x50000 }).errno).toBe("");
    expect(world.call("IOAS_COPY", { ...copy, dst_iova: 0x60000 }).errno).toBe("");
    expect([world.memory.pinnedFrames, world.process.memory.pinnedPages]).toEqual([2, 2]);
    world.call("IOAS_UNMAP", { ioas_id: source, iova: 0, length: M });
    expect(world.call("IOAS_UNMAP", { ioas_id: target, iova: 0x50000, length: 0x2000 }).errno).toBe("");
    const [domain] = world.driver.domains;
    expect(domain.leaves.map(({ iova, size }) => [iova, size])).toEqual([
      [0x60000n, 4096],
      [0x61000n, 4096],
    ]);
    expect(world.memory.pinnedFrames).toBe(2);
  });
});

describe("IOAS_MAP_FILE", () => {
  const content: FrameBacking = { read: (page, _offset, into) => void into.fill(page + 1), write: () => {} };

  function fileWorld(hwpt: boolean): { world: World; ioas: number } {
    const world = new World();
    world.process.file = (fd) =>
      fd === 3
        ? { kind: "memory", backing: content, size: 4 * PAGE_SIZE, label: "memfd" }
        : fd === 4
          ? { kind: "other", label: "a socket" }
          : Object.getPrototypeOf(world.process).file.call(world.process, fd);
    const ioas = world.ioas();
    if (hwpt) world.run(world.bind().attach(ioas));
    return { world, ioas };
  }

  it.each<[string, Values, string, string]>([
    ["unknown flags", { flags: 8, length: M }, "EOPNOTSUPP", "EOPNOTSUPP"],
    ["length is M", { flags: 1, length: M }, "EOVERFLOW", "EOVERFLOW"],
    ["neither readable nor writeable", { flags: 1, ioas_id: 9 }, "EINVAL", "EINVAL"],
    ["no such IOAS", { ioas_id: 9, length: 0 }, "ENOENT", "ENOENT"],
    ["no length", { length: 0, fd: 99 }, "EINVAL", "EINVAL"],
    ["the file's end wraps", { start: M, length: 2, fd: 99 }, "EOVERFLOW", "EOVERFLOW"],
    ["no such descriptor", { fd: 99 }, "EBADF", "EBADF"],
    ["a file without pages", { fd: 4 }, "", "EINVAL"],
    ["behind the end of the file", { start: 3 * PAGE_SIZE, length: 2n * PAGE }, "", "EINVAL"],
    ["the last page", { start: 3 * PAGE_SIZE }, "", ""],
  ])("%s", (_what, values, without, withHwpt) => {
    for (const hwpt of [false, true]) {
      const { world, ioas } = fileWorld(hwpt);
      const before = world.state();
      const answer = world.call("IOAS_MAP_FILE", { flags: 6, ioas_id: ioas, fd: 3, length: PAGE, ...values });
      expect(answer.errno).toBe(hwpt ? withHwpt : without);
      if (answer.errno !== "") expect(world.state()).toEqual(before);
    }
  });

  it("shows the file's pages, and forgets them with the last unmap", () => {
    const { world, ioas } = fileWorld(true);
    const { out } = world.call("IOAS_MAP_FILE", {
      flags: 6,
      ioas_id: ioas,
      fd: 3,
      start: PAGE_SIZE,
      length: 2n * PAGE,
    });
    expect(out.iova).toBe(0x1000n);
    const [domain] = world.driver.domains;
    const bytes = new Uint8Array(1);
    world.memory.read(domain.translate(0x2000n)!, bytes);
    expect(bytes[0]).toBe(3);
    expect(world.call("IOAS_UNMAP", { ioas_id: ioas, iova: 0, length: M }).errno).toBe("");
    expect([world.memory.pinnedFrames, world.memory.adoptedFrames]).toEqual([0, 0]);
  });
});

describe("domains", () => {
  it("get consecutive frames in one call, and pages one by one where huge pages are off", () => {
    const world = new World();
    const va = world.pages(512);
    const sizes = [true, false].map((huge) => {
      const ioas = world.ioas();
      if (!huge) expect(world.call("OPTION", { option_id: 1, op: 0, object_id: ioas, val64: 0 }).errno).toBe("");
      const device = world.bind();
      world.run(device.attach(ioas));
      world.map(ioas, va, 512 * PAGE_SIZE, 0x200000);
      return (device.hwpt()!.domain as FakeDomain).leaves.map(({ size }) => size);
    });
    expect(sizes[0]).toEqual([512 * PAGE_SIZE]);
    expect(sizes[1]).toEqual(Array(512).fill(PAGE_SIZE));
    expect(world.memory.pinnedFrames).toBe(512);
  });

  it("map sub-page offsets as they are, where the smallest page allows it", () => {
    const world = new World();
    const ioas = world.ioas();
    const device = world.bind(world.device("dev", { page: 2048 }));
    world.run(device.attach(ioas));
    const va = world.pages(3);
    expect(world.map(ioas, va + 2048, 6144, 0x100000).errno).toBe("");
    const domain = device.hwpt()!.domain as FakeDomain;
    expect(domain.translate(0x100000n)! % PAGE_SIZE).toBe(2048);
    expect(domain.leaves.reduce((sum, { size }) => sum + size, 0)).toBe(6144);
    expect(world.memory.pinnedFrames).toBe(2);
  });

  it("charge the user, or the process, or nobody; over the limit nothing stays", () => {
    for (const [perProcess, capabilities, expected] of [
      [false, [], [2, 0, 2]],
      [true, [], [0, 2, 2]],
      [false, [14], [0, 0, 2]],
    ] as const) {
      const world = new World({
        perProcessAccounting: perProcess,
        process: { capabilities, memlockLimit: 2 * PAGE_SIZE },
      });
      const ioas = world.ioas();
      world.run(world.bind().attach(ioas));
      const va = world.pages(4);
      expect(world.map(ioas, va, 2 * PAGE_SIZE, 0x10000).errno).toBe("");
      const { user, memory } = world.process;
      expect([user.lockedPages, memory.lockedPages, memory.pinnedPages]).toEqual(expected);
      expect(world.map(ioas, va + 2 * PAGE_SIZE, PAGE_SIZE, 0x20000).errno).toBe(
        capabilities.length > 0 ? "" : "ENOMEM",
      );
      world.run(world.context.release());
    }
  });
});

describe("IOAS_CHANGE_PROCESS", () => {
  it("moves files to the caller, and nothing else", () => {
    const world = new World();
    const ioas = world.ioas();
    expect(world.call("IOAS_CHANGE_PROCESS", { reserved: 1 }).errno).toBe("EOPNOTSUPP");
    expect(world.call("IOAS_CHANGE_PROCESS").errno).toBe("");
    world.map(ioas, 0x1000, 0x1000, 0x1000);
    expect(world.call("IOAS_CHANGE_PROCESS").errno).toBe("EINVAL");
  });
});
