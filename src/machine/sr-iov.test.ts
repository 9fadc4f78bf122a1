import { describe, expect, it } from "vitest";
import { sweepFailures } from "../runtime/failures.test-support.ts";
import { EACCES, EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, ENOTTY, EOPNOTSUPP, ERANGE } from "../runtime/index.ts";
import {
  BIND_FLAG_TOKEN,
  BindIommufd,
  FEATURE_GET,
  FEATURE_PROBE,
  FEATURE_SET,
  Feature,
  PciHotReset,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_DEVICE_RESET,
} from "../uapi/index.ts";
import { buildMachine, defineMachine, type Machine, type MachineInput, parseMachine } from "./index.ts";
import { Lab } from "./lab.test-support.ts";
import { cat, echo, ls, readlink } from "./shell.test-support.ts";
import { stateOfMachine } from "./state.test-support.ts";

type VirtualFunctions = NonNullable<NonNullable<MachineInput["devices"]>[number]["virtualFunctions"]>;

const PHYSICAL = "/sys/bus/pci/devices/0000:01:00.0";
const FIRST = "/sys/bus/pci/devices/0000:01:00.1";
const PARAMETER = "/sys/module/vfio_pci/parameters/enable_sriov";

/** A device with virtual functions behind a root port, as Linux 7.2 was asked about one of QEMU's. */
function input(virtualFunctions: VirtualFunctions = { total: 3 }, driver?: "edu" | "none"): MachineInput {
  return {
    devices: [
      { model: "root-port", name: "root" },
      { model: "edu", behind: "root", virtualFunctions, ...(driver ? { driver } : {}) },
    ],
  };
}

const build = (...of: Parameters<typeof input>): Machine => buildMachine(defineMachine(input(...of)));
const groups = (machine: Machine): string[] =>
  machine.devices.map(({ name, group, pci }) => `${name.slice(5)} ${group?.id} ${pci?.driver?.name ?? "-"}`);
const write = (machine: Machine, text: string): number | undefined =>
  echo(machine, text, `${PHYSICAL}/sriov_numvfs`).error?.errno;
const config = (machine: Machine, name: string, offset: number, width: 1 | 2 | 4): number =>
  machine.pci.find(`0000:${name}`)!.readConfig(offset, width);

