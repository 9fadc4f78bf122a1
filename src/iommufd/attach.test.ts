import { describe, expect, it } from "vitest";
import { IommufdContext, type IommufdOptions } from "./context.ts";
import { devicesUsers } from "./device.ts";
import type { PagingHwpt } from "./hwpt.ts";
import { type FakeTraits, World } from "./world.test-support.ts";

const PASID = 8;
const PARENT = 1;
const regions = [
  { start: 0x8000000n, last: 0x80fffffn, type: "software-msi" as const },
  { start: 0x9000000n, last: 0x9000fffn, type: "direct-relaxable" as const },
];

function alloc(world: World, dev_id: number, pt_id: number, flags = 0): number {
  const { errno, out } = world.call("HWPT_ALLOC", { dev_id, pt_id, flags });
  expect(errno).toBe("");
  return out.out_hwpt_id;
}

function usable(world: World, ioas: number): [bigint, bigint][] {
  const { space } = world.context.objects.any(ioas) as import("./ioas.ts").Ioas;
  return space.usableRanges().map(({ start, last }) => [start, last]);
}

describe("binding", () => {
  it.each<[string, FakeTraits, Partial<IommufdOptions>, string]>([
    ["no cache coherency", { capabilities: [] }, {}, "EINVAL"],
    ["interrupts that are not isolated", {}, { interruptsIsolated: () => false }, "EPERM"],
    ["interrupts, unless that is allowed", {}, { interruptsIsolated: () => false, allowUnsafeInterrupts: true }, ""],
  ])("%s", (_what, traits, options, errno) => {
    const world = new World(options);
    const device = world.device("dev", traits);
    const before = world.state();
    expect(world.errnoOf(world.context.bindDevice(world.process, device, { label: "test" }))).toBe(errno);
    if (errno !== "") expect(world.state()).toEqual(before);
  });

  it("is for one context at a time, and for all devices of a group by the same", () => {
    const world = new World();
    const [a, b] = [world.device("a", { group: "g" }), world.device("b", { group: "g" })];
    const other = new IommufdContext(world.system, world.core, { memory: world.memory });
    const first = world.bind(a);
    expect(world.errnoOf(other.bindDevice(world.process, b, { label: "test" }))).toBe("EPERM");
    const second = world.bind(b);
    expect([first.id, second.id]).toEqual([1, 2]);
    world.run(first.unbind());
    world.run(second.unbind());
    expect(world.context.igroups.size).toBe(0);
    expect(a.group!.domain).toBe(world.driver.identityDomain);
  });
});

