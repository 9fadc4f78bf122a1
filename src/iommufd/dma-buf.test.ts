import { describe, expect, it } from "vitest";
import { type DmaBuf, type File, PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";
import { ENOTTY, refuse, type Task } from "../runtime/index.ts";
import { PagingHwpt } from "./hwpt.ts";
import type { FakeDomain, Values } from "./world.test-support.ts";
import { World } from "./world.test-support.ts";

const PAGES = 4;

class TestBuffer implements File, DmaBuf {
  readonly label = "a buffer";
  readonly hasPosition = false;
  readonly physical: number;
  readonly size = PAGES * PAGE_SIZE;
  mappable = true;
  revoked = false;
  readonly listeners = new Set<() => Task<void>>();
  private readonly pfn: number;

  constructor(memory: PhysicalMemory) {
    this.pfn = memory.allocate(PAGES);
    this.physical = this.pfn * PAGE_SIZE;
    // The strict driver of these tests wants all that it maps to be pinned.
    memory.pin({ pfn: this.pfn, count: PAGES });
  }

  get dmaBuf(): DmaBuf {
    return this;
  }

  listen(revoke: () => Task<void>): () => void {
    this.listeners.add(revoke);
    return () => this.listeners.delete(revoke);
  }

  *revoke(): Task<void> {
    this.revoked = true;
    for (const revoke of [...this.listeners]) yield* revoke();
  }

  *ioctl(): Task<number> {
    return refuse(ENOTTY, () => "a buffer has no ioctls");
  }

  *release(): Task<void> {}
}

/** IOAS 1 with an automatic HWPT 3 of device 2; a descriptor of a buffer. */
function mapped(): { world: World; buffer: TestBuffer; fd: number; leaves: () => [bigint, number][] } {
  const world = new World();
  world.ioas();
  expect(world.run(world.bind().attach(1))).toBe(3);
  const buffer = new TestBuffer(world.memory);
  const fd = world.process.addFile({ kind: "ours", file: buffer });
  const domain = world.context.objects.find(3, PagingHwpt).domain as FakeDomain;
  return { world, buffer, fd, leaves: () => domain.leaves.map(({ iova, physical }) => [iova, physical]) };
}

const map = (world: World, fd: number, values: Values = {}) =>
  world.call("IOAS_MAP_FILE", { flags: 7, ioas_id: 1, fd, length: 0x1000, iova: 0x10000, ...values });

describe("a dma-buf", () => {
  it.each<[string, Values, Partial<TestBuffer>, string]>([
    ["a range beyond its end", { start: 0x3000, length: 0x1001 }, { mappable: false }, "EINVAL"],
    ["one of another exporter", {}, { mappable: false, revoked: true }, "EOPNOTSUPP"],
    ["one that was taken back", {}, { revoked: true }, "ENODEV"],
    ["unaligned places", { iova: 0x10001 }, {}, "EINVAL"],
  ])("refuses %s", (_what, values, traits, errno) => {
    const { world, buffer, fd } = mapped();
    Object.assign(buffer, traits);
    const before = world.state();
    expect([map(world, fd, values).errno, world.state(), buffer.listeners.size]).toEqual([errno, before, 0]);
  });

  it("is mapped by address: nothing is pinned, and nobody pays", () => {
    const { world, buffer, fd, leaves } = mapped();
    const pinned = world.memory.pinnedFrames;
    expect(map(world, fd, { start: 0x1000, length: 0x2000 }).errno).toBe("");
    expect(leaves()).toEqual([[0x10000n, buffer.physical + 0x1000]]);
    expect([world.memory.pinnedFrames, world.process.user.lockedPages]).toEqual([pinned, 0]);
    expect(world.call("IOAS_UNMAP", { ioas_id: 1, iova: 0x10000, length: 0x2000 }).errno).toBe("");
    expect([leaves(), buffer.listeners.size]).toEqual([[], 0]);
  });

  it("can neither be pinned nor copied to by an access", () => {
    const { world, fd } = mapped();
    map(world, fd);
    const access = world.context.createAccess({ label: "test" }, { pins: true });
    world.run(access.attach(1));
    const attempt = (act: () => void) =>
      world.errnoOf(
        (function* () {
          act();
        })(),
      );
    expect(attempt(() => access.pin(world.process, 0x10000n, 1n, false))).toBe("EINVAL");
    expect(attempt(() => access.read(world.process, 0x10000n, new Uint8Array(1)))).toBe("EINVAL");
    expect(attempt(() => access.write(world.process, 0x10000n, new Uint8Array(1), { slow: true }))).toBe("EINVAL");
  });

  it("that is taken back leaves every domain at once, copies included, and its areas stay", () => {
    const { world, buffer, fd, leaves } = mapped();
    const other = world.ioas();
    world.run(world.bind().attach(other));
    map(world, fd);
    const copy = { flags: 7, src_ioas_id: 1, src_iova: 0x10000, dst_iova: 0x50000, length: 0x1000 };
    expect(world.call("IOAS_COPY", { ...copy, dst_ioas_id: other }).errno).toBe("");
    world.run(buffer.revoke());
    expect(leaves()).toEqual([]);
    for (const { leaves } of world.driver.domains) expect(leaves).toEqual([]);
    // Neither a new HWPT, nor a copy, nor that it is usable again brings it back.
    buffer.revoked = false;
    expect(world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1 }).errno).toBe("");
    expect(world.call("IOAS_COPY", { ...copy, dst_ioas_id: 1 }).errno).toBe("");
    for (const { leaves } of world.driver.domains) expect(leaves).toEqual([]);
    expect(map(world, fd, { iova: 0x90000 }).errno).toBe("");
    expect(leaves()).toEqual([[0x90000n, buffer.physical]]);
    for (const id of [1, other]) {
      expect(world.call("IOAS_UNMAP", { ioas_id: id, iova: 0, length: 2n ** 64n - 1n }).errno).toBe("");
    }
    expect(buffer.listeners.size).toBe(0);
  });
});
