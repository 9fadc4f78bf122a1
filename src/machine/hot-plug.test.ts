import { describe, expect, it } from "vitest";
import { EINVAL, ENODEV, ENOSPC, SimulatedClock, type Task } from "../runtime/index.ts";
import { EduDriver, IOVA } from "./edu-driver.test-support.ts";
import { buildMachine, defineMachine, LibraryClient, type Machine, MachineError, presets } from "./index.ts";
import { echo } from "./shell.test-support.ts";

const FIRST = "0000:00:01.0";

function run<T>(machine: Machine, task: Task<T>): T {
  return machine.system.run("test", task);
}

const has = (machine: Machine, path: string): boolean => machine.files.nodes.has(path);
const devices = (machine: Machine): string[] => machine.devices.map(({ name }) => name.slice(5));
const groups = (machine: Machine): number[] => [...machine.core.groups.keys()].sort();
const pciPath = (name: string): string => `/sys/bus/pci/devices/${name}`;
const directory = "/sys/devices/pci0000:00/0000:00:01.0";

describe("remove and rescan, as in Linux", () => {
  it("forget a function, and find it again as if it had just come", () => {
    const machine = buildMachine(presets["two-edu"]);
    expect(echo(machine, "1", `${directory}/remove`)).toEqual({ done: true });
    expect(devices(machine)).toEqual(["00:02.0"]);
    expect(groups(machine)).toEqual([1]);
    for (const path of [
      pciPath(FIRST),
      `${directory}/vendor`,
      "/dev/vfio/devices/vfio0",
      "/sys/kernel/iommu_groups/0/type",
    ]) {
      expect([path, has(machine, path)]).toEqual([path, false]);
    }
    expect(echo(machine, "1", "/sys/bus/pci/rescan")).toEqual({ done: true });
    expect(devices(machine)).toEqual(["00:02.0", "00:01.0"]);
    expect(groups(machine)).toEqual([0, 1]);
    expect(machine.pci.find(FIRST)).toMatchObject({ driver: undefined, driverOverride: undefined });
    expect(has(machine, `${directory}/driver`)).toBe(false);

    echo(machine, "vfio-pci", `${directory}/driver_override`);
    echo(machine, FIRST, "/sys/bus/pci/drivers_probe");
    const driver = new EduDriver(machine);
    driver.map();
    driver.set(0, [1, 2, 3]);
    driver.dma(IOVA, false);
    driver.dma(IOVA + 16n, true);
    expect(driver.get(16, 3)).toEqual([1, 2, 3]);
  });

  it("take a number, of which 0 does nothing", () => {
    const machine = buildMachine(presets["two-edu"]);
    for (const path of [`${directory}/remove`, `${directory}/rescan`, "/sys/bus/pci/rescan"]) {
      expect(echo(machine, "0", path)).toEqual({ done: true });
      expect(echo(machine, "x", path).error?.errno).toBe(EINVAL);
    }
    expect(devices(machine)).toEqual(["00:01.0", "00:02.0"]);
  });

  it("wait for who has the device in use, ask him every ten seconds, and show no driver and no device file meanwhile", () => {
    const clock = new SimulatedClock();
    const machine = buildMachine(presets["two-edu"], { clock });
    const driver = new EduDriver(machine);
    const requests = driver.countRequests();
    const second = driver.client.open("/dev/vfio/devices/vfio0");
    const removal = echo(machine, "1", `${directory}/remove`);
    expect([removal.done, requests()]).toEqual([false, 1]);
    for (const path of ["/dev/vfio/devices/vfio0", `${directory}/driver`, `${directory}/remove`]) {
      expect([path, has(machine, path)]).toEqual([path, false]);
    }
    for (const path of [pciPath(FIRST), `${directory}/iommu_group`, "/sys/kernel/iommu_groups/0/type", "/dev/vfio/0"]) {
      expect([path, has(machine, path)]).toEqual([path, true]);
    }
    clock.advance(25e9);
    expect(requests()).toBe(3);
    // He goes on with it as long as he likes.
    driver.map();
    driver.set(0, [7]);
    driver.dma(IOVA, false);
    driver.dma(IOVA + 8n, true);
    expect(driver.get(8, 1)).toEqual([7]);
    const rescan = echo(machine, "1", "/sys/bus/pci/rescan");

    driver.client.close(driver.device);
    expect([removal.done, rescan.done]).toEqual([false, false]);
    driver.client.close(second);
    expect([removal.done, rescan.done]).toEqual([true, true]);
    expect(devices(machine)).toEqual(["00:02.0", "00:01.0"]);
    clock.advance(100e9);
    expect(requests()).toBe(3);
  });

  it("do so for all that is behind a bridge, and bring the bridge back with it", () => {
    const machine = buildMachine(presets.switch);
    const before = groups(machine);
    expect(echo(machine, "1", "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/remove").done).toBe(true);
    expect(devices(machine)).toEqual(["00:01.0", "00:02.0", "05:00.0", "06:01.0"]);
    expect([...machine.files.nodes.keys()].filter((path) => path.includes("0000:01:00.0"))).toEqual([]);
    expect(echo(machine, "1", `${directory}/rescan`).done).toBe(true);
    expect(devices(machine)).toHaveLength(9);
    expect(groups(machine)).toEqual(before);
    expect(machine.pci.find("0000:04:00.0")?.bars[0]?.address).toBe(0x10200000);
  });
});

