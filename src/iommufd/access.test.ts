import { describe, expect, it } from "vitest";
import { PAGE_SIZE } from "../memory/index.ts";
import type { Task } from "../runtime/index.ts";
import type { Access } from "./access.ts";
import { World } from "./world.test-support.ts";

const M = 2n ** 64n - 1n;
const IOVA = 0x10000n;

/** Somebody who has an access, and unpins what it is asked to unless it is stubborn. */
class User {
  readonly label = "a mediated device";
  readonly access: Access;
  readonly asked: [bigint, bigint][] = [];
  readonly pinned: [bigint, bigint][] = [];
  stubborn = false;
  private readonly world: World;

  constructor(world: World, pins = true) {
    this.world = world;
    this.access = world.context.createAccess(this, { pins });
  }

  pin(iova: bigint, length: bigint, write = false): string {
    return this.attempt(() => {
      this.access.pin(this.world.process, iova, length, write);
      this.pinned.push([iova, length]);
    });
  }

  attempt(act: () => void): string {
    return this.world.errnoOf(
      (function* () {
        act();
      })(),
    );
  }

  *unmap(iova: bigint, length: bigint): Task<void> {
    yield* this.world.system.tasks.point();
    this.asked.push([iova, length]);
    if (this.stubborn) return;
    for (const [at, size] of this.pinned.splice(0)) {
      if (at <= iova + length - 1n && iova <= at + size - 1n) this.access.unpin(at, size);
      else this.pinned.push([at, size]);
    }
  }
}

/** IOAS 1 with four pages at IOVA that count bytes, and an access attached to it. */
function attached(options: { pins?: boolean } = {}): { world: World; user: User; va: number } {
  const world = new World();
  world.ioas();
  const va = world.pages(4);
  world.process.memory.write(
    va,
    Uint8Array.from({ length: 4 * PAGE_SIZE }, (_, i) => (i >> 4) & 0xff),
  );
  expect(world.map(1, va, 0x2000, IOVA).errno).toBe("");
  expect(world.map(1, va + 0x2000, 0x2000, IOVA + 0x2000n).errno).toBe("");
  const user = new User(world, options.pins);
  world.run(user.access.attach(1));
  return { world, user, va };
}

const unmap = (world: World, iova: bigint | number, length: bigint | number): string =>
  world.call("IOAS_UNMAP", { ioas_id: 1, iova, length }).errno;

describe("an access", () => {
  it("is used by its driver, and uses its IOAS while attached", () => {
    const { world, user } = attached();
    expect(user.access.id).toBe(2);
    expect([world.call("DESTROY", { id: 2 }).errno, world.call("DESTROY", { id: 1 }).errno]).toEqual([
      "EBUSY",
      "EBUSY",
    ]);
    world.run(user.access.detach());
    world.run(user.access.detach());
    expect(world.call("DESTROY", { id: 1 }).errno).toBe("");
    world.run(user.access.destroyByUser());
    expect(world.context.objects.isEmpty).toBe(true);
  });

  it("is attached once, to an IOAS", () => {
    const world = new World();
    const user = new User(world);
    expect(world.errnoOf(user.access.attach(1))).toBe("ENOENT");
    expect(world.errnoOf(user.access.attach(9))).toBe("ENOENT");
    const ioas = world.ioas();
    expect(world.errnoOf(user.access.replace(ioas))).toBe("ENOENT");
    expect(world.errnoOf(user.access.attach(ioas))).toBe("");
    expect(world.errnoOf(user.access.attach(ioas))).toBe("EINVAL");
    expect(world.errnoOf(user.access.replace(ioas))).toBe("");
    expect(user.asked).toEqual([]);
  });

  it("that pins wants areas of whole pages, as long as it is attached", () => {
    const world = new World();
    const ioas = world.ioas();
    const va = world.pages(1);
    world.map(ioas, va + 0x800, 0x800, IOVA);
    const before = world.call("IOAS_IOVA_RANGES", { ioas_id: ioas, num_iovas: 1, allowed_iovas: va }).out;
    const [pinning, reading] = [new User(world), new User(world, false)];
    expect(world.errnoOf(pinning.access.attach(ioas))).toBe("EADDRINUSE");
    expect(world.errnoOf(reading.access.attach(ioas))).toBe("");
    const alignment = () => world.call("IOAS_IOVA_RANGES", { ioas_id: ioas, num_iovas: 1, allowed_iovas: va }).out;
    expect(alignment().out_iova_alignment).toBe(before.out_iova_alignment);
    world.call("IOAS_UNMAP", { ioas_id: ioas, iova: 0, length: M });
    expect(world.errnoOf(pinning.access.attach(ioas))).toBe("");
    expect(alignment().out_iova_alignment).toBe(4096n);
    expect(world.map(ioas, va, 0x800, IOVA).errno).toBe("EINVAL");
    world.run(pinning.access.destroyByUser());
    expect(alignment().out_iova_alignment).toBe(1n);
  });

  it("is replaced by entering the new IOAS, then unpinning all, then leaving the old one", () => {
    const { world, user, va } = attached();
    const other = world.ioas();
    user.pin(IOVA, 0x1000n);
    world.map(other, va + 0x10, 0x10, 0x5000);
    const before = world.state();
    expect(world.errnoOf(user.access.replace(other))).toBe("EADDRINUSE");
    expect(world.errnoOf(user.access.replace(99))).toBe("ENOENT");
    expect([world.state(), user.asked]).toEqual([before, []]);
    world.call("IOAS_UNMAP", { ioas_id: other, iova: 0, length: M });
    world.run(user.access.replace(other));
    expect([user.asked, world.memory.pinnedFrames]).toEqual([[[0n, M]], 0]);
    expect([world.call("DESTROY", { id: other }).errno, world.call("DESTROY", { id: 1 }).errno]).toEqual(["EBUSY", ""]);
  });

  it("keeps its context", () => {
    const { world, user } = attached();
    world.run(world.context.release());
    expect(user.pin(IOVA, 0x1000n)).toBe("");
    world.run(user.access.destroyByUser());
    expect([world.context.objects.list(), world.memory.pinnedFrames]).toEqual([[], 0]);
  });
});

