import { describe, expect, it } from "vitest";
import { CAP_SYS_ADMIN, CAP_SYS_RAWIO, type Process } from "../memory/index.ts";
import { EACCES, EBUSY, EINVAL, ENOMEM, EOPNOTSUPP, EPERM, refuse } from "../runtime/index.ts";
import { createGroup } from "./external.ts";
import { type FakePagingDomain, FakeStaticDomain } from "./fake-driver.test-support.ts";
import { type Group, groupOf } from "./group.ts";
import { groupNodes } from "./sysfs.ts";
import { setUp, withTwoInOneGroup } from "./world.test-support.ts";

type World = ReturnType<typeof setUp>;

/** `type` of a group as a client reads and writes it: without `capability`, if given. */
function typeFile({ core, run, errno }: World, group: Group) {
  const node = () => {
    const node = groupNodes(core, ({ name }) => `/sys/devices/${name}`).get(
      `/sys/kernel/iommu_groups/${group.id}/type`,
    );
    if (node?.kind !== "text" || node.write === undefined) throw new Error("no such text");
    return { read: node.read, write: node.write };
  };
  const client = (without?: number): Process =>
    ({ label: "a client", capable: (capability: number) => capability !== without }) as unknown as Process;
  const store = (text: string, without?: number) => node().write(client(without), new TextEncoder().encode(text));
  return {
    read: (): string => String(node().read()),
    write: (text: string, without?: number): void => run(store(text, without)),
    errno: (text: string, without?: number): number | undefined => errno(store(text, without)),
  };
}

function alone(options: Parameters<typeof setUp>[0] = {}, more: Parameters<World["device"]>[2] = {}) {
  const world = setUp(options);
  world.run(world.core.register(world.instance));
  const device = world.device("a", "iommu0", more);
  return {
    ...world,
    a: device,
    probe: () => world.run(world.core.probe(device)),
    file: () => typeFile(world, device.group!),
  };
}

describe("the type of a default domain", () => {
  it.each([
    ["identity", "identity\n"],
    ["dma", "DMA\n"],
    ["dma-fq", "DMA-FQ\n"],
  ] as const)("is what the machine says: %s", (defaultDomain, text) => {
    const { probe, file } = alone({ defaultDomain });
    probe();
    expect(file().read()).toBe(text);
  });

  it("is strict where the driver cannot put off invalidations", () => {
    const { probe, file, driver } = alone({ defaultDomain: "dma-fq" });
    driver.capable = (_, capability) => capability !== "deferred-flush";
    probe();
    expect(file().read()).toBe("DMA\n");
  });

  it("is what a device needs, whatever the machine says", () => {
    const { probe, file } = alone({ defaultDomain: "dma" }, { defaultDomain: "identity" });
    probe();
    expect(file().read()).toBe("identity\n");
    expect(file().errno("DMA")).toBe(EINVAL);
  });

  it("is DMA for a device that is not trusted", () => {
    const { probe, file } = alone({ defaultDomain: "identity" }, { untrusted: true });
    probe();
    expect(file().read()).toBe("DMA\n");
    expect(file().errno("identity")).toBe(EINVAL);
    file().write("auto");
    expect(file().read()).toBe("DMA\n");
  });

  it("cannot be had for an untrusted device that needs identity", () => {
    const { core, errno, a, driver } = alone({}, { untrusted: true, defaultDomain: "identity" });
    expect(errno(core.probe(a))).toBe(EINVAL);
    expect([a.group, core.groups.size, driver.domains.size, driver.probed.size]).toEqual([undefined, 0, 0, 0]);
  });

  it("is DMA where what the machine says cannot be had", () => {
    const { probe, file, driver } = alone({ defaultDomain: "identity" });
    driver.identityDomain = undefined;
    probe();
    expect(file().read()).toBe("DMA\n");
    expect(file().errno("identity")).toBe(EOPNOTSUPP);
  });

  it("is the driver's own where that has only one", () => {
    const { probe, file, driver } = alone();
    driver.defaultDomain = driver.blockedDomain;
    probe();
    expect(file().read()).toBe("blocked\n");
    expect(file().errno("identity")).toBe(EINVAL);
    file().write("auto");
    expect(file().read()).toBe("blocked\n");
  });

  it("is allocated fit for PASIDs, or else without", () => {
    const { probe, driver } = alone();
    const flags: number[] = [];
    const { allocatePaging } = driver;
    driver.allocatePaging = function* (_device, given) {
      flags.push(given!);
      if (given !== 0) refuse(EOPNOTSUPP, () => "no PASIDs");
      return yield* allocatePaging.call(driver);
    };
    probe();
    expect(flags).toEqual([8, 0]);
  });
});