describe("the files of a function with SR-IOV, as Linux 7.2 shows them", () => {
  it("say what there can be", () => {
    const machine = build({ total: 3, offset: 2, stride: 4, device: 0x11e9 });
    const files = ["totalvfs", "numvfs", "offset", "stride", "vf_device", "vf_total_msix", "drivers_autoprobe"];
    expect(files.map((file) => cat(machine, `${PHYSICAL}/sriov_${file}`))).toEqual("3 0 2 4 11e9 0 1".split(" "));
    expect(cat(machine, `${PHYSICAL}/ari_enabled`)).toBe("1");
    expect(cat(machine, `${PHYSICAL}/resource`)!.split("\n").slice(7, 9)).toEqual([
      "0x0000000010100000 0x00000000103fffff 0x0000000000040200",
      "0x0000000000000000 0x0000000000000000 0x0000000000000000",
    ]);
    expect(ls(machine, "/sys/bus/pci/devices/0000:00:01.0").filter((name) => name.startsWith("sriov"))).toEqual([]);
  });

  it.each([
    ["none", [ENOENT, undefined, ERANGE, EINVAL, EINVAL, EINVAL, EINVAL, EINVAL]],
    [undefined, [ENOENT, undefined, ERANGE, EINVAL, EINVAL, EINVAL, EINVAL, EINVAL]],
  ] as const)("answer, with the driver %s, a write to sriov_numvfs that has no effect", (driver, answers) => {
    const machine = build({ total: 3 }, driver);
    const texts = ["1", "0", "4", "abc", "-1", "65536", "1x", " 1"];
    expect(texts.map((text) => write(machine, text))).toEqual(answers);
    expect(cat(machine, `${PHYSICAL}/sriov_numvfs`)).toBe("0");
  });

  it("let vfio-pci turn them on when its parameter enable_sriov says so", () => {
    const machine = build();
    expect(cat(machine, PARAMETER)).toBe("N");
    expect([echo(machine, "x", PARAMETER).error?.errno, echo(machine, "2", PARAMETER).error?.errno]).toEqual([
      EINVAL,
      EINVAL,
    ]);
    echo(machine, "on", PARAMETER);
    expect(cat(machine, PARAMETER)).toBe("Y");
    expect(write(machine, "0x1")).toBeUndefined();
    expect(groups(machine)).toEqual(["00:01.0 0 -", "01:00.0 1 vfio-pci", "01:00.1 2 vfio-pci"]);
    expect(["2", "1", "4", "abc"].map((text) => write(machine, text))).toEqual([EBUSY, undefined, ERANGE, EINVAL]);
    expect([write(machine, "0"), write(machine, "2")]).toEqual([undefined, undefined]);
    expect(groups(machine).slice(1)).toEqual(["01:00.0 1 vfio-pci", "01:00.1 2 vfio-pci", "01:00.2 3 vfio-pci"]);
    expect(readlink(machine, `${PHYSICAL}/virtfn1`)).toBe("../0000:01:00.2");
    expect(readlink(machine, `${FIRST}/physfn`)).toBe("../0000:01:00.0");
    expect(echo(machine, "1", `${FIRST}/sriov_vf_msix_count`).error?.errno).toBe(EOPNOTSUPP);
    expect(ls(machine, "/dev/vfio")).toEqual(["1", "2", "3", "devices", "vfio"]);
  });

  it("give a virtual function the ids that it does not have, and no way to remove it alone", () => {
    const machine = build({ total: 2, enabled: 1, device: 0x11e9 });
    const files = ["vendor", "device", "subsystem_vendor", "class", "irq", "driver_override", "reset_method"];
    expect(files.map((file) => cat(machine, `${FIRST}/${file}`))).toEqual(
      "0x1234 0x11e9 0x1af4 0x00ff00 0 vfio-pci flr".split(" "),
    );
    expect(cat(machine, `${FIRST}/uevent`)).toContain("PCI_ID=1234:11E9\n");
    expect(cat(machine, `${FIRST}/resource`)!.split("\n")[0]).toBe(
      "0x0000000010100000 0x00000000101fffff 0x0000000000040200",
    );
    for (const absent of ["remove", "rescan", "sriov_numvfs"]) expect(ls(machine, FIRST)).not.toContain(absent);
    expect(() => machine.system.run("unplug", machine.unplug("0000:01:00.1"))).toThrow(
      expect.objectContaining({ errno: EINVAL }),
    );
  });
});

