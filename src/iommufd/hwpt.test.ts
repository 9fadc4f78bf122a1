import { describe, expect, it } from "vitest";
import { type Values, World } from "./world.test-support.ts";

const M = 2n ** 64n - 1n;
const APERTURE = { start: 0x1000000n, last: 0x7fffffffn };

/** IOAS 1, device 2, a nest parent HWPT 3 and an automatic HWPT 4 of it. */
function prepared(): World {
  const world = new World();
  world.ioas();
  const device = world.bind();
  expect(world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1, flags: 1 }).out.out_hwpt_id).toBe(3);
  expect(world.run(device.attach(1))).toBe(4);
  return world;
}

describe("HWPT_ALLOC checks in this order", () => {
  it.each<[string, Values, string]>([
    ["reserved", { reserved: 1, data_len: 4 }, "EOPNOTSUPP"],
    ["data without type", { data_len: 8, dev_id: 9 }, "EINVAL"],
    ["a type without data", { data_type: 0xdead, dev_id: 9 }, "EINVAL"],
    ["no such device", { dev_id: 9, pt_id: 9 }, "ENOENT"],
    ["an IOAS as device", { dev_id: 1, pt_id: 9 }, "ENOENT"],
    ["no parent", { pt_id: 9, flags: 16 }, "EINVAL"],
    ["a device as parent", { pt_id: 2, flags: 16 }, "EINVAL"],
    ["unknown flags", { flags: 16 | 5 }, "EOPNOTSUPP"],
    ["faults on a nest parent", { flags: 5, data_type: 1, data_len: 4 }, "EOPNOTSUPP"],
    ["data of an unknown type, whatever the pointer", { data_type: 1, data_len: 4 }, "EOPNOTSUPP"],
    ["data that cannot be read", { data_type: 0xdead, data_len: 8, data_uptr: 8 }, "EFAULT"],
    ["no fault queue", { flags: 4, fault_id: 1 }, "ENOENT"],
    ["nested: flags of paging HWPTs", { pt_id: 3, flags: 1, data_type: 0xdead, data_len: 8 }, "EOPNOTSUPP"],
    ["nested: no data", { pt_id: 3 }, "EOPNOTSUPP"],
    ["nested: a driver without", { pt_id: 3, data_type: 0xdead, data_len: 8 }, "EOPNOTSUPP"],
  ])("%s", (_what, values, errno) => {
    const world = prepared();
    const before = world.state();
    const answer = world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1, ...values });
    expect(answer.errno).toBe(errno);
    expect(answer.reason).not.toBe("");
    expect(world.state()).toEqual(before);
  });

  it("dirty tracking needs a device that can", () => {
    const world = new World();
    world.ioas();
    world.bind(world.device("dev", { capabilities: ["cache-coherency"] }));
    expect(world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1, flags: 2 }).errno).toBe("EOPNOTSUPP");
  });

  it("leaves nothing behind when its result cannot be written", () => {
    const world = prepared();
    const before = world.state();
    expect(world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1 }, world.unwritable()).errno).toBe("EFAULT");
    expect(world.state()).toEqual(before);
  });
});