describe("pin", () => {
  it.each<[string, bigint, bigint, boolean, string]>([
    ["nothing", IOVA, 0n, false, "EINVAL"],
    ["a range that wraps", M, 2n, false, "EOVERFLOW"],
    ["a hole", 0x90000n, 1n, false, "ENOENT"],
    ["a hole behind", IOVA + 0x3000n, 0x1001n, false, "ENOENT"],
    ["from the middle of a page", IOVA + 8n, 8n, false, "EINVAL"],
    ["to the middle of a page", IOVA, 8n, true, ""],
    ["parts of two areas", IOVA + 0x1000n, 0x1001n, true, ""],
    ["what is not writeable", 0x50000n, 1n, true, "EPERM"],
    ["what is not readable", 0x60000n, 1n, false, "EPERM"],
    ["what is absent", 0x70000n, 1n, false, "EFAULT"],
    ["from an area that does not end on a page", 0x80000n, 0x1001n, false, "EINVAL"],
  ])("%s", (_what, iova, length, write, errno) => {
    const { world, user, va } = attached({ pins: false });
    world.run(user.access.destroyByUser());
    world.call("IOAS_MAP", { flags: 5, ioas_id: 1, user_va: va, length: 0x1000, iova: 0x50000 });
    world.call("IOAS_MAP", { flags: 3, ioas_id: 1, user_va: va, length: 0x1000, iova: 0x60000 });
    world.map(1, 0x10000, 0x1000, 0x70000);
    const reader = new User(world);
    world.run(reader.access.attach(1));
    // As an access without pins would leave it: the second area begins in the middle of a page of its source.
    const { space } = reader.access.attached;
    (space as unknown as { currentAlignment: bigint }).currentAlignment = 1n;
    world.map(1, va, 0x800, 0x80000);
    world.map(1, va + 0x1000, 0x1000, 0x80800);
    const before = world.state();
    expect(reader.pin(iova, length, write)).toBe(errno);
    if (errno !== "") expect(world.state()).toEqual(before);
  });

  it("gives the frame of each page, which stay until they are unpinned", () => {
    const { world, user, va } = attached();
    const frames = user.access.pin(world.process, IOVA + 0x1000n, 0x2000n, true);
    const [run] = world.process.memory.pin(va / PAGE_SIZE + 1, 2, false);
    expect(frames).toEqual([run.pfn, run.pfn + 1]);
    world.memory.unpin([run]);
    expect([world.memory.pinnedFrames, world.process.user.lockedPages]).toEqual([2, 2]);
    user.access.unpin(IOVA + 0x1000n, 0x2000n);
    expect([world.memory.pinnedFrames, world.process.user.lockedPages]).toEqual([0, 0]);
  });

  it("shares what a HWPT has pinned, and keeps it after that is gone", () => {
    const { world, user } = attached();
    const device = world.bind();
    world.run(device.attach(1));
    expect(world.memory.pinnedFrames).toBe(4);
    user.pin(IOVA, 0x3000n);
    user.pin(IOVA, 0x1000n, true);
    expect([world.memory.pinnedFrames, world.process.user.lockedPages]).toEqual([4, 4]);
    world.run(device.detach());
    expect([world.memory.pinnedFrames, world.process.user.lockedPages]).toEqual([3, 3]);
    expect([unmap(world, 0, M), world.memory.pinnedFrames]).toEqual(["", 0]);
  });
});