describe("configuration space, as the PCI Express specification has it", () => {
  it("has the ids of a virtual function nowhere, no BAR, no INTx, and nothing to turn on but mastering the bus", () => {
    const machine = build({ total: 2, enabled: 2 });
    const read = (offset: number): number => config(machine, "01:00.2", offset, 4);
    expect([read(0), read(0x10), config(machine, "01:00.2", 0x3d, 1)]).toEqual([0xffffffff, 0, 0]);
    const virtual = machine.pci.find("0000:01:00.2")!;
    virtual.writeConfig(4, 2, 0xffff);
    virtual.writeConfig(0x10, 4, 0xffffffff);
    expect([config(machine, "01:00.2", 4, 2), read(0x10), virtual.multifunction]).toEqual([4, 0, false]);
  });

  it("has numbers, a device id and shares of BARs in the SR-IOV capability, which a client reads and cannot write", () => {
    const lab = new Lab(input({ total: 3, enabled: 2 }));
    const physical = lab.bound(0);
    const at = 7 * 2 ** 40 + lab.machine.pci.find("0000:01:00.0")!.extendedCapability(0x10)!;
    const words = (): string[] => {
      const bytes = new Uint8Array(0x28);
      lab.client.read(physical, at, bytes);
      return [...new Uint32Array(bytes.buffer)].map((word) => word.toString(16));
    };
    const expected = "10010 0 19 30003 2 10001 11e80000 553 1 10100000".split(" ");
    expect(words()).toEqual(expected);
    lab.client.write(physical, at + 8, new Uint8Array(32).fill(0xff));
    expect(words()).toEqual(expected);
  });

  it("shows a client of VFIO a virtual function as any other, whose memory always answers", () => {
    const lab = new Lab(input({ total: 2, enabled: 1 }));
    const vf = lab.open(1);
    lab.client.ioctl(vf, VFIO_DEVICE_BIND, new BindIommufd(), tokenOf(lab, lab.bound(0)));
    const read = (offset: number, length: number): number[] => {
      const bytes = new Uint8Array(length);
      lab.client.read(vf, offset, bytes);
      return [...bytes];
    };
    const CONFIG = 7 * 2 ** 40;
    expect(read(CONFIG, 6)).toEqual([0x34, 0x12, 0xe8, 0x11, 2, 0]);
    lab.client.write(vf, CONFIG + 0x10, Uint8Array.of(0xff, 0xff, 0xff, 0xff));
    expect(read(CONFIG + 0x10, 4)).toEqual([0, 0, 0xf0, 0xff]);
    lab.client.write(vf, CONFIG + 4, Uint8Array.of(0, 0));
    expect(read(CONFIG + 4, 2)).toEqual([0, 0]);
    expect(read(0, 4)).toEqual([0xed, 0, 0, 1]);
    expect(cat(lab.machine, `${FIRST}/enable`)).toBe("1");
  });
});

/** A bind with the token that was set through an open device before: sixteen bytes of 7. */
function tokenOf(lab: Lab, physical: number): Partial<Record<string, number | bigint>> & { argsz: number } {
  const scratch = lab.client.process.memory.map(1);
  lab.client.process.memory.write(scratch, new Uint8Array(16).fill(7));
  const feature = new Feature(new Uint8Array(24).fill(7));
  lab.client.ioctl(physical, VFIO_DEVICE_FEATURE, feature, { argsz: 24, flags: FEATURE_SET });
  return { argsz: 24, flags: BIND_FLAG_TOKEN, iommufd: lab.iommu, token_uuid_ptr: BigInt(scratch) };
}

