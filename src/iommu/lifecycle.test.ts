import { describe, expect, it } from "vitest";
import { sweepFailures } from "../runtime/failures.test-support.ts";
import type { Task } from "../runtime/index.ts";
import { Device } from "./device.ts";
import { addDevice, createGroup, removeDevice } from "./external.ts";
import { type FakeDriver, type FakePagingDomain, fakeInstance } from "./fake-driver.test-support.ts";
import { groupOf } from "./group.ts";
import { attachPasid, detachPasid, replacePasid } from "./pasid.ts";
import { finishReset, prepareReset } from "./reset-window.ts";
import { stateOfCore } from "./state.test-support.ts";
import { setUp, withTwoInOneGroup } from "./world.test-support.ts";

/** What the hardware would have: who is attached to what, and what is mapped in each domain. */
function hardware({ attached, pasids, probed, domains }: FakeDriver): unknown {
  return {
    probed: [...probed].map(({ name }) => name),
    attached: Object.fromEntries([...attached].map(([{ name }, { label }]) => [name, label])),
    pasids: Object.fromEntries([...pasids].map(([key, { label }]) => [key, label])),
    domains: [...domains].map(({ label, pages }) => [label, [...pages]]),
  };
}

type World = ReturnType<typeof withTwoInOneGroup>;

/** Two devices a and b in a group, PASIDs and all. The sweep looks at them and at those named by `more`. */
function furnished(change: (driver: FakeDriver) => void = () => undefined) {
  const world = withTwoInOneGroup((driver) => {
    driver.usePasids();
    driver.regions = ({ name }) =>
      name === "c"
        ? [{ start: 0x5000n, last: 0x6fffn, type: "direct-relaxable" }]
        : [{ start: 0x3000n, last: 0x4fffn, type: "direct-relaxable" }];
    change(driver);
  });
  const sweep = (act: () => Task<unknown>, undo: () => Task<unknown>, more: readonly Device[] = []): string[] =>
    sweepFailures(world.system, {
      act: () => void world.run(act()),
      undo: () => void world.run(undo()),
      state: () => [stateOfCore(world.core, [world.a, world.b, ...more]), hardware(world.driver)],
    });
  return { ...world, sweep };
}

describe("whichever step fails, everything is as it was before", () => {
  it("probing a device that starts a group", () => {
    const { core, driver, device, sweep } = furnished();
    driver.groupFor = (_, core) => core.newGroup();
    const c = device("c");
    expect(
      sweep(
        () => core.probe(c),
        () => core.release(c),
        [c],
      ),
    ).toEqual([
      "iommu.device.allocate",
      "iommu.driver.get",
      "iommu.device.probe",
      "fake.device.probe",
      "iommu.device.link",
      "iommu.group.allocate",
      "iommu.group.add",
      "iommu.default-domain.allocate",
      "fake.domain.allocate",
      "fake.domain.map",
      "iommu.domain.attach",
      "fake.domain.attach",
    ]);
  });

  it("probing a device that joins a group, whose direct regions are mapped", () => {
    const { core, device, sweep, group } = furnished();
    const c = device("c");
    const mapped = () => (group.defaultDomain as FakePagingDomain).pages;
    expect(
      sweep(
        () => core.probe(c),
        function* () {
          yield* core.release(c);
          // A member that was accepted leaves its direct mappings to the others.
          for (const page of [0x5000n, 0x6000n]) mapped().delete(page);
        },
        [c],
      ).slice(-3),
    ).toEqual(["fake.domain.map", "iommu.domain.attach", "fake.domain.attach"]);
  });

  it("registering an IOMMU for which three devices wait, two of them in one group", () => {
    const { core, devices, device, sweep, driver } = furnished();
    const waiting = ["x0", "x1", "c"].map((name) => device(name, "iommu1"));
    devices.push(...waiting);
    driver.groupFor = ({ name }, core) => (name === "x1" ? waiting[0].group : undefined) ?? core.newGroup();
    const instance = fakeInstance(driver, "iommu1", 4);
    expect(
      sweep(
        () => core.register(instance),
        () => core.unregister(instance),
        waiting,
      ).length,
    ).toBeGreaterThan(25);
  });

  it("changing the type of a default domain", () => {
    const { core, group, run, sweep } = furnished();
    const to = (type: "identity" | "dma") => core.setDefaultDomainType(group, type);
    run(to("identity"));
    const points = sweep(
      () => to("dma"),
      () => to("identity"),
    );
    const attaches = ["iommu.domain.attach", "fake.domain.attach"];
    expect(points.slice(0, 2)).toEqual(["iommu.default-domain.allocate", "fake.domain.allocate"]);
    expect(points.slice(-4)).toEqual([...attaches, ...attaches]);
  });

  it.each([true, false])("claiming a group; the driver has a blocked domain of its own: %s", (hasBlocked) => {
    const { a, group, sweep, core, device, driver } = furnished((driver) => {
      if (!hasBlocked) driver.blockedDomain = undefined;
    });
    const owner = {};
    sweep(
      () => group.claim(a, owner),
      () => group.disclaim(a),
    );
    // A group that was never claimed: its blocking domain is made, and freed again.
    driver.groupFor = (_, core) => core.newGroup();
    const c = device("c");
    const points = sweep(
      function* () {
        yield* core.probe(c);
        try {
          yield* groupOf(c).claim(c, owner);
        } catch (error) {
          yield* core.release(c);
          throw error;
        }
      },
      function* () {
        yield* groupOf(c).disclaim(c);
        yield* core.release(c);
      },
      [c],
    );
    expect(points).toContain("iommu.group.blocking-domain");
  });

  it("attaching, and replacing what is attached", () => {
    const { run, a, group, domain, sweep } = furnished();
    run(group.claim(a, {}));
    const [first, second] = [domain(), domain()];
    const attach = () => group.attach(first, {});
    const two = ["iommu.domain.attach", "fake.domain.attach"];
    expect(sweep(attach, () => group.detach())).toEqual([...two, ...two]);
    run(attach());
    expect(
      sweep(
        () => group.replace(second, {}),
        () => group.replace(first, {}),
      ),
    ).toEqual([...two, ...two]);
  });

  it("attaching a PASID, and replacing what it is attached to", () => {
    const { run, group, domain, sweep } = furnished();
    const [first, second] = [domain(), domain()];
    const two = ["iommu.pasid.attach", "fake.pasid.attach"];
    expect(
      sweep(
        () => attachPasid(group, first, 3, {}),
        () => detachPasid(group, 3),
      ),
    ).toEqual([...two, ...two]);
    run(attachPasid(group, first, 3, {}));
    const replace = (to: FakePagingDomain) => () => replacePasid(group, to, 3, {});
    expect(sweep(replace(second), replace(first))).toEqual([...two, ...two]);
  });

  it.each([true, false])("preparing a reset; the driver has a blocked domain of its own: %s", (hasBlocked) => {
    const { run, core, device, driver, sweep } = furnished();
    driver.groupFor = (_, core) => core.newGroup();
    if (!hasBlocked) driver.blockedDomain = undefined;
    const c = device("c");
    run(core.probe(c));
    Object.defineProperty(c, "usesAts", { value: true });
    const points = sweep(
      () => prepareReset(c),
      function* () {
        yield* finishReset(c);
      },
      [c],
    );
    expect(points.at(-1)).toBe("fake.domain.attach");
  });

  it("adding a device to a group by hand", () => {
    const { core, sweep } = furnished();
    const c = new Device({ name: "c" });
    const make = function* (): Task<void> {
      const group = createGroup(core, "a test");
      try {
        yield* addDevice(core, group, c);
      } finally {
        core.putGroup(group, "a test");
      }
    };
    expect(sweep(make, () => removeDevice(core, c), [c])).toEqual(["iommu.group.allocate", "iommu.group.add"]);
  });
});

