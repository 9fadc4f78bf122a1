import { describe, expect, it } from "vitest";
import { EBUSY, EINVAL, ENODEV, EPERM, Refusal } from "../runtime/index.ts";
import { Device } from "./device.ts";
import { PagingDomain } from "./driver.ts";
import { FakeDriver, type FakePagingDomain } from "./fake-driver.test-support.ts";
import { type Group, groupOf } from "./group.ts";
import { mergeRegions } from "./reserved.ts";
import { groupNodes } from "./sysfs.ts";
import { setUp, withTwoInOneGroup } from "./world.test-support.ts";

describe("probe and release", () => {
  it("gives a device a group with the lowest free number, on the default domain", () => {
    const { core, instance, run, device, driver } = setUp({ defaultDomain: "identity" });
    run(core.register(instance));
    const [a, b, c] = [device("a"), device("b"), device("c")];
    for (const each of [a, b]) run(core.probe(each));
    expect([a.group!.id, b.group!.id]).toEqual([0, 1]);
    run(core.release(a));
    expect(a.group).toBeUndefined();
    run(core.probe(c));
    expect(c.group!.id).toBe(0);
    expect(c.group!.domain).toBe(driver.identityDomain);
    expect(c.iommu!.maxPasids).toBe(16);
  });

  it("answers ENODEV for a device whose IOMMU is not there, and forgets it", () => {
    const { core, errno, device } = setUp();
    const lost = device("a", "nowhere");
    expect(errno(core.probe(lost))).toBe(ENODEV);
    expect(errno(core.probe(new Device({ name: "b" })))).toBe(ENODEV);
    expect(lost.iommu).toBeUndefined();
    expect(() => groupOf(lost)).toThrow(Refusal);
  });

  it("probes waiting devices when their IOMMU registers, and releases them when it goes", () => {
    const { core, instance, run, device, devices, driver } = setUp();
    devices.push(device("a"), device("b", "another"), device("c"));
    run(core.register(instance));
    expect([...core.devicesOf(instance)].map(({ name }) => name)).toEqual(["a", "c"]);
    expect(core.driverReferences(driver).holders()).toEqual(["device a", "device c"]);
    run(core.unregister(instance));
    expect(core.groups.size + core.instances.size + driver.domains.size + driver.probed.size).toBe(0);
    expect(core.driverReferences(driver).count).toBe(0);
  });

  it("lets all members of a scanned group say what default domain they wish for", () => {
    const { core, instance, run, device, devices, driver } = setUp({ share: true });
    driver.defaultDomainType = ({ name }) => (name === "b" ? "identity" : undefined);
    devices.push(device("a"), device("b"));
    run(core.register(instance));
    expect(core.groups.get(0)!.domain).toBe(driver.identityDomain);
  });

  it("keeps the group and its domain until the last member leaves", () => {
    const { core, run, a, b, group, driver } = withTwoInOneGroup();
    run(core.release(a));
    expect(core.groups.get(0)).toBe(group);
    expect(driver.domains.size).toBe(1);
    run(core.release(b));
    expect(core.groups.size).toBe(0);
    expect(driver.domains.size).toBe(0);
  });

  it("names devices of one name apart", () => {
    const { core, instance, run, device } = setUp({ share: true });
    run(core.register(instance));
    for (let count = 0; count < 3; count++) run(core.probe(device("twin")));
    expect([...core.groups.get(0)!.linkNames.values()]).toEqual(["twin", "twin.0", "twin.1"]);
  });

  it("leaves a device that needs its direct regions on identity rather than blocked", () => {
    const { core, instance, run, device, driver } = setUp();
    driver.releaseDomain = driver.blockedDomain;
    driver.regions = ({ name }) => (name === "a" ? [{ start: 0x1000n, last: 0x2fffn, type: "direct" }] : []);
    run(core.register(instance));
    const left: unknown[] = [];
    driver.releaseDevice = function* (device) {
      left.push(driver.attached.get(device));
    };
    for (const each of [device("a"), device("b")]) {
      run(core.probe(each));
      run(core.release(each));
      driver.attached.clear();
    }
    expect(left).toEqual([driver.identityDomain, driver.blockedDomain]);
  });
});