describe("linking a HWPT", () => {
  const alloc = (world: World, dev_id: number, pt_id = 1) => world.call("HWPT_ALLOC", { dev_id, pt_id });

  it("maps what is there, reserves what is outside of the aperture, and gives both back", () => {
    const world = new World();
    const ioas = world.ioas();
    world.bind(world.device("dev", { aperture: APERTURE, page: 2048 }));
    const va = world.pages(4);
    world.map(ioas, va, 0x2000, 0x1000000);
    const { out } = alloc(world, 2);
    expect(world.memory.pinnedFrames).toBe(2);
    const ranges = world.call("IOAS_IOVA_RANGES", { ioas_id: ioas, num_iovas: 1, allowed_iovas: va });
    expect(ranges.out.out_iova_alignment).toBe(2048n);
    const words = new BigUint64Array(2);
    world.process.memory.read(va, new Uint8Array(words.buffer));
    expect([...words]).toEqual([APERTURE.start, APERTURE.last]);
    expect(world.call("DESTROY", { id: out.out_hwpt_id }).errno).toBe("");
    expect(world.memory.pinnedFrames).toBe(0);
    expect(world.call("IOAS_IOVA_RANGES", { ioas_id: ioas }).out.out_iova_alignment).toBe(1n);
    expect(world.driver.domains.size).toBe(0);
  });

  it.each<[string, (world: World) => void, string]>([
    ["pages too large", (world) => world.bind(world.device("dev", { page: 65536 })), "EINVAL"],
    [
      "an area that is not aligned, before the aperture",
      (world) => {
        world.bind(world.device("dev", { aperture: APERTURE }));
        world.map(1, 0x10000, 512, 0x1000);
      },
      "EADDRINUSE",
    ],
    [
      "an area below the aperture, before memory that is not there",
      (world) => {
        world.bind(world.device("dev", { aperture: APERTURE }));
        world.map(1, 0x10000, 4096, 0xfff000);
      },
      "EADDRINUSE",
    ],
    [
      "memory that is not there, behind memory that is",
      (world) => {
        world.bind();
        world.map(1, world.pages(1), 4096, 0x1000);
        world.map(1, 0x10000, 4096, 0x3000);
      },
      "EFAULT",
    ],
  ])("fails for %s, and everything is as before", (_what, prepare, errno) => {
    const world = new World();
    world.ioas();
    prepare(world);
    const before = world.state();
    expect(alloc(world, 2).errno).toBe(errno);
    expect(world.state()).toEqual(before);
  });

  it("pins memory once, however many HWPTs show it", () => {
    const world = new World();
    world.ioas();
    world.bind();
    const va = world.pages(3);
    world.map(1, va, 0x3000, 0x1000);
    const ids = [1, 2, 3].map(() => alloc(world, 2).out.out_hwpt_id);
    const pfn = Math.floor([...world.driver.domains][0].translate(0x1000n)! / 4096);
    expect([world.memory.pinnedFrames, world.memory.pinCount(pfn)]).toEqual([3, 1]);
    for (const id of ids) {
      expect(world.memory.pinnedFrames).toBe(3);
      expect(world.call("DESTROY", { id }).errno).toBe("");
    }
    expect(world.memory.pinnedFrames).toBe(0);
  });
});

describe("closing the file", () => {
  it("gives everything back, whatever is mapped and allocated", () => {
    const world = new World();
    const [ioas, other] = [world.ioas(), world.ioas()];
    const device = world.bind();
    world.map(ioas, world.pages(8), 0x8000, 0x1000);
    world.run(device.attach(ioas));
    world.call("HWPT_ALLOC", { dev_id: device.id, pt_id: ioas, flags: 1 });
    world.call("IOAS_COPY", { flags: 6, dst_ioas_id: other, src_ioas_id: ioas, src_iova: 0x1000, length: 0x8000 });
    world.run(device.unbind());
    world.run(world.context.release());
    expect([world.memory.pinnedFrames, world.driver.domains.size, world.context.objects.isEmpty]).toEqual([0, 0, true]);
  });

  it("leaves what a bound device needs until that is unbound", () => {
    const world = new World();
    const device = world.bind();
    const ioas = world.ioas();
    world.map(ioas, world.pages(1), 0x1000, 0x1000);
    world.run(device.attach(ioas));
    world.run(world.context.release());
    expect(world.memory.pinnedFrames).toBe(1);
    world.run(device.unbind());
    expect([world.memory.pinnedFrames, world.driver.domains.size]).toEqual([0, 0]);
  });
});