describe("tokens, as Linux 7.2 wants them", () => {
  function openings() {
    const lab = new Lab(input({ total: 3, enabled: 2 }));
    const { memory } = lab.client.process;
    const scratch = memory.map(1);
    const bind = (device: number, token?: number): number | undefined => {
      if (token !== undefined) memory.write(scratch, new Uint8Array(16).fill(token));
      const given = token === undefined ? {} : { flags: BIND_FLAG_TOKEN, token_uuid_ptr: BigInt(scratch) };
      return lab.errno(() =>
        lab.client.ioctl(device, VFIO_DEVICE_BIND, new BindIommufd(), { argsz: 24, iommufd: lab.iommu, ...given }),
      );
    };
    return { lab, bind, open: (number: number) => lab.open(number) };
  }

  it("keep virtual functions from who does not know that of the physical one", () => {
    const { lab, bind, open } = openings();
    const virtual = open(1);
    expect([bind(virtual), bind(virtual, 1)]).toEqual([EACCES, EACCES]);
    const physical = open(0);
    expect([bind(physical, 1), bind(virtual, 2), bind(virtual, 1)]).toEqual([undefined, EACCES, undefined]);
    lab.client.close(physical);
    const again = open(0);
    expect([bind(again), bind(again, 2), bind(again, 1)]).toEqual([EACCES, EACCES, undefined]);
    lab.client.close(virtual);
    lab.client.close(again);
    const fresh = open(0);
    expect([bind(fresh, 3), bind(open(2), 3)]).toEqual([undefined, undefined]);
  });

  it("are set by a feature of the physical function, which only it has", () => {
    const { lab, bind, open } = openings();
    const [physical, virtual] = [open(0), open(1)];
    const feature = (device: number, flags: number, argsz: number): number | undefined =>
      lab.errno(() =>
        lab.client.ioctl(device, VFIO_DEVICE_FEATURE, new Feature(new Uint8Array(24).fill(5)), { argsz, flags }),
      );
    expect(bind(physical)).toBeUndefined();
    const probeSet = FEATURE_PROBE | FEATURE_SET;
    expect([
      feature(physical, probeSet, 8),
      feature(physical, FEATURE_PROBE | FEATURE_GET, 8),
      feature(physical, FEATURE_SET, 8),
      feature(physical, FEATURE_GET, 24),
      feature(physical, 0, 24),
      feature(physical, FEATURE_SET, 24),
    ]).toEqual([undefined, EINVAL, EINVAL, EINVAL, EINVAL, undefined]);
    expect([bind(virtual, 4), bind(virtual, 5)]).toEqual([EACCES, undefined]);
    expect([feature(virtual, probeSet, 8), feature(virtual, FEATURE_SET, 24)]).toEqual([ENOTTY, ENOTTY]);
  });

  it("are nothing to a function that shares nothing with others of vfio-pci", () => {
    const lab = new Lab({ devices: [{ model: "edu" }] });
    const bind = (address: bigint) => () =>
      lab.client.ioctl(lab.open(0), VFIO_DEVICE_BIND, new BindIommufd(), {
        argsz: 24,
        flags: BIND_FLAG_TOKEN,
        iommufd: lab.iommu,
        token_uuid_ptr: address,
      });
    const scratch = lab.client.process.memory.map(1);
    expect([lab.errno(bind(BigInt(scratch))), lab.errno(bind(8n))]).toEqual([EINVAL, EFAULT]);
  });
});