describe("direct regions", () => {
  it("are mapped 1:1 in the default domain, and forbid ownership", () => {
    const { core, instance, run, errno, device, driver } = setUp();
    driver.regions = () => [
      { start: 0x1001n, last: 0x2fffn, type: "direct" },
      { start: 0x9000n, last: 0x9fffn, type: "direct-relaxable" },
    ];
    run(core.register(instance));
    const a = device("a");
    run(core.probe(a));
    expect([...(a.group!.domain as FakePagingDomain).pages]).toEqual([
      [0x2000n, 0x2000],
      [0x9000n, 0x9000],
    ]);
    expect(errno(a.group!.claim(a, {}))).toBe(EINVAL);
    expect(a.group!.ownerCount).toBe(0);
  });
});

describe("ownership", () => {
  it("is exclusive, counted, and blocks until something is attached", () => {
    const { run, errno, a, b, group, driver, on } = withTwoInOneGroup();
    const owner = { label: "me" };
    run(group.claim(a, owner));
    expect(on()).toEqual([driver.blockedDomain, driver.blockedDomain]);
    run(group.claim(b, owner));
    expect(group.ownerCount).toBe(2);
    expect(errno(group.claim(b, {}))).toBe(EPERM);
    expect(errno(group.useDefaultDomain(b))).toBe(EBUSY);
    run(group.disclaim(b));
    expect(on()).toEqual([driver.blockedDomain, driver.blockedDomain]);
    run(group.disclaim(a));
    expect(on()).toEqual([group.defaultDomain, group.defaultDomain]);
    expect(group.owner).toBeUndefined();
  });

  it("is refused while a kernel driver uses a member, or something is attached", () => {
    const { run, errno, a, group, domain } = withTwoInOneGroup();
    run(group.useDefaultDomain(a));
    run(group.useDefaultDomain(a));
    expect(errno(group.claim(a, {}))).toBe(EPERM);
    run(group.unuseDefaultDomain());
    run(group.unuseDefaultDomain());
    run(group.attach(domain(), {}));
    expect(errno(group.claim(a, {}))).toBe(EBUSY);
  });

  it("blocks by an empty paging domain where the driver cannot block", () => {
    const { run, core, a, b, group, driver, on } = withTwoInOneGroup();
    driver.blockedDomain = undefined;
    run(group.claim(a, {}));
    expect(on()[0]).toBeInstanceOf(PagingDomain);
    expect(on()[0]).not.toBe(group.defaultDomain);
    run(group.disclaim(a));
    run(core.release(a));
    run(core.release(b));
    expect(driver.domains.size).toBe(0);
  });
});