describe("what is behind a bridge", () => {
  it("has lost all drivers, and is still there, while one of its users is waited for", () => {
    const machine = buildMachine(presets.switch);
    const before = devices(machine);
    const names = machine.vfio.devices.map(({ member }) => member.name);
    const bound = names.find((name) => name.startsWith("0000:03:"))!;
    const number = machine.vfio.devices.find(({ member }) => member.name === bound)!.name;
    const client = new LibraryClient(machine);
    const file = client.open(`/dev/vfio/devices/${number}`);
    const removal = echo(machine, "1", "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/remove");
    expect([removal.done, devices(machine)]).toEqual([false, before]);
    const below = machine.pci.functions.filter(({ name }) => /^0000:0[1-4]:/.test(name));
    expect(below.filter(({ driver, isLeavingDriver }) => driver !== undefined && !isLeavingDriver)).toEqual([]);
    client.close(file);
    expect([removal.done, devices(machine)]).toEqual([true, ["00:01.0", "00:02.0", "05:00.0", "06:01.0"]]);
  });
});

describe("a device that is plugged in", () => {
  it("is found, gets group and driver, and works", () => {
    const machine = buildMachine(presets["two-edu"]);
    const [member] = run(machine, machine.plug({ model: "edu", address: "00:07.0" }));
    expect(member.name).toBe("0000:00:07.0");
    expect(has(machine, "/dev/vfio/devices/vfio2")).toBe(true);
    expect(groups(machine)).toEqual([0, 1, 2]);
    const driver = new EduDriver(machine, "/dev/vfio/devices/vfio2");
    driver.map();
    driver.dma(IOVA, true);
    driver.client.process.exit();
    run(machine, machine.unplug("0000:00:07.0"));
    expect(groups(machine)).toEqual([0, 1]);
    run(machine, machine.powerDown());
    expect(machine.core.groups.size).toBe(0);
  });

  it("works behind a virtio IOMMU too", () => {
    const machine = buildMachine(presets.virtio);
    run(machine, machine.plug({ model: "edu" }));
    const driver = new EduDriver(machine, "/dev/vfio/devices/vfio2");
    driver.map();
    driver.set(0, [9, 8]);
    driver.dma(IOVA, false);
    driver.dma(IOVA + 64n, true);
    expect(driver.get(64, 2)).toEqual([9, 8]);
  });

  it("joins the group that the topology says, with what its user translates through", () => {
    const machine = buildMachine(presets.default);
    const driver = new EduDriver(machine, "/dev/vfio/devices/vfio2");
    driver.map();
    run(machine, machine.plug({ model: "edu", address: "00:03.5" }));
    const group = machine.deviceOf(machine.pci.find("0000:00:03.5")!)!.group!;
    expect(group.devices.map(({ name }) => name.slice(5))).toEqual(["00:03.0", "00:03.1", "00:03.5"]);
    expect(group.domain).toBe(machine.deviceOf(machine.pci.find("0000:00:03.0")!)!.group!.domain);
    driver.client.process.exit();
    run(machine, machine.unplug("0000:00:03.1", "surprise"));
    expect(devices(machine)).toEqual(["00:01.0", "00:02.0"]);
  });

  it.each([
    [
      "a place that is taken",
      { model: "edu", address: "00:01.0" },
      /^plug: the device and devices\[0\] are both at 00:01\.0/,
    ],
    ["a bridge", { model: "root-port" }, /^plug: a root-port cannot be plugged in: no bus numbers are kept free$/],
    [
      "a key that is none",
      { model: "edu", adress: "00:01.0" },
      /^plug: unknown key "adress" in the device; did you mean "address"/,
    ],
    ["an IOMMU that is not there", { model: "edu", iommu: "smmu7" }, /^plug: the device is behind the IOMMU "smmu7"/],
  ])("%s is refused", (_what, input, message) => {
    const machine = buildMachine(presets["two-edu"]);
    let error: unknown;
    try {
      run(machine, machine.plug(input as never));
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(MachineError);
    expect((error as MachineError).message).toMatch(message);
    expect(devices(machine)).toEqual(["00:01.0", "00:02.0"]);
  });

  it("is refused where its bus has no room for its registers, and leaves no trace", () => {
    const machine = buildMachine(
      defineMachine({
        devices: [
          { model: "root-port", name: "port" },
          { model: "edu", behind: "port" },
        ],
      }),
    );
    const nodes = [...machine.files.nodes.keys()];
    expect(() =>
      run(machine, machine.plug({ model: "edu", behind: "port", address: "01:00.1", functions: 4 })),
    ).toThrow(expect.objectContaining({ errno: ENOSPC }));
    machine.files.refresh();
    expect([...machine.files.nodes.keys()]).toEqual(nodes);
    run(machine, machine.plug({ model: "edu", behind: "port", address: "01:00.1" }));
    expect(devices(machine)).toEqual(["00:01.0", "01:00.0", "01:00.1"]);
  });
});

describe("a function that was forgotten", () => {
  it("stays so while others have its addresses", () => {
    const machine = buildMachine(
      defineMachine({
        devices: [
          { model: "root-port", name: "port" },
          { model: "edu", behind: "port", functions: 2 },
        ],
      }),
    );
    const path = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.1/remove";
    expect(echo(machine, "1", path).done).toBe(true);
    run(machine, machine.plug({ model: "edu", behind: "port", address: "01:00.2" }));
    expect(echo(machine, "1", "/sys/bus/pci/rescan").error?.errno).toBe(ENOSPC);
    expect(devices(machine)).toEqual(["00:01.0", "01:00.0", "01:00.2"]);
    run(machine, machine.unplug("0000:01:00.0"));
    expect(devices(machine)).toEqual(["00:01.0"]);
    expect(echo(machine, "1", "/sys/bus/pci/rescan")).toEqual({ done: true });
    expect(devices(machine)).toEqual(["00:01.0"]);
  });
});

describe("a device that is pulled out", () => {
  it("by surprise is gone at once for who has it in use, and leaves nothing when he lets go", () => {
    const machine = buildMachine(presets["two-edu"]);
    const used = machine.memory.usedFrames;
    const driver = new EduDriver(machine);
    driver.map();
    driver.set(0, [1, 2, 3]);
    const removal = { done: false };
    machine.system.tasks.start("unplug", machine.unplug(FIRST, "surprise"), () => (removal.done = true));
    expect(removal.done).toBe(false);
    expect(driver.config(8, 4)).toEqual([0xff, 0xff, 0xff, 0xff]);
    driver.dma(IOVA, true);
    expect(driver.get(0, 3)).toEqual([1, 2, 3]);
    driver.unmap();
    driver.client.close(driver.device);
    expect(removal.done).toBe(true);
    expect([machine.memory.pinnedFrames, devices(machine), groups(machine)]).toEqual([0, ["00:02.0"], [1]]);
    driver.client.close(driver.iommu);
    // Less than before: its group's domain went with it.
    expect(machine.memory.usedFrames).toBeLessThanOrEqual(used);
    expect(echo(machine, "1", "/sys/bus/pci/rescan").done).toBe(true);
    expect(devices(machine)).toEqual(["00:02.0"]);
  });

  it("goes with all its functions and all that is behind it, and its place is free", () => {
    const machine = buildMachine(presets.switch);
    run(machine, machine.unplug("0000:01:00.0"));
    expect(devices(machine)).toEqual(["00:01.0", "00:02.0", "05:00.0", "06:01.0"]);
    expect(machine.pci.buses.map(({ number }) => number)).toEqual([0, 1, 5, 6]);
    run(machine, machine.plug({ model: "edu", behind: "root0" }));
    expect(devices(machine)).toContain("01:00.0");
    expect(() => run(machine, machine.unplug("0000:04:00.0"))).toThrow(expect.objectContaining({ errno: ENODEV }));
  });
});
