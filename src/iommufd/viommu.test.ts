import { describe, expect, it } from "vitest";
import { PAGE_SIZE } from "../memory/index.ts";
import { Access } from "./access.ts";
import { type FakeViommu, GUEST, GuestWorld } from "./guest.test-support.ts";
import { IommufdViommu } from "./viommu.ts";
import type { Values } from "./world.test-support.ts";

const M = 2n ** 64n - 1n;

/** As the guest world, with viommu 4, a plain paging HWPT 5, and a device 6 behind another IOMMU. */
function furnished(): GuestWorld {
  const world = new GuestWorld();
  expect(world.viommu()).toBe(4);
  expect(world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1 }).out.out_hwpt_id).toBe(5);
  world.run(world.core.register({ name: "fake1", driver: world.driver, maxPasids: 0 }));
  expect(world.bind(world.deviceBehind("fake1", "foreign")).id).toBe(6);
  return world;
}

function driverOf(world: GuestWorld, id = 4): FakeViommu {
  return world.context.objects.find(id, IommufdViommu).driver as FakeViommu;
}

describe("VIOMMU_ALLOC", () => {
  it.each<[string, Values, string]>([
    ["flags", { flags: 1, dev_id: 9 }, "EOPNOTSUPP"],
    ["type 0", { type: 0, dev_id: 9 }, "EOPNOTSUPP"],
    ["no device", { dev_id: 9, type: 1 }, "ENOENT"],
    ["a type of others", { type: 1, hwpt_id: 9 }, "EOPNOTSUPP"],
    ["no HWPT", { hwpt_id: 9 }, "ENOENT"],
    ["an IOAS as HWPT", { hwpt_id: 1 }, "ENOENT"],
    ["a HWPT that is no nest parent", { hwpt_id: 5 }, "EINVAL"],
    ["an answer that cannot be written", { data_len: 3, data_uptr: 8 }, "EFAULT"],
  ])("refuses %s", (_what, values, errno) => {
    const world = furnished();
    const before = world.state();
    const answer = world.call("VIOMMU_ALLOC", { type: GUEST, dev_id: 2, hwpt_id: 3, ...values });
    expect([answer.errno, world.state()]).toEqual([errno, before]);
  });

  it("leaves nothing behind when its result cannot be written", () => {
    const world = furnished();
    const before = world.state();
    const values = { type: GUEST, dev_id: 2, hwpt_id: 3 };
    expect(world.call("VIOMMU_ALLOC", values, world.unwritable()).errno).toBe("EFAULT");
    expect(world.state()).toEqual(before);
  });

  it("lets the driver answer in the client's data, as far as there is room", () => {
    const world = furnished();
    const data = { data_len: 2, data_uptr: world.data };
    expect(world.call("VIOMMU_ALLOC", { type: GUEST, dev_id: 2, hwpt_id: 3, ...data }).errno).toBe("");
    const bytes = new Uint8Array(3);
    world.process.memory.read(world.data, bytes);
    expect([...bytes]).toEqual([7, 8, 0]);
  });

  it("keeps its parent", () => {
    const world = furnished();
    expect(world.call("DESTROY", { id: 3 }).errno).toBe("EBUSY");
    for (const id of [4, 3]) expect(world.call("DESTROY", { id }).errno).toBe("");
    expect(world.guests.viommus.size).toBe(0);
  });
});