describe("GET_HW_INFO", () => {
  it.each<[string, Values, string]>([
    ["unknown flags", { flags: 2, dev_id: 9 }, "EOPNOTSUPP"],
    ["no such device", { dev_id: 9 }, "ENOENT"],
    ["another driver's type", { flags: 1, data_type: 5 }, "EOPNOTSUPP"],
    ["a wild pointer", { data_len: 4, data_uptr: 8 }, "EFAULT"],
    ["a wild pointer behind the data", { data_len: 4096, data_uptr: "end" as unknown as number }, "EFAULT"],
  ])("refuses %s", (_what, values, errno) => {
    const world = prepared();
    const end = world.pages(1) + 4096 - 8;
    const patched = values.data_uptr === ("end" as unknown as number) ? { ...values, data_uptr: end } : values;
    expect(world.call("GET_HW_INFO", { dev_id: 2, ...patched }).errno).toBe(errno);
  });

  it("refuses reserved bytes", () => {
    const world = prepared();
    const bytes = new Uint8Array(40);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, 40, true);
    view.setUint32(8, 2, true);
    bytes[30] = 1;
    world.process.memory.write(world.scratch, bytes);
    expect(world.raw(0x3b8a, world.scratch).errno).toBe("EOPNOTSUPP");
  });

  it("gives the driver's bytes as far as there is room, zeros behind, and how many there are", () => {
    const world = prepared();
    const data = world.pages(1);
    world.process.memory.write(data, new Uint8Array(16).fill(0xff));
    const answer = world.call("GET_HW_INFO", { dev_id: 2, data_len: 12, data_uptr: data, flags: 1, data_type: 0xfeed });
    expect(answer).toMatchObject({ errno: "" });
    expect([answer.out.data_len, answer.out.data_type, answer.out.out_capabilities]).toEqual([8, 0xfeed, 9n]);
    const bytes = new Uint8Array(14);
    world.process.memory.read(data, bytes);
    expect([...bytes]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 255, 255]);
    expect(world.call("GET_HW_INFO", { dev_id: 2 }).out.data_len).toBe(8);
  });

  it.each([
    [0, 0n],
    [0x1, 0n],
    [0x3, 2n],
    [0x5, 4n],
    [0x7, 6n],
  ])("gives the rights of PASIDs that are enabled (control 0x%i)", (control, rights) => {
    const world = new World();
    const device = world.device("dev", { maxPasids: 2 ** 20 });
    Object.defineProperty(device, "pasidControl", { value: control });
    world.bind(device);
    expect(world.call("GET_HW_INFO", { dev_id: 1 }).out.out_capabilities).toBe(9n | rights);
    device.iommu!.maxPasids = 0;
    expect(world.call("GET_HW_INFO", { dev_id: 1 }).out.out_capabilities).toBe(9n);
  });

  it("gives the number of PASIDs", () => {
    const world = new World();
    world.bind(world.device("dev", { maxPasids: 2 ** 20 }));
    expect(world.call("GET_HW_INFO", { dev_id: 1 }).out.out_max_pasid_log2).toBe(20);
  });
});

