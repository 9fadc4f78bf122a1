import { describe, expect, it } from "vitest";
import { devicesUsers } from "./device.ts";
import { type FakeNested, GUEST, GuestWorld } from "./guest.test-support.ts";
import { PagingHwpt } from "./hwpt.ts";
import { NestedHwpt } from "./nested-hwpt.ts";
import type { Values } from "./world.test-support.ts";

const PASID = 8;

function parentOf(world: GuestWorld): PagingHwpt {
  return world.context.objects.find(3, PagingHwpt);
}

function usersOf(world: GuestWorld, id: number): number {
  return world.context.objects.any(id).users.count;
}

/** As the guest world, with a viommu 4, an automatic HWPT 5, a plain paging HWPT 6 and a device 7 behind the same IOMMU. */
function furnished(): GuestWorld {
  const world = new GuestWorld();
  expect(world.viommu()).toBe(4);
  expect(world.run(world.bound.attach(1))).toBe(5);
  expect(world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 1 }).out.out_hwpt_id).toBe(6);
  expect(world.bind(world.device("other")).id).toBe(7);
  return world;
}

describe("a nested HWPT is refused, in this order:", () => {
  const data = { data_type: GUEST, data_len: 1 };
  it.each<[string, Values, string]>([
    ["flags of paging HWPTs", { ...data, flags: 1, pt_id: 5 }, "EOPNOTSUPP"],
    ["no data", { pt_id: 5 }, "EOPNOTSUPP"],
    ["on an automatic HWPT", { ...data, pt_id: 5 }, "EINVAL"],
    ["on a HWPT that is no nest parent", { ...data, pt_id: 6 }, "EINVAL"],
    ["on a nested HWPT", { ...data, pt_id: 8 }, "EINVAL"],
    ["data of another type", { ...data, data_type: 1 }, "EOPNOTSUPP"],
    ["too much data", { ...data, data_len: 2 }, "EINVAL"],
    ["data that cannot be read", { ...data, data_uptr: 8 }, "EFAULT"],
    ["no fault queue", { ...data, flags: 4, fault_id: 1 }, "ENOENT"],
    ["by a viommu: flags of paging HWPTs", { ...data, pt_id: 4, flags: 2 }, "EOPNOTSUPP"],
    ["by a viommu: no data", { pt_id: 4 }, "EOPNOTSUPP"],
    ["by a viommu: data of another type", { ...data, pt_id: 4, data_type: 1 }, "EOPNOTSUPP"],
    ["by a viommu: no fault queue", { ...data, pt_id: 4, flags: 4 | PASID, fault_id: 3 }, "ENOENT"],
  ])("%s", (_what, values, errno) => {
    const world = furnished();
    expect(world.nest()).toBe(8);
    const before = world.state();
    const answer = world.call("HWPT_ALLOC", { dev_id: 2, pt_id: 3, data_uptr: world.data, ...values });
    expect([answer.errno, world.state()]).toEqual([errno, before]);
    expect(answer.reason).not.toBe("");
  });

  it.each([3, 4])("leaves nothing behind when its result cannot be written (on %i)", (pt_id) => {
    const world = furnished();
    const before = world.state();
    const values = { dev_id: 2, pt_id, data_type: GUEST, data_len: 1, data_uptr: world.data };
    expect(world.call("HWPT_ALLOC", values, world.unwritable()).errno).toBe("EFAULT");
    expect(world.state()).toEqual(before);
  });

  it("where the driver has no nested domains", () => {
    const world = furnished();
    const driver = world.guests as { allocateNested: unknown };
    driver.allocateNested = undefined;
    const values = { dev_id: 2, pt_id: 5, data_type: GUEST, data_len: 1, data_uptr: world.data };
    expect(world.call("HWPT_ALLOC", values).errno).toBe("EOPNOTSUPP");
  });

  it("by a viommu of another IOMMU", () => {
    const world = furnished();
    const instance = { name: "fake1", driver: world.driver, maxPasids: 0 };
    world.run(world.core.register(instance));
    const foreign = world.bind(world.deviceBehind("fake1", "foreign"));
    const values = { dev_id: foreign.id, data_type: GUEST, data_len: 1, data_uptr: world.data };
    expect(world.call("HWPT_ALLOC", { ...values, pt_id: 4, flags: 1 }).errno).toBe("EINVAL");
    expect(world.call("HWPT_ALLOC", { ...values, pt_id: 3 }).errno).toBe("");
  });
});