describe("attach", () => {
  it("finds neither what is not there nor what is no page table", () => {
    const world = new World();
    const device = world.bind();
    expect(world.errnoOf(device.attach(9))).toBe("ENOENT");
    expect(world.errnoOf(device.attach(device.id))).toBe("EINVAL");
    expect(world.errnoOf(device.replace(9))).toBe("ENOENT");
  });

  it("to an IOAS makes one automatic HWPT and shares it", () => {
    const world = new World();
    const ioas = world.ioas();
    const [a, b] = [world.bind(), world.bind()];
    expect(world.run(a.attach(ioas))).toBe(4);
    expect(world.run(b.attach(ioas))).toBe(4);
    expect(devicesUsers(a.hwpt() as PagingHwpt)).toBe(3);
    expect(world.context.objects.any(4).users.holders()).toEqual(["device 2 (dev0)", "device 3 (dev1)"]);
    world.run(a.detach());
    expect(world.errnoOf(world.context.objects.destroy(4))).toBe("EBUSY");
    world.run(b.detach());
    expect(world.errnoOf(world.context.objects.destroy(4))).toBe("ENOENT");
    expect(world.driver.domains.size).toBe(0);
  });

  it("to an IOAS never takes a HWPT that was made by hand, but an automatic one by id works", () => {
    const world = new World();
    const ioas = world.ioas();
    const [a, b] = [world.bind(), world.bind()];
    const manual = alloc(world, a.id, ioas);
    expect(world.run(a.attach(ioas))).toBe(manual + 1);
    expect(world.run(b.attach(manual + 1))).toBe(manual + 1);
  });

  it("goes to the next HWPT only after EINVAL; any other error ends the search", () => {
    const world = new World();
    const ioas = world.ioas();
    const [a, b] = [world.bind(), world.bind()];
    const first = world.run(a.attach(ioas));
    world.driver.refuses = (device, domain) => device === b.device && domain === (a.hwpt() as PagingHwpt).domain;
    expect(world.run(b.attach(ioas))).toBe(first + 1);
    world.run(b.detach());
    world.driver.refuses = () => false;
    world.system.failures.inject((name) => name === "fake.domain.attach");
    const before = world.state();
    expect(world.errnoOf(b.attach(ioas))).toBe("ENOMEM");
    expect(world.state()).toEqual(before);
  });

  it("twice is EBUSY; of another group member to another HWPT EINVAL", () => {
    const world = new World();
    const ioas = world.ioas();
    const [a, b] = ["a", "b"].map((name) => world.bind(world.device(name, { group: "g" })));
    const [one, two] = [alloc(world, a.id, ioas), alloc(world, a.id, ioas)];
    world.run(a.attach(one));
    expect(world.errnoOf(a.attach(two))).toBe("EBUSY");
    expect(world.errnoOf(b.attach(two))).toBe("EINVAL");
    const before = world.state();
    expect(world.errnoOf(b.attach(ioas))).toBe("EINVAL");
    expect(world.state()).toEqual(before);
    expect(world.run(b.attach(one))).toBe(one);
    world.run(a.detach());
    expect(b.attached).toBe(true);
    expect(a.device.group!.domain!.label).toBe(b.hwpt()!.domain.label);
  });

  it("reserves the device's regions in the IOAS, and refuses where something is mapped", () => {
    const world = new World();
    const [ioas, taken] = [world.ioas(), world.ioas()];
    const device = world.bind(world.device("dev", { regions }));
    world.map(taken, world.pages(1), 0x1000, 0x8000000);
    const before = world.state();
    expect(world.errnoOf(device.attach(taken))).toBe("EADDRINUSE");
    expect(world.state()).toEqual(before);
    world.run(device.attach(ioas));
    expect(usable(world, ioas)).toEqual([
      [0n, 0x7ffffffn],
      [0x8100000n, 2n ** 48n - 1n],
    ]);
    world.run(device.detach());
    expect(usable(world, ioas)).toEqual([[0n, 2n ** 64n - 1n]]);
  });

  it("attaches first and links then: the attach's error wins", () => {
    const world = new World();
    const ioas = world.ioas();
    world.map(ioas, 0x10000, 0x1000, 0x1000);
    const device = world.bind();
    const before = world.state();
    expect(world.errnoOf(device.attach(ioas))).toBe("EFAULT");
    expect(world.state()).toEqual(before);
    world.driver.refuses = (_device, domain) => domain.type === "unmanaged";
    expect(world.errnoOf(device.attach(ioas))).toBe("EINVAL");
    world.driver.refuses = () => false;
    expect(world.state()).toEqual(before);
  });
});

describe("replace", () => {
  it("needs an attachment; its link comes first", () => {
    const world = new World();
    const [good, bad] = [world.ioas(), world.ioas()];
    world.map(bad, 0x10000, 0x1000, 0x1000);
    const device = world.bind();
    const before = world.state();
    expect(world.errnoOf(device.replace(good))).toBe("EINVAL");
    expect(world.errnoOf(device.replace(bad))).toBe("EFAULT");
    expect(world.state()).toEqual(before);
  });

  it("to the same HWPT, or the IOAS it is on, changes nothing", () => {
    const world = new World();
    const ioas = world.ioas();
    const device = world.bind();
    const hwpt = world.run(device.attach(ioas));
    const before = world.state();
    expect(world.run(device.replace(hwpt))).toBe(hwpt);
    expect(world.run(device.replace(ioas))).toBe(hwpt);
    expect(world.state()).toEqual(before);
  });

  it("moves the whole group, and an automatic HWPT goes only after the new one got its id", () => {
    const world = new World();
    const [one, two] = [world.ioas(), world.ioas()];
    const [a, b] = ["a", "b"].map((name) => world.bind(world.device(name, { group: "g", regions })));
    const old = world.run(a.attach(one));
    world.run(b.attach(one));
    expect(world.run(a.replace(two))).toBe(old + 1);
    expect(b.hwpt()!.id).toBe(old + 1);
    expect(world.errnoOf(world.context.objects.destroy(old))).toBe("ENOENT");
    expect(usable(world, one)).toEqual([[0n, 2n ** 64n - 1n]]);
    expect(usable(world, two)).toHaveLength(2);
    expect(world.context.objects.any(old + 1).users.count).toBe(2);
    expect(world.ioas()).toBe(old);
  });

  it.each(["another IOAS", "the same IOAS"])("that fails in %s leaves HWPT, users and reservations", (where) => {
    const world = new World();
    const [one, two] = [world.ioas(), world.ioas()];
    const device = world.bind(world.device("dev", { regions }));
    world.run(device.attach(one));
    const target = alloc(world, device.id, where === "the same IOAS" ? one : two);
    const before = world.state();
    world.system.failures.inject((name) => name === "fake.domain.attach");
    expect(world.errnoOf(device.replace(target))).toBe("ENOMEM");
    expect(world.state()).toEqual(before);
  });

  it("refuses an IOAS where a group member's region is mapped", () => {
    const world = new World();
    const [one, two] = [world.ioas(), world.ioas()];
    const device = world.bind(world.device("dev", { regions }));
    world.run(device.attach(one));
    const target = alloc(world, device.id, two);
    world.map(two, world.pages(1), 0x1000, 0x80ff000);
    const before = world.state();
    expect(world.errnoOf(device.replace(target))).toBe("EADDRINUSE");
    expect(world.state()).toEqual(before);
  });
});