describe("commands answer what is wrong before they look at objects", () => {
  it.each<[string, Parameters<World["call"]>[0], Values, string]>([
    ["dirty tracking: flags", "HWPT_SET_DIRTY_TRACKING", { flags: 2, hwpt_id: 9 }, "EOPNOTSUPP"],
    ["dirty tracking: no HWPT", "HWPT_SET_DIRTY_TRACKING", { flags: 1, hwpt_id: 1 }, "ENOENT"],
    ["dirty tracking: not allocated for it", "HWPT_SET_DIRTY_TRACKING", { flags: 1, hwpt_id: 3 }, "EOPNOTSUPP"],
    ["bitmap: flags", "HWPT_GET_DIRTY_BITMAP", { flags: 2, hwpt_id: 9 }, "EOPNOTSUPP"],
    ["bitmap: reserved", "HWPT_GET_DIRTY_BITMAP", { reserved: 1, hwpt_id: 9 }, "EOPNOTSUPP"],
    ["bitmap: no HWPT", "HWPT_GET_DIRTY_BITMAP", { hwpt_id: 9 }, "ENOENT"],
    ["bitmap: no length, somewhere", "HWPT_GET_DIRTY_BITMAP", { hwpt_id: 3, iova: 4096 }, "EOVERFLOW"],
    ["bitmap: wraps", "HWPT_GET_DIRTY_BITMAP", { hwpt_id: 3, iova: M, length: 2 }, "EOVERFLOW"],
    ["bitmap: alignment", "HWPT_GET_DIRTY_BITMAP", { hwpt_id: 3, iova: 0x1800, length: 0x800 }, "EINVAL"],
    ["bitmap: no page size", "HWPT_GET_DIRTY_BITMAP", { hwpt_id: 3, iova: 0x1000, length: 0x1000 }, "EINVAL"],
    [
      "bitmap: page size",
      "HWPT_GET_DIRTY_BITMAP",
      { hwpt_id: 3, iova: 0x1000, length: 0x1000, page_size: 0x2000 },
      "EINVAL",
    ],
    [
      "bitmap: not allocated for it",
      "HWPT_GET_DIRTY_BITMAP",
      { hwpt_id: 3, iova: 0x1000, length: 0x1000, page_size: 3000 },
      "EOPNOTSUPP",
    ],
    ["invalidate: reserved", "HWPT_INVALIDATE", { reserved: 1, entry_num: 5 }, "EOPNOTSUPP"],
    ["invalidate: no pointer", "HWPT_INVALIDATE", { entry_num: 1, entry_len: 8, hwpt_id: 9 }, "EINVAL"],
    [
      "invalidate: too many",
      "HWPT_INVALIDATE",
      { entry_num: 2 ** 19 + 1, entry_len: 8, data_uptr: 8, hwpt_id: 9 },
      "EINVAL",
    ],
    ["invalidate: no object", "HWPT_INVALIDATE", { entry_num: 1, entry_len: 8, data_uptr: 8, hwpt_id: 9 }, "ENOENT"],
    [
      "invalidate: a paging HWPT",
      "HWPT_INVALIDATE",
      { entry_num: 1, entry_len: 8, data_uptr: 8, hwpt_id: 3 },
      "EINVAL",
    ],
    ["fault queue: flags", "FAULT_QUEUE_ALLOC", { flags: 1 }, "EOPNOTSUPP"],
    ["viommu: flags", "VIOMMU_ALLOC", { flags: 1, dev_id: 9 }, "EOPNOTSUPP"],
    ["viommu: type 0", "VIOMMU_ALLOC", { dev_id: 9 }, "EOPNOTSUPP"],
    ["viommu: no device", "VIOMMU_ALLOC", { type: 1, dev_id: 9 }, "ENOENT"],
    ["viommu: a driver without", "VIOMMU_ALLOC", { type: 1, dev_id: 2 }, "EOPNOTSUPP"],
    ["vdevice: no viommu", "VDEVICE_ALLOC", { viommu_id: 3, dev_id: 9 }, "ENOENT"],
    ["veventq: reserved", "VEVENTQ_ALLOC", { reserved: 1, type: 1 }, "EOPNOTSUPP"],
    ["veventq: type 0", "VEVENTQ_ALLOC", {}, "EOPNOTSUPP"],
    ["veventq: depth", "VEVENTQ_ALLOC", { type: 1, veventq_depth: 2 ** 19 + 1 }, "EINVAL"],
    ["veventq: no viommu", "VEVENTQ_ALLOC", { type: 1, veventq_depth: 2 ** 19, viommu_id: 9 }, "ENOENT"],
    ["hw queue: type 0", "HW_QUEUE_ALLOC", { length: 1 }, "EOPNOTSUPP"],
    ["hw queue: no length", "HW_QUEUE_ALLOC", { type: 1 }, "EINVAL"],
    ["hw queue: wraps", "HW_QUEUE_ALLOC", { type: 1, length: 2, nesting_parent_iova: M }, "EOVERFLOW"],
    ["hw queue: no viommu", "HW_QUEUE_ALLOC", { type: 1, length: 1, viommu_id: 9 }, "ENOENT"],
  ])("%s", (_what, name, values, errno) => {
    const world = prepared();
    const before = world.state();
    const answer = world.call(name, values);
    expect(answer.errno).toBe(errno);
    expect(world.state()).toEqual(before);
    if (name === "HWPT_INVALIDATE") expect((answer.out as { entry_num: number }).entry_num).toBe(0);
  });
});

describe("other numbers", () => {
  it.each([0x3b67, 0x3b75, 0x3b95, 0x3b9f, 0x3ba0, 0x3bff, 0x3b00, 0xc0283b85])("0x%s is ENOTTY", (request) => {
    const world = new World();
    expect(world.raw(request, world.scratch).errno).toBe("ENOTTY");
  });
});