describe("VDEVICE_ALLOC", () => {
  it.each<[string, Values, string]>([
    ["no viommu", { viommu_id: 9, dev_id: 9 }, "ENOENT"],
    ["a HWPT as viommu", { viommu_id: 3 }, "ENOENT"],
    ["no device", { dev_id: 9 }, "ENOENT"],
    ["a device behind another IOMMU", { dev_id: 6 }, "EINVAL"],
    ["a device that has one", { dev_id: 2, virt_id: 8 }, "EEXIST"],
    ["an id that another has", { dev_id: 8, virt_id: 7 }, "EEXIST"],
  ])("refuses %s", (_what, values, errno) => {
    const world = furnished();
    expect(world.vdevice(4, 7)).toBe(7);
    expect(world.bind(world.device("other")).id).toBe(8);
    const before = world.state();
    const answer = world.call("VDEVICE_ALLOC", { viommu_id: 4, dev_id: 8, virt_id: 9, ...values });
    expect([answer.errno, world.state()]).toEqual([errno, before]);
  });

  it("leaves nothing behind when the driver refuses, or the result cannot be written", () => {
    const world = furnished();
    const before = world.state();
    world.system.failures.inject((name) => name === "fake.vdevice.add");
    expect(world.call("VDEVICE_ALLOC", { viommu_id: 4, dev_id: 2, virt_id: 1 }).errno).toBe("ENOMEM");
    world.system.failures.inject(undefined);
    const values = { viommu_id: 4, dev_id: 2, virt_id: 1 };
    expect(world.call("VDEVICE_ALLOC", values, world.unwritable()).errno).toBe("EFAULT");
    expect([world.state(), driverOf(world).devices.size]).toEqual([before, 0]);
  });

  it("makes a device known under the guest's id, all 64 bits of it, as long as it lives", () => {
    const world = furnished();
    const id = world.vdevice(4, M);
    const { services } = driverOf(world);
    expect([services.device(M), services.virtualId(world.bound.device)]).toEqual([world.bound.device, M]);
    expect(world.call("DESTROY", { id: 4 }).errno).toBe("EBUSY");
    expect(world.call("DESTROY", { id }).errno).toBe("");
    expect([services.device(M), services.virtualId(world.bound.device)]).toEqual([undefined, undefined]);
    expect(world.vdevice(4, M)).toBe(id);
  });

  it("leaves a tombstone when its device goes: an id that nobody finds and nobody gets", () => {
    const world = furnished();
    const id = world.vdevice(4, 7);
    expect(id).toBe(7);
    world.run(world.bound.unbind());
    expect(driverOf(world).devices.size).toBe(0);
    expect(world.call("DESTROY", { id }).errno).toBe("ENOENT");
    expect([world.ioas(), world.ioas()]).toEqual([2, 8]);
    for (const id of [8, 2, 5, 4, 3, 1]) expect(world.call("DESTROY", { id }).errno).toBe("");
    world.run((world.context.objects.any(6) as unknown as typeof world.bound).unbind());
    expect([world.context.objects.list(), world.context.objects.isEmpty]).toEqual([[], false]);
    // RLIMIT_MODE can be set only before there are objects, and one was here.
    expect(world.call("OPTION", { option_id: 0, op: 0, val64: 0 }).errno).toBe("EPERM");
  });

  it("goes once, whether its client or its device is first", () => {
    for (let seed = 0; seed < 8; seed++) {
      const world = furnished();
      const id = world.vdevice(4, 7);
      const { tasks } = world.system;
      let turn = seed;
      tasks.exploring = true;
      tasks.choose = (ready) => (turn++ >> (seed % 3)) % ready.length;
      tasks.spawn("unbind", world.bound.unbind());
      tasks.spawn("destroy", world.context.objects.destroy(id), () => {});
      tasks.drain();
      expect([driverOf(world).devices.size, world.context.objects.list().length]).toEqual([0, 5]);
    }
  });
});