describe("attach, replace, detach", () => {
  it("move all members", () => {
    const { run, a, group, driver, domain, on } = withTwoInOneGroup();
    const [first, second] = [domain(), domain()];
    const handle = {};
    run(group.claim(a, {}));
    run(group.attach(first, handle));
    expect(on()).toEqual([first, first]);
    expect(group.handle).toBe(handle);
    const other = {};
    run(group.replace(second, other));
    expect(on()).toEqual([second, second]);
    expect(group.handle).toBe(other);
    run(group.detach());
    expect(on()).toEqual([driver.blockedDomain, driver.blockedDomain]);
    expect(group.handle).toBeUndefined();
  });

  it("detach goes to the default domain where nobody owns the group", () => {
    const { run, group, domain, on } = withTwoInOneGroup();
    run(group.attach(domain(), {}));
    run(group.detach());
    expect(on()).toEqual([group.defaultDomain, group.defaultDomain]);
  });

  it("answer as the table of reference 2.5 says", () => {
    const { run, errno, core, group, domain } = withTwoInOneGroup();
    const foreign = run(new FakeDriver(core, "other").allocatePaging());
    expect(errno(group.attach(domain(), undefined as unknown as object))).toBe(EINVAL);
    expect(errno(group.attach(foreign, {}))).toBe(EINVAL);
    expect(errno(group.replace(foreign, {}))).toBe(EINVAL);
    run(group.attach(domain(), {}));
    expect(errno(group.attach(domain(), {}))).toBe(EBUSY);
    expect(errno(group.replace(domain(), undefined as unknown as object))).toBe(EINVAL);
  });

  it.each(["attach", "replace"] as const)("%s puts everybody back if the last member refuses", (operation) => {
    const { run, errno, a, b, group, driver, domain, on } = withTwoInOneGroup();
    run(group.claim(a, {}));
    if (operation === "replace") run(group.attach(domain(), {}));
    const before = [...on(), group.domain, group.handle];
    const target = domain();
    driver.refuses = (device, to) => device === b && to === target;
    expect(errno(group[operation](target, {}))).toBe(EINVAL);
    expect([...on(), group.domain, group.handle]).toEqual(before);
  });

  it("a member that can neither go on nor back is blocked", () => {
    const { run, errno, a, b, group, driver, domain, on } = withTwoInOneGroup();
    run(group.claim(a, {}));
    const [old, next] = [domain(), domain()];
    run(group.attach(old, {}));
    driver.refuses = (device, to) => (device === b && to === next) || (device === a && to === old);
    expect(errno(group.replace(next, {}))).toBe(EINVAL);
    expect(on()).toEqual([driver.blockedDomain, old]);
  });

  it("detach succeeds whatever a member says", () => {
    const { run, b, group, driver, domain, on } = withTwoInOneGroup();
    run(group.claim(b, {}));
    run(group.attach(domain(), {}));
    run(group.detach());
    run(group.attach(domain(), {}));
    run(group.detach());
    driver.refuses = (_, to) => to === group.defaultDomain;
    run(group.disclaim(b));
    expect(group.domain).toBe(group.defaultDomain);
    expect(on()).toEqual([driver.blockedDomain, driver.blockedDomain]);
  });
});

describe("reserved regions", () => {
  it("are sorted, and merged where one type overlaps or touches", () => {
    expect(
      mergeRegions([
        { start: 0x5000n, last: 0x5fffn, type: "msi" },
        { start: 0x1000n, last: 0x1fffn, type: "reserved" },
        { start: 0x2000n, last: 0x2fffn, type: "reserved" },
        { start: 0x2800n, last: 0x28ffn, type: "reserved" },
        { start: 0x1000n, last: 0x1fffn, type: "direct" },
      ]),
    ).toEqual([
      { start: 0x1000n, last: 0x1fffn, type: "direct" },
      { start: 0x1000n, last: 0x2fffn, type: "reserved" },
      { start: 0x5000n, last: 0x5fffn, type: "msi" },
    ]);
  });
});

describe("sysfs", () => {
  it("shows groups, their members and their IOMMU as Linux does", () => {
    const { core, driver, a } = withTwoInOneGroup();
    driver.regions = () => [{ start: 0x8000000n, last: 0x80fffffn, type: "software-msi" }];
    const nodes = groupNodes(core, ({ name }) => `/sys/devices/pci0000:00/${name}`);
    const text = (path: string): string => {
      const node = nodes.get(path);
      return node?.kind === "text" ? String(node.read()) : node?.kind === "link" ? node.target : "?";
    };
    expect(text("/sys/kernel/iommu_groups/0/type")).toBe("DMA\n");
    expect(text("/sys/kernel/iommu_groups/0/reserved_regions")).toBe("0x0000000008000000 0x00000000080fffff msi\n");
    expect(text("/sys/kernel/iommu_groups/0/devices/a")).toBe("../../../../devices/pci0000:00/a");
    expect(text("/sys/devices/pci0000:00/a/iommu_group")).toBe("../../../kernel/iommu_groups/0");
    expect(text("/sys/devices/pci0000:00/a/iommu")).toBe("../../virtual/iommu/iommu0");
    expect(text("/sys/class/iommu/iommu0")).toBe("../../devices/virtual/iommu/iommu0");
    expect(text("/sys/devices/virtual/iommu/iommu0/subsystem")).toBe("../../../../class/iommu");
    expect(text("/sys/devices/virtual/iommu/iommu0/devices/b")).toBe("../../../../pci0000:00/b");
    expect((a.group as Group).id).toBe(0);
  });
});