describe("a driver that refuses what must succeed", () => {
  /** a and b in a group that is claimed and attached to the first of two domains. */
  function attached(): World & { first: FakePagingDomain; second: FakePagingDomain } {
    const world = withTwoInOneGroup();
    const [first, second] = [world.domain(), world.domain()];
    world.run(world.group.claim(world.a, {}));
    world.run(world.group.attach(first, {}));
    return { ...world, first, second };
  }

  it.each([true, false])(
    "leaves the device blocked, never on the domain that it refused to leave: %s",
    (hasBlocked) => {
      const { errno, a, b, group, driver, first, second, on } = attached();
      if (!hasBlocked) {
        driver.blockedDomain = undefined;
        group.blockingDomain = undefined;
      }
      driver.refuses = (device, to) => (device === b && to === second) || (device === a && to === first);
      expect(errno(group.replace(second, {}))).toBeDefined();
      expect(on()).toEqual([group.blockingDomain, first]);
      expect([group.domain, a.iommu!.stranded, b.iommu!.stranded]).toEqual([first, true, false]);
      driver.refuses = () => false;
      second.free();
    },
  );

  it("is no member's fault for long: the next switch takes it along", () => {
    const { errno, run, a, b, group, driver, first, second, on } = attached();
    driver.refuses = (device, to) => (device === b && to === second) || (device === a && to === first);
    errno(group.replace(second, {}));
    driver.refuses = () => false;
    run(group.replace(second, {}));
    expect([...on(), a.iommu!.stranded]).toEqual([second, second, false]);
  });
});

describe("groups and references", () => {
  it("one of each for each device, and nothing when all are gone", () => {
    const { core, run, device, driver, instance } = setUp();
    run(core.register(instance));
    const before = stateOfCore(core, []);
    const devices = ["a", "b", "c"].map((name) => device(name));
    for (const each of devices) {
      run(core.probe(each));
      run(core.probe(each));
    }
    expect(core.driverReferences(driver).count).toBe(3);
    for (const group of core.groups.values()) expect(group.references.count).toBe(1);
    for (const each of devices) {
      run(core.release(each));
      run(core.release(each));
    }
    expect(stateOfCore(core, [])).toEqual(before);
  });
});