describe("detach", () => {
  it("of what is not attached does nothing; otherwise the group is blocked", () => {
    const world = new World();
    const device = world.bind();
    world.run(device.detach());
    world.run(device.detach(5));
    world.run(device.attach(world.ioas()));
    world.run(device.detach());
    expect(device.device.group!.domain).toBe(world.driver.blockedDomain);
    expect(device.users.holders()).toEqual(["its driver"]);
  });
});

describe("PASIDs", () => {
  function pasidWorld(maxPasids = 64) {
    const world = new World();
    const ioas = world.ioas();
    const device = world.bind(world.device("dev", { maxPasids }));
    const compatible = alloc(world, device.id, ioas, PASID);
    const plain = alloc(world, device.id, ioas, PARENT);
    return { world, ioas, device, compatible, plain };
  }

  it("need HWPTs that were allocated for them, on the RID too", () => {
    const { world, device, compatible, plain } = pasidWorld();
    expect(world.errnoOf(device.attach(plain, 1))).toBe("EINVAL");
    expect(world.run(device.attach(compatible, 1))).toBe(compatible);
    expect(world.errnoOf(device.attach(compatible, 1))).toBe("EBUSY");
    expect(world.errnoOf(device.attach(plain))).toBe("EINVAL");
    world.run(device.attach(compatible));
    expect(world.errnoOf(device.replace(plain))).toBe("EINVAL");
    world.run(device.detach(1));
    expect(world.run(device.replace(plain))).toBe(plain);
    expect(world.errnoOf(device.attach(compatible, 1))).toBe("EINVAL");
  });

  it("never fit an automatic HWPT, and have limits", () => {
    const { world, ioas, device, compatible } = pasidWorld();
    const before = world.state();
    expect(world.errnoOf(device.attach(ioas, 1))).toBe("EINVAL");
    expect(world.errnoOf(device.attach(compatible, 64))).toBe("EINVAL");
    expect(world.state()).toEqual(before);
    expect(world.errnoOf(device.attach(compatible, 63))).toBe("");
    expect(world.driver.attached.get("dev/63")).toBe(device.hwpt(63)!.domain);
    world.run(device.unbind());
    expect(world.driver.attached.get("dev/63")).toBe(world.driver.blockedDomain);
  });

  it("of a device without any succeed and do nothing", () => {
    const { world, device, compatible } = pasidWorld(0);
    expect(world.run(device.attach(compatible, 77))).toBe(compatible);
    expect(world.driver.attached.has("dev/77")).toBe(false);
  });

  it("can be replaced; a failure keeps the old one", () => {
    const { world, ioas, device, compatible } = pasidWorld();
    const other = alloc(world, device.id, ioas, PASID);
    expect(world.errnoOf(device.replace(other, 3))).toBe("EINVAL");
    world.run(device.attach(compatible, 3));
    const before = world.state();
    world.system.failures.inject((name) => name === "fake.domain.attach");
    expect(world.errnoOf(device.replace(other, 3))).toBe("ENOMEM");
    world.system.failures.inject(undefined);
    expect(world.state()).toEqual(before);
    expect(world.run(device.replace(other, 3))).toBe(other);
    expect(world.call("DESTROY", { id: compatible }).errno).toBe("");
  });

  it("are not supported where the driver has no operation for them", () => {
    const { world, device, compatible } = pasidWorld();
    const { domain } = world.context.objects.any(compatible) as PagingHwpt;
    (domain as { setDevicePasid?: unknown }).setDevicePasid = undefined;
    expect(world.errnoOf(device.attach(compatible, 1))).toBe("EOPNOTSUPP");
  });
});