describe("UNMAP of what an access has pinned", () => {
  it("asks for each such area, in order, and goes on where it was", () => {
    const { world, user } = attached();
    const other = new User(world);
    world.run(other.access.attach(1));
    user.pin(IOVA, 0x4000n);
    other.pin(IOVA + 0x2000n, 0x1000n);
    expect(unmap(world, IOVA, 0x4000n)).toBe("");
    const first: [bigint, bigint] = [IOVA, 0x2000n];
    expect([user.asked, other.asked]).toEqual([
      [first, [IOVA + 0x2000n, 0x2000n]],
      [first, [IOVA + 0x2000n, 0x2000n]],
    ]);
    expect([world.memory.pinnedFrames, world.process.user.lockedPages]).toEqual([0, 0]);
  });

  it("removes the areas before it first, and says so if the access does not unpin", () => {
    const { world, user } = attached();
    user.pin(IOVA + 0x2000n, 0x1000n);
    user.stubborn = true;
    expect(unmap(world, IOVA, 0x4000n)).toBe("EDEADLK");
    expect(user.asked.length).toBe(101);
    expect(user.access.attached.space.areas().map(({ start }) => start)).toEqual([IOVA + 0x2000n]);
    // Nobody gets at the area any more, but what is pinned can be given back.
    expect(user.pin(IOVA + 0x2000n, 0x1000n)).toBe("EINVAL");
    expect(user.attempt(() => user.access.read(world.process, IOVA + 0x2000n, new Uint8Array(1)))).toBe("EINVAL");
    user.stubborn = false;
    expect([unmap(world, IOVA, 0x4000n), world.memory.pinnedFrames]).toEqual(["", 0]);
  });

  it("looks at what is partly covered before it asks", () => {
    const { world, user } = attached();
    user.pin(IOVA, 0x1000n);
    expect([unmap(world, IOVA, 0x1000n), user.asked]).toEqual(["ENOENT", []]);
  });
});

describe("read and write", () => {
  it.each<[string, bigint, number, boolean, string]>([
    ["no bytes", IOVA, 0, false, "EINVAL"],
    ["a range that wraps", M, 2, false, "EOVERFLOW"],
    ["a hole", 0x90000n, 1, false, "ENOENT"],
    ["a hole behind", IOVA + 0x3fffn, 2, true, "ENOENT"],
    ["what is not writeable", 0x50000n, 1, true, "EPERM"],
    ["what is not readable", 0x60000n, 1, false, "EPERM"],
    ["what is absent", 0x70000n, 1, false, "EFAULT"],
    ["absent pages", 0x70ff0n, 0x20, true, "EFAULT"],
    ["a file that is no memory", 0x80000n, 1, false, "EINVAL"],
  ])("refuse %s, directly and through frames", (_what, iova, length, write, errno) => {
    const { world, user, va } = attached({ pins: false });
    world.call("IOAS_MAP", { flags: 5, ioas_id: 1, user_va: va, length: 0x1000, iova: 0x50000 });
    world.call("IOAS_MAP", { flags: 3, ioas_id: 1, user_va: va, length: 0x1000, iova: 0x60000 });
    world.map(1, 0x10000, 0x2000, 0x70000);
    const fd = world.process.addFile({ kind: "other", label: "a socket" });
    world.call("IOAS_MAP_FILE", { flags: 7, ioas_id: 1, fd, length: 0x1000, iova: 0x80000 });
    for (const slow of [false, true]) {
      const act = () =>
        write
          ? user.access.write(world.process, iova, new Uint8Array(length), { slow })
          : user.access.read(world.process, iova, new Uint8Array(length), { slow });
      expect(user.attempt(act)).toBe(errno);
    }
    expect(world.memory.pinnedFrames).toBe(0);
  });

  it.each([false, true])("move bytes across areas (slow: %s)", (slow) => {
    const { world, user, va } = attached({ pins: false });
    const read = new Uint8Array(0x1002);
    user.access.read(world.process, IOVA + 0x17ffn, read, { slow });
    const expected = new Uint8Array(0x1002);
    world.process.memory.read(va + 0x17ff, expected);
    expect(read).toEqual(expected);
    user.access.write(world.process, IOVA + 0x1ffen, new Uint8Array([9, 8, 7, 6]), { slow });
    world.process.memory.read(va + 0x1ffe, expected.subarray(0, 4));
    expect([...expected.subarray(0, 4)]).toEqual([9, 8, 7, 6]);
    expect([world.memory.pinnedFrames, world.process.user.lockedPages]).toEqual([0, 0]);
  });

  it("read slowly what the process may only read by now: in one page yes, in two no", () => {
    const { world, user, va } = attached({ pins: false });
    world.process.memory.protect(va, 2, { writable: false });
    const read = (iova: bigint) =>
      user.attempt(() => user.access.read(world.process, iova, new Uint8Array(2), { slow: true }));
    const write = () => user.attempt(() => user.access.write(world.process, IOVA, new Uint8Array(2), { slow: true }));
    expect([read(IOVA), read(IOVA + 0xfffn), write()]).toEqual(["", "EFAULT", "EFAULT"]);
  });

  it("of another process's memory go through its frames, and end when it is gone", () => {
    const { world, user } = attached({ pins: false });
    const child = world.process.fork();
    const into = new Uint8Array(0x1001);
    user.access.read(child, IOVA, into);
    expect(into[0x1000]).toBe(0);
    world.process.exit();
    expect(user.attempt(() => user.access.read(child, IOVA, into))).toBe("EFAULT");
  });
});