describe("writing the type", () => {
  it("moves the members to a new default domain and frees the old one", () => {
    const world = withTwoInOneGroup();
    const { group, driver, on } = world;
    const file = typeFile(world, group);
    const [old] = driver.domains;
    file.write("identity\n");
    expect(on()).toEqual([driver.identityDomain, driver.identityDomain]);
    expect([file.read(), driver.domains.size]).toEqual(["identity\n", 0]);
    file.write("DMA");
    expect(file.read()).toBe("DMA\n");
    expect(group.defaultDomain).not.toBe(old);
    expect(on()).toEqual([group.defaultDomain, group.defaultDomain]);
    file.write("DMA-FQ");
    expect(file.read()).toBe("DMA-FQ\n");
    file.write("auto");
    expect([file.read(), driver.domains.size]).toEqual(["DMA\n", 1]);
  });

  /** As Linux 7.2 answers, asked with VT-d. */
  it.each([
    ["identity\n", undefined],
    ["DMA\0", undefined],
    ["DMA-FQ\0junk", undefined],
    ["auto\n\0", undefined],
    ["dma\n", EINVAL],
    ["Identity", EINVAL],
    ["blocked", EINVAL],
    ["unmanaged", EINVAL],
    ["identity \n", EINVAL],
    ["identity\n\n", EINVAL],
    [" identity", EINVAL],
    ["\n", EINVAL],
    ["DMA\nx", EINVAL],
    ["toString", EINVAL],
  ])("%j answers errno %s", (text, errno) => {
    const world = withTwoInOneGroup();
    expect(typeFile(world, world.group).errno(text)).toBe(errno);
  });

  it("needs both capabilities, before anything else counts", () => {
    const world = withTwoInOneGroup();
    const file = typeFile(world, world.group);
    for (const capability of [CAP_SYS_ADMIN, CAP_SYS_RAWIO]) {
      expect(file.errno("identity", capability)).toBe(EACCES);
      expect(file.errno("nonsense", capability)).toBe(EACCES);
    }
    expect(file.read()).toBe("DMA\n");
  });

  it("is refused while somebody uses the group, but for DMA-FQ on DMA", () => {
    const world = withTwoInOneGroup();
    const { run, a, group } = world;
    const file = typeFile(world, group);
    for (const use of [group.useDefaultDomain(a), group.claim(a, {})]) {
      run(use);
      expect(["identity", "DMA", "auto"].map((text) => file.errno(text))).toEqual([EPERM, EPERM, EPERM]);
      const before = group.defaultDomain;
      file.write("DMA-FQ");
      expect([file.read(), group.defaultDomain]).toEqual(["DMA-FQ\n", before]);
      expect(file.errno("DMA-FQ")).toBe(EPERM);
      run(group.owner === undefined ? group.unuseDefaultDomain() : group.disclaim(a));
      file.write("DMA");
    }
  });

  it("is refused for a group without a default domain", () => {
    const world = setUp();
    const group = createGroup(world.core, "a test", "vfio-noiommu");
    const file = typeFile(world, group);
    expect([file.read(), file.errno("identity")]).toEqual(["unknown\n", EINVAL]);
    world.core.putGroup(group, "a test");
  });

  it("leaves everything as it was if a member refuses the new domain", () => {
    const world = withTwoInOneGroup();
    const { group, driver, b, on } = world;
    const before = [...on(), group.domain, group.defaultDomain, driver.domains.size];
    const old = group.defaultDomain;
    driver.refuses = (device, to) => device === b && to !== old;
    const file = typeFile(world, group);
    for (const type of ["identity", "DMA"]) expect(file.errno(type)).toBe(EINVAL);
    driver.refuses = (device, to) => device === b && to.type === "identity";
    expect(file.errno("identity")).toBe(EINVAL);
    expect([...on(), group.domain, group.defaultDomain, driver.domains.size]).toEqual(before);
  });
});