describe("a nested HWPT", () => {
  it("keeps its parent, whichever way it was made", () => {
    const world = new GuestWorld();
    const viommu = world.viommu();
    const [direct, byViommu] = [world.nest(3), world.nest(viommu)];
    expect([usersOf(world, 3), usersOf(world, viommu)]).toEqual([2, 1]);
    for (const id of [3, viommu]) expect(world.call("DESTROY", { id }).errno).toBe("EBUSY");
    for (const id of [byViommu, viommu, direct, 3]) expect(world.call("DESTROY", { id }).errno).toBe("");
    expect(world.guests.nested.size + world.guests.viommus.size + world.driver.domains.size).toBe(0);
  });

  it("leaves its parent linked once, whoever comes and goes (seed 000)", () => {
    const world = new GuestWorld();
    const va = world.pages(4);
    world.map(1, va, 0x4000, 0x10000);
    const parent = parentOf(world);
    const shown = (): unknown => (parent.domain as unknown as { leaves: unknown[] }).leaves.slice();
    const before = shown();
    const second = world.bind(world.device("second"));
    const nested = [world.nest(), world.nest(3, { dev_id: second.id })];
    const { bound } = world;
    const steps: [() => void, number][] = [
      [() => world.run(bound.attach(nested[0])), 2],
      [() => world.run(second.attach(nested[1])), 3],
      [() => world.run(bound.replace(3)), 3],
      [() => world.run(second.replace(3)), 3],
      [() => world.run(bound.detach()), 2],
      [() => world.run(second.replace(nested[0])), 2],
      [() => world.run(second.detach()), 1],
    ];
    for (const [step, users] of steps) {
      step();
      expect([devicesUsers(parent), shown(), parent.ioas.hwpts]).toEqual([users, before, [parent]]);
    }
    // What is mapped now is in the parent, whose IOAS no device reserves anything in.
    expect(world.map(1, va, 0x1000, 0x90000).errno).toBe("");
    expect((parent.domain as unknown as { leaves: unknown[] }).leaves.length).toBe(2);
  });

  it("takes the place of its parent, and gives it back, without a moment between (seed 001)", () => {
    const world = new GuestWorld();
    const nested = world.nest();
    world.run(world.bound.attach(1));
    const automatic = world.bound.hwpt()!.id;
    expect(world.run(world.bound.replace(nested))).toBe(nested);
    expect(world.call("DESTROY", { id: automatic }).errno).toBe("ENOENT");
    expect(usersOf(world, nested)).toBe(1);
    expect(world.call("DESTROY", { id: nested }).errno).toBe("EBUSY");
    const before = world.state();
    world.guests.refuses = (_device, domain) => domain === parentOf(world).domain;
    expect(world.errnoOf(world.bound.replace(3))).toBe("EINVAL");
    expect(world.state()).toEqual(before);
    world.guests.refuses = () => false;
    expect(world.run(world.bound.replace(3))).toBe(3);
    expect(world.call("DESTROY", { id: nested }).errno).toBe("");
  });

  it("reserves a device's regions in its parent's IOAS", () => {
    const world = new GuestWorld();
    const regions = [{ start: 0x8000000n, last: 0x80fffffn, type: "msi" as const }];
    const device = world.bind(world.device("msi", { regions }));
    const nested = world.nest(3, { dev_id: device.id });
    const reserved = () => world.call("IOAS_IOVA_RANGES", { ioas_id: 1 }).out.num_iovas;
    const before = reserved();
    world.run(device.attach(nested));
    expect(reserved()).toBe(before + 1);
    world.run(device.replace(3));
    expect(reserved()).toBe(before + 1);
    world.run(device.detach());
    expect(reserved()).toBe(before);
  });

  it("of a viommu wants a vdevice of each device that comes, and says so even to a search", () => {
    const world = new GuestWorld();
    const viommu = world.viommu();
    const nested = world.nest(viommu);
    expect(world.errnoOf(world.bound.attach(nested))).toBe("ENOENT");
    const vdevice = world.vdevice(viommu, 5);
    expect(world.run(world.bound.attach(nested))).toBe(nested);
    expect(world.call("DESTROY", { id: vdevice }).errno).toBe("");
    expect(world.bound.attached).toBe(true);
  });

  it("can be for PASIDs, if it was made so", () => {
    const world = new GuestWorld();
    const [plain, forPasids] = [world.nest(), world.nest(3, { flags: PASID })];
    expect(world.errnoOf(world.bound.attach(plain, 5))).toBe("EINVAL");
    expect(world.run(world.bound.attach(forPasids, 5))).toBe(forPasids);
    expect(usersOf(world, forPasids)).toBe(1);
    world.run(world.bound.detach(5));
  });
});