describe("virtual functions", () => {
  it("do DMA under numbers of their own, each into its own address space", () => {
    const lab = new Lab(input({ total: 10, enabled: 10 }, "edu"));
    expect(groups(lab.machine).at(-1)).toBe("01:01.2 11 vfio-pci");
    for (const [number, value] of [
      [0, 41],
      [9, 42],
    ])
      lab.attach(lab.bound(number), lab.ioas(value));
    const indexOf = (name: string): number => lab.machine.devices.findIndex((device) => device.name.endsWith(name));
    expect(["01:00.1", "01:01.2", "01:00.2"].map((name) => lab.dma(indexOf(name), 0x10000))).toEqual([
      41,
      42,
      undefined,
    ]);
  });

  it("are reset with their physical function, and go on after that", () => {
    const lab = new Lab(input({ total: 2, enabled: 1 }));
    const physical = lab.bound(0);
    const virtual = lab.machine.pci.find("0000:01:00.1")!;
    virtual.writeConfig(4, 2, 4);
    virtual.writeBar(0, 4, 4, 5n);
    lab.client.ioctl(physical, VFIO_DEVICE_RESET, new Feature());
    expect([virtual.readConfig(4, 2), virtual.readBar(0, 4, 4)]).toEqual([0, 0n]);
    expect([cat(lab.machine, `${PHYSICAL}/sriov_numvfs`), virtual.bars[0]?.address]).toEqual(["1", 0x10100000]);
  });

  it("have no part in a reset of their bus, and keep their physical function from one", () => {
    const lab = new Lab(input({ total: 2, enabled: 1 }));
    const physical = lab.bound(0);
    const virtual = lab.open(1);
    lab.client.ioctl(virtual, VFIO_DEVICE_BIND, new BindIommufd(), tokenOf(lab, physical));
    const reset = (device: number): number | undefined =>
      lab.errno(() => lab.client.ioctl(device, VFIO_DEVICE_PCI_HOT_RESET, new PciHotReset(), { argsz: 12 }));
    expect([reset(physical), reset(virtual)]).toEqual([EINVAL, EINVAL]);
    lab.client.close(virtual);
    expect(write(lab.machine, "0")).toBeUndefined();
    expect(reset(physical)).toBeUndefined();
  });

  it("are waited for when they are turned off, or the driver lets go of their physical function", () => {
    const lab = new Lab(input({ total: 2, enabled: 2 }));
    const { machine } = lab;
    const [first, second] = [lab.open(1), lab.open(2)];
    const off = echo(machine, "0", `${PHYSICAL}/sriov_numvfs`);
    expect([off.done, ls(machine, "/dev/vfio/devices")]).toEqual([false, ["vfio0", "vfio2"]]);
    lab.client.close(first);
    expect(off.done).toBe(false);
    lab.client.close(second);
    expect([off.done, groups(machine)]).toEqual([true, ["00:01.0 0 -", "01:00.0 1 vfio-pci"]]);

    expect(write(machine, "1")).toBeUndefined();
    const again = lab.open(1);
    const unbind = echo(machine, "0000:01:00.0", "/sys/bus/pci/drivers/vfio-pci/unbind");
    expect([unbind.done, readlink(machine, `${PHYSICAL}/driver`)]).toEqual([false, undefined]);
    const on = echo(machine, "2", `${PHYSICAL}/sriov_numvfs`);
    lab.client.close(again);
    expect([unbind.done, on.done, on.error?.errno]).toEqual([true, true, ENOENT]);
    expect(groups(machine)).toEqual(["00:01.0 0 -", "01:00.0 1 -"]);
  });

  it("go with their physical function, and are not found again with it", () => {
    const machine = build({ total: 3, enabled: 3 });
    expect(echo(machine, "1", `${PHYSICAL}/remove`)).toEqual({ done: true });
    expect(groups(machine)).toEqual(["00:01.0 0 -"]);
    expect(echo(machine, "1", "/sys/bus/pci/rescan")).toEqual({ done: true });
    expect(groups(machine)).toEqual(["00:01.0 0 -", "01:00.0 1 -"]);
    expect(cat(machine, `${PHYSICAL}/sriov_numvfs`)).toBe("0");
  });

  it("are gone at once when it is pulled out by surprise, and it can be plugged in again", () => {
    const machine = build({ total: 3, enabled: 2 });
    machine.system.run("unplug", machine.unplug("0000:01:00.0", "surprise"));
    expect(groups(machine)).toEqual(["00:01.0 0 -"]);
    const device = { model: "edu", behind: "root", virtualFunctions: { total: 3, enabled: 1 } } as const;
    machine.system.run("plug", machine.plug(device));
    expect(groups(machine).slice(1)).toEqual(["01:00.0 1 vfio-pci", "01:00.1 2 vfio-pci"]);
    expect(() =>
      machine.system.run("plug", machine.plug({ model: "edu", behind: "root", address: "01:00.3" })),
    ).toThrow(/both at 01:00\.3/);
    machine.system.run("power-down", machine.powerDown());
    expect([machine.core.groups.size, machine.devices.length]).toEqual([0, 0]);
  });

  it("get a driver that matches them, unless their physical function keeps them from that", () => {
    const machine = build({ total: 3 }, "edu");
    expect(write(machine, "1")).toBeUndefined();
    expect(groups(machine).at(-1)).toBe("01:00.1 2 edu");
    write(machine, "0");
    echo(machine, "n", `${PHYSICAL}/sriov_drivers_autoprobe`);
    write(machine, "1");
    expect(echo(machine, "0000:01:00.1", "/sys/bus/pci/drivers/edu/bind").error?.errno).toBe(ENODEV);
    echo(machine, "vfio-pci", `${FIRST}/driver_override`);
    expect(echo(machine, "0000:01:00.1", "/sys/bus/pci/drivers_probe")).toEqual({ done: true });
    expect(groups(machine).at(-1)).toBe("01:00.1 2 vfio-pci");
  });

  it("leave no trace, whichever step of turning them on fails", () => {
    const { machine } = new Lab(input({ total: 3, enabled: 1 }));
    const physical = machine.pci.find("0000:01:00.0")!;
    const turn = (count: number): void =>
      machine.system.run(`${count}`, machine.hotPlug.setVirtualFunctions(physical, count));
    turn(0);
    const points = sweepFailures(machine.system, {
      act: () => turn(2),
      undo: () => turn(0),
      state: () => stateOfMachine(machine),
    });
    expect(points).toEqual(
      expect.arrayContaining(["pci.virtual-functions.turn-on", "iommu.group.allocate", "vfio.device.probe"]),
    );
  });
});