describe("HW_QUEUE_ALLOC", () => {
  const IOVA = 0x20000n;

  /** Viommu 4, and at IOVA two pages that follow each other in memory. */
  function mapped(flags = 7): GuestWorld {
    const world = furnished();
    const va = world.pages(2);
    const map = { ioas_id: 1, user_va: va, length: 2 * PAGE_SIZE, iova: IOVA };
    expect(world.call("IOAS_MAP", { flags, ...map }).errno).toBe("");
    return world;
  }

  const queue = (world: GuestWorld, values: Values = {}) =>
    world.call("HW_QUEUE_ALLOC", {
      viommu_id: 4,
      type: GUEST,
      nesting_parent_iova: IOVA,
      length: PAGE_SIZE,
      ...values,
    });

  it.each<[string, Values, string]>([
    ["flags", { flags: 1 }, "EOPNOTSUPP"],
    ["type 0", { type: 0 }, "EOPNOTSUPP"],
    ["no length", { length: 0, viommu_id: 9 }, "EINVAL"],
    ["a range that wraps", { length: M, viommu_id: 9 }, "EOVERFLOW"],
    ["no viommu", { viommu_id: 3 }, "ENOENT"],
    ["a type of others", { type: 1 }, "EOPNOTSUPP"],
    ["a length that cannot be rounded up", { nesting_parent_iova: 0, length: M - 1n }, "ERANGE"],
    ["too many pages", { nesting_parent_iova: 0, length: 2n ** 40n }, "ENOMEM"],
    ["a hole", { nesting_parent_iova: 0x90000 }, "ENOENT"],
    ["a hole behind", { nesting_parent_iova: IOVA + 1n, length: 2 * PAGE_SIZE }, "ENOENT"],
    ["what the driver refuses", { index: 1 }, "EINVAL"],
  ])("refuses %s", (_what, values, errno) => {
    const world = mapped();
    const before = world.state();
    expect(queue(world, values).errno).toBe(errno);
    expect(world.state()).toEqual(before);
  });

  it("refuses what nobody may read, and pages that do not follow each other", () => {
    const world = mapped(3);
    expect(queue(world).errno).toBe("EPERM");
    const [a, b] = [world.pages(1), world.pages(1)];
    world.map(1, b, PAGE_SIZE, 0x50000);
    world.map(1, a, PAGE_SIZE, 0x51000);
    const before = world.state();
    expect(queue(world, { nesting_parent_iova: 0x50000, length: 2 * PAGE_SIZE }).errno).toBe("EFAULT");
    expect(world.state()).toEqual(before);
  });

  it("leaves nothing behind when its result cannot be written", () => {
    const world = mapped();
    const before = world.state();
    const values = { viommu_id: 4, type: GUEST, nesting_parent_iova: IOVA, length: PAGE_SIZE };
    expect(world.call("HW_QUEUE_ALLOC", values, world.unwritable()).errno).toBe("EFAULT");
    expect([world.state(), driverOf(world).queues.filter((queue) => queue !== undefined)]).toEqual([before, []]);
  });

  it("tells the driver where the queue is, and takes an id for its access", () => {
    const world = mapped();
    const { out } = queue(world, { nesting_parent_iova: IOVA + 0x10n, length: 0x20 });
    expect(out.out_hw_queue_id).toBe(7);
    expect(world.context.objects.any(8)).toBeInstanceOf(Access);
    expect(world.call("DESTROY", { id: 8 }).errno).toBe("EBUSY");
    const { physical, ...request } = driverOf(world).queues[0]!.request;
    expect(request).toEqual({ type: GUEST, index: 0, iova: IOVA + 0x10n, length: 0x20n });
    const parent = world.context.objects.find(4, IommufdViommu).hwpt;
    expect(physical).toBe(parent.domain.translate(IOVA + 0x10n));
  });

  it("keeps its areas from being unmapped, as long as it lives", () => {
    const world = mapped();
    const [first, second] = [queue(world).out.out_hw_queue_id, queue(world, { index: 1 }).out.out_hw_queue_id];
    const unmap = (values: Values) => world.call("IOAS_UNMAP", { ioas_id: 1, ...values }).errno;
    const everything = { iova: 0, length: M };
    expect([unmap(everything), unmap({ iova: IOVA, length: PAGE_SIZE })]).toEqual(["EBUSY", "EBUSY"]);
    expect(world.call("DESTROY", { id: first }).errno).toBe("EBUSY");
    for (const id of [second, first]) expect(world.call("DESTROY", { id }).errno).toBe("");
    expect([unmap(everything), world.memory.pinnedFrames]).toEqual(["", 0]);
  });

  it("goes with the context", () => {
    const world = mapped();
    queue(world);
    queue(world, { index: 1 });
    world.vdevice(4, 1);
    world.run(world.context.release());
    for (const object of world.context.objects.list()) {
      if (object.kind === "DEVICE") world.run((object as unknown as typeof world.bound).unbind());
    }
    expect([world.context.objects.list(), world.memory.pinnedFrames, world.guests.viommus.size]).toEqual([[], 0, 0]);
  });
});

describe("a window for mmap", () => {
  const request = { offset: 0x1000n, length: 0x2000n, shared: true, executable: false };

  function published(): GuestWorld {
    const world = furnished();
    const pfn = world.memory.allocate(2);
    expect(driverOf(world).services.publishWindow(pfn, 2)).toBe(0x1000n);
    return world;
  }

  const errnoOf = (world: GuestWorld, values: Partial<typeof request>): string =>
    world.errnoOf(
      (function* () {
        world.context.mmap(world.process, { ...request, ...values });
      })(),
    );

  it.each<[string, Partial<typeof request>, string]>([
    ["not shared", { shared: false, executable: true, offset: 0n }, "EINVAL"],
    ["executable", { executable: true, offset: 0n }, "EPERM"],
    ["no window", { offset: 0n }, "ENXIO"],
    ["the middle of a window", { offset: 0x2000n, length: 0x1000n }, "ENXIO"],
    ["a part", { length: 0x1000n }, "ENXIO"],
    ["more than it", { length: 0x3000n }, "ENXIO"],
  ])("refuses %s", (_what, values, errno) => {
    expect(errnoOf(published(), values)).toBe(errno);
  });

  it("keeps its viommu while it is mapped; free offsets are used again, the lowest first", () => {
    const world = published();
    const { services } = driverOf(world);
    const pfn = world.memory.allocate(1);
    expect(services.publishWindow(pfn, 1)).toBe(0x3000n);
    const mapped = [world.context.mmap(world.process, request), world.context.mmap(world.process, request)];
    expect(mapped[0].count).toBe(2);
    for (const { release } of mapped) {
      expect(world.call("DESTROY", { id: 4 }).errno).toBe("EBUSY");
      release();
    }
    services.retractWindow(0x1000n);
    expect(services.publishWindow(pfn, 1)).toBe(0x1000n);
    expect(services.publishWindow(pfn, 2)).toBe(0x4000n);
  });
});
