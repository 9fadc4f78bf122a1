import { describe, expect, it } from "vitest";
import { EEXIST, EINVAL, ENODEV, ENOMEM, EPROBE_DEFER, refuse, type Task } from "../runtime/index.ts";
import { Device } from "./device.ts";
import { addDevice, createGroup, removeDevice } from "./external.ts";
import { FakeDriver, fakeInstance } from "./fake-driver.test-support.ts";
import { setFirmware } from "./firmware.ts";
import { groupNodes } from "./sysfs.ts";
import { setUp } from "./world.test-support.ts";

describe("a group that somebody makes by hand", () => {
  it("goes with its last reference: the maker's or a member's", () => {
    const { core, run } = setUp();
    const group = createGroup(core, "vfio", "vfio-noiommu");
    const [a, b] = [new Device({ name: "a" }), new Device({ name: "b" })];
    for (const device of [a, b]) run(addDevice(core, group, device));
    core.putGroup(group, "vfio");
    expect(group.references.holders()).toEqual(["device a", "device b"]);
    run(removeDevice(core, a));
    expect([a.group, core.groups.get(0)]).toEqual([undefined, group]);
    run(core.release(b));
    expect(core.groups.size).toBe(0);
  });

  it("shows its name and its members, and has neither a type nor an owner", () => {
    const { core, run, errno } = setUp();
    const group = createGroup(core, "vfio", "vfio-noiommu");
    const a = new Device({ name: "a" });
    run(addDevice(core, group, a));
    const nodes = groupNodes(core, ({ name }) => `/sys/devices/${name}`);
    const text = (name: string): string => {
      const node = nodes.get(`/sys/kernel/iommu_groups/0/${name}`);
      return node?.kind === "text" ? String(node.read()) : "?";
    };
    expect([text("name"), text("type"), text("reserved_regions")]).toEqual(["vfio-noiommu\n", "unknown\n", ""]);
    expect(nodes.has("/sys/devices/a/iommu_group")).toBe(true);
    expect(nodes.has("/sys/devices/a/iommu")).toBe(false);
    expect([errno(group.claim(a, {})), errno(group.useDefaultDomain(a))]).toEqual([ENODEV, EPROBE_DEFER]);
  });

  it("takes no device that is in a group", () => {
    const { core, run, errno, instance, device } = setUp();
    run(core.register(instance));
    const probed = device("a");
    run(core.probe(probed));
    const group = createGroup(core, "vfio");
    expect(errno(addDevice(core, group, probed))).toBe(EEXIST);
    core.system.failures.inject((name) => name === "iommu.group.add");
    expect(errno(addDevice(core, group, new Device({ name: "b" })))).toBe(ENOMEM);
    core.system.failures.inject(undefined);
    core.putGroup(group, "vfio");
    expect([...core.groups.keys()]).toEqual([0]);
  });

  it("does not keep an IOMMU from being registered", () => {
    const { core, run, instance, device, devices } = setUp();
    const group = createGroup(core, "vfio");
    run(addDevice(core, group, new Device({ name: "a" })));
    devices.push(device("b"));
    run(core.register(instance));
    expect(devices[0].group!.id).toBe(1);
  });
});

describe("what the firmware says", () => {
  it("is read when a device without a driver is probed", () => {
    const { core, run, instance } = setUp(
      {},
      {
        *configureDma(device) {
          setFirmware(core, device, { instance: "iommu0", streamIds: [7] });
        },
      },
    );
    run(core.register(instance));
    const [free, bound] = [new Device({ name: "a" }), new Device({ name: "b", driver: "somebody" })];
    run(core.probe(free));
    expect([free.group!.id, free.firmware?.streamIds]).toEqual([0, [7]]);
    expect(() => run(core.probe(bound))).toThrow();
    expect(bound.iommu).toBeUndefined();
  });

  it("is ENODEV for a device of which it says nothing", () => {
    const { core, run, errno, instance } = setUp({}, { configureDma: () => refuse(EPROBE_DEFER, () => "not yet") });
    run(core.register(instance));
    expect(errno(core.probe(new Device({ name: "a" })))).toBe(ENODEV);
  });

  it("is ENODEV for who comes second, if the device was probed meanwhile", () => {
    let others = 1;
    const { core, run, errno, instance } = setUp(
      {},
      {
        *configureDma(device) {
          if (others-- > 0) yield* core.probe(device);
          else setFirmware(core, device, { instance: "iommu0", streamIds: [7] });
        },
      },
    );
    run(core.register(instance));
    const a = new Device({ name: "a" });
    expect(errno(core.probe(a))).toBe(ENODEV);
    expect(a.group!.references.holders()).toEqual(["device a"]);
  });

  it("waits for an IOMMU as long as drivers may come", () => {
    const { core, run, errno, instance } = setUp();
    const a = new Device({ name: "a" });
    const spec = { instance: "iommu0", streamIds: [0] };
    const set = (to = spec) => {
      return errno(
        (function* (): Task<void> {
          setFirmware(core, a, to);
        })(),
      );
    };
    expect(set()).toBe(EPROBE_DEFER);
    core.waitsForDrivers = false;
    expect(set()).toBe(ENODEV);
    run(core.register(instance));
    expect(set()).toBeUndefined();
    expect(set()).toBeUndefined();
    run(core.register(fakeInstance(new FakeDriver(core, "other"), "iommu1")));
    expect(set({ ...spec, instance: "iommu1" })).toBe(EINVAL);
    expect(a.firmware).toBe(spec);
  });

  it("waits for an IOMMU that is still probing the devices that were there before", () => {
    const { core, errno, instance, device, devices, driver } = setUp();
    const late = new Device({ name: "late" });
    driver.probeDevice = function* () {
      setFirmware(core, late, { instance: "iommu0", streamIds: [1] });
    };
    devices.push(device("a"));
    expect(errno(core.register(instance))).toBe(EPROBE_DEFER);
    expect([core.instances.size, core.groups.size]).toEqual([0, 0]);
  });
});