describe("in a machine file", () => {
  const errors = async (devices: string): Promise<string> => {
    try {
      await parseMachine(`devices:\n${devices}`, "lab.yaml");
      return "";
    } catch (error) {
      return (error as Error).message;
    }
  };

  it("they have places of their own, beside which others are put", () => {
    const { devices } = defineMachine({
      devices: [
        { model: "edu", functions: 2, virtualFunctions: { total: 4, enabled: 1 } },
        { model: "edu" },
        { model: "edu", virtualFunctions: { total: 3, driver: "none" }, driver: "edu" },
      ],
    });
    expect(
      devices.map(({ address, virtualFunctions }) => [address.device, address.function, virtualFunctions]),
    ).toEqual([
      [1, 0, { total: 4, enabled: 1, offset: 2, stride: 2, device: 0x11e8, driver: "vfio-pci" }],
      [1, 1, { total: 4, enabled: 1, offset: 2, stride: 2, device: 0x11e8, driver: "vfio-pci" }],
      [3, 0, undefined],
      [4, 0, { total: 3, enabled: 0, offset: 1, stride: 1, device: 0x11e8, driver: undefined }],
    ]);
  });

  it.each([
    [
      "a device that has none",
      "- { model: copy-engine, virtualFunctions: { total: 1 } }",
      "a copy-engine has none; leave it out",
    ],
    ["a bridge", "- { model: root-port, virtualFunctions: { total: 1 } }", "a root-port is a bridge and has none"],
    [
      "more than there are",
      "- { model: edu, virtualFunctions: { total: 2, enabled: 3 } }",
      "has 3 enabled of 2; at most 2 is right",
    ],
    [
      "a place that is taken",
      "- { model: edu, address: '00:01.0', virtualFunctions: { total: 2 } }\n- { model: edu, address: '00:01.1' }",
      "devices[1] and devices[0] are both at 00:01.1",
    ],
    ["a bus that ends", "- { model: edu, virtualFunctions: { total: 255 } }", "go up to number 263; a bus has 255"],
    [
      "two in one place",
      "- { model: edu, functions: 2, virtualFunctions: { total: 2, offset: 1 } }",
      "are in the same places; another offset or stride",
    ],
    [
      "a driver that turns none on",
      "- { model: edu, driver: none, virtualFunctions: { total: 2, enabled: 1 } }",
      "a driver turns them on: vfio-pci or edu is right",
    ],
    [
      "no IOMMU, and so no driver",
      "- { model: edu, iommu: none, virtualFunctions: { total: 2, enabled: 1 } }",
      "a driver turns them on: vfio-pci or edu is right",
    ],
    [
      "another driver than vfio-pci beside it",
      "- { model: edu, virtualFunctions: { total: 2, enabled: 1, driver: none } }",
      "those of a function with vfio-pci get the same; leave it out",
    ],
    [
      "conventional PCI",
      "- { model: edu, capabilities: { express: false }, virtualFunctions: { total: 2 } }",
      "but virtualFunctions needs PCI Express; true is right",
    ],
  ])("%s is told", async (_what, devices, message) => {
    expect(await errors(devices)).toContain(message);
  });

  it("a platform device cannot have the stream id of one", async () => {
    const devices = "- { model: edu, virtualFunctions: { total: 2 } }\nplatform:\n- { name: dma0, streams: [0x9] }";
    expect(await errors(devices)).toMatch(/0x9/);
  });
});