describe("direct regions", () => {
  const direct = { start: 0x3000n, last: 0x4fffn, type: "direct" } as const;

  it("are mapped in every default domain before members come to it", () => {
    const world = withTwoInOneGroup();
    const { driver, group, a } = world;
    driver.regions = () => [direct];
    const seen: number[] = [];
    driver.refuses = (_, domain) => {
      if (domain.type === "dma") seen.push((domain as FakePagingDomain).pages.size);
      return false;
    };
    const file = typeFile(world, group);
    file.write("identity");
    expect(a.iommu!.requireDirect).toBe(true);
    file.write("DMA");
    expect(seen).toEqual([2, 2]);
  });

  it("are mapped after the attach where the driver wants that", () => {
    const world = withTwoInOneGroup();
    const { driver, group } = world;
    driver.regions = () => [direct];
    driver.mapsOnlyAttached = true;
    typeFile(world, group).write("DMA");
    expect((group.defaultDomain as FakePagingDomain).pages.size).toBe(2);
  });

  it("that cannot be mapped leave the old default domain", () => {
    const world = withTwoInOneGroup();
    const { driver, group, on } = world;
    const before = [...on(), group.defaultDomain, driver.domains.size];
    driver.regions = () => [direct];
    driver.mapsOnlyAttached = "never";
    expect(typeFile(world, group).errno("DMA")).toBe(ENOMEM);
    expect([...on(), group.defaultDomain, driver.domains.size]).toEqual(before);
  });

  it("of a device that joins and is refused are unmapped again", () => {
    const world = withTwoInOneGroup();
    const { core, driver, group, errno, device } = world;
    driver.regions = ({ name }) => (name === "c" ? [direct] : []);
    driver.refuses = ({ name }) => name === "c";
    expect(errno(core.probe(device("c")))).toBe(EINVAL);
    expect((group.defaultDomain as FakePagingDomain).pages.size).toBe(0);
  });

  it("that the firmware tells count like the driver's", () => {
    const { core, run, errno, instance, device } = setUp();
    run(core.register(instance));
    const a = device("a", "iommu0", { firmware: { instance: "iommu0", streamIds: [0], reserved: [direct] } });
    run(core.probe(a));
    expect([...(groupOf(a).defaultDomain as FakePagingDomain).pages.keys()]).toEqual([0x3000n, 0x4000n]);
    expect(groupOf(a).reservedRegions()).toEqual([direct]);
    expect(errno(groupOf(a).claim(a, {}))).toBe(EINVAL);
  });
});

describe("a deferred attach", () => {
  it("leaves the hardware alone until the device is used or goes elsewhere", () => {
    const { core, run, instance, device, driver } = setUp();
    driver.defersAttach = () => true;
    run(core.register(instance));
    const [a, b] = [device("a"), device("b")];
    for (const each of [a, b]) run(core.probe(each));
    expect(driver.attached.size).toBe(0);
    run(groupOf(a).attachDeferred(a));
    expect(driver.attached.get(a)).toBe(groupOf(a).defaultDomain);
    run(groupOf(b).claim(b, {}));
    expect(driver.attached.get(b)).toBe(driver.blockedDomain);
    run(groupOf(b).disclaim(b));
    expect(driver.attached.get(b)).toBe(groupOf(b).defaultDomain);
  });

  it("is not moved to another default domain, nor to where released devices go", () => {
    const world = setUp();
    const { core, run, instance, device, driver } = world;
    driver.defersAttach = () => true;
    driver.releaseDomain = new FakeStaticDomain("blocked", driver);
    run(core.register(instance));
    const a = device("a");
    run(core.probe(a));
    typeFile(world, groupOf(a)).write("identity");
    run(core.release(a));
    expect([driver.attached.size, driver.domains.size]).toEqual([0, 0]);
  });
});

describe("kernel drivers", () => {
  it("use the default domain together, and nobody else then", () => {
    const { run, errno, a, b, group } = withTwoInOneGroup();
    run(group.useDefaultDomain(a));
    run(group.useDefaultDomain(b));
    expect(errno(group.claimWhole({}))).toBe(EPERM);
    run(group.unuseDefaultDomain());
    run(group.unuseDefaultDomain());
    const owner = {};
    run(group.claimWhole(owner));
    expect([errno(group.useDefaultDomain(a)), errno(group.claimWhole(owner))]).toEqual([EBUSY, EPERM]);
    run(group.disclaim());
    expect(group.isUnused).toBe(true);
  });
});