describe("HWPT_INVALIDATE", () => {
  const invalidate = (world: GuestWorld, hwpt_id: number, entries: number[][], more: Values = {}) => {
    const at = world.data + 0x100;
    world.process.memory.write(at, new Uint8Array(entries.flat()));
    const values = { hwpt_id, data_uptr: at, data_type: GUEST, entry_len: entries[0]?.length ?? 0 };
    const { errno, out } = world.call("HWPT_INVALIDATE", { ...values, entry_num: entries.length, ...more });
    return [errno, out.entry_num];
  };

  it.each<[string, number[][], Values, string, number]>([
    [
      "whole entries",
      [
        [0, 1],
        [0, 2],
      ],
      {},
      "",
      2,
    ],
    ["nothing, with a good type", [], {}, "", 0],
    ["nothing, with a bad type", [], { data_type: 5 }, "EINVAL", 0],
    ["shorter entries, extended with zeros", [[0], [0], [0]], {}, "", 3],
    ["longer entries that are zero behind", [[0, 9, 0, 0]], {}, "", 1],
    [
      "longer entries that are not",
      [
        [0, 9, 0, 0],
        [0, 9, 0, 1],
      ],
      {},
      "E2BIG",
      1,
    ],
    [
      "up to the first bad one",
      [
        [0, 1],
        [1, 1],
        [0, 1],
      ],
      {},
      "EINVAL",
      1,
    ],
    ["an array that ends", [[0, 1]], { data_uptr: 8 }, "EFAULT", 0],
    ["entries longer than a page", [[0, 1]], { entry_len: 4097 }, "EINVAL", 0],
  ])("%s", (_what, entries, more, errno, done) => {
    const world = new GuestWorld();
    const nested = world.nest();
    expect(invalidate(world, nested, entries, more)).toEqual([errno, done]);
    const { cached } = world.context.objects.find(nested, NestedHwpt).domain as FakeNested;
    expect(cached).toBe(done > 0 ? 0 : 42);
  });

  it("is the viommu's business where that is named", () => {
    const world = new GuestWorld();
    const viommu = world.viommu();
    expect(invalidate(world, viommu, [[1], [2]])).toEqual(["", 2]);
  });

  it("is nobody's where the driver has no such operation", () => {
    const world = new GuestWorld();
    const [viommu, nested] = [world.viommu(), world.nest()];
    const { domain } = world.context.objects.find(nested, NestedHwpt);
    (domain as { invalidate: unknown }).invalidate = undefined;
    for (const fake of world.guests.viommus) (fake as { invalidate: unknown }).invalidate = undefined;
    for (const id of [viommu, nested]) expect(invalidate(world, id, [[0]])).toEqual(["EOPNOTSUPP", 0]);
  });
});
