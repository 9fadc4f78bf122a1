import { describe, expect, it } from "vitest";
import { EduDevice } from "../hardware/devices/index.ts";
import type { Group } from "../iommu/index.ts";
import type { IommufdContext } from "../iommufd/index.ts";
import { PciBus } from "../pci/index.ts";
import { EFAULT, refuse } from "../runtime/index.ts";
import {
  AttachIommufdPt,
  BindIommufd,
  DetachIommufdPt,
  DeviceInfo,
  GroupStatus,
  iommufdCommands,
  PciDependentDevice,
  PciHotReset,
  PciHotResetInfo,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_DETACH,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
} from "../uapi/index.ts";
import { vfioNodes } from "./sysfs.ts";
import { World } from "./world.test-support.ts";

const VIABLE = 1;
const CONTAINER_SET = 2;
const FIRST = "0000:00:01.0";
const SECOND = "0000:00:02.0";

/** Two devices that share a group, on a root bus or behind a bridge, and what a client does with their group. */
class GroupWorld extends World {
  /** The group's only open file, as a descriptor. */
  group: number;

  constructor({ bridge = false } = {}) {
    super(bridge ? (system) => [new EduDevice(system)] : () => []);
    let bus = this.host.root;
    if (bridge) {
      bus = new PciBus(this.host, 1, this.host.functions[0]);
      this.host.buses.push(bus);
    }
    let shared: Group | undefined;
    this.iommu.groupFor = (_device, core) => (shared ??= core.newGroup());
    for (const slot of [1, 2]) this.plug(new EduDevice(this.system), bus, slot);
    this.group = this.openGroup() as number;
  }

  get vfioGroup() {
    return this.driver.groups.at(-1)!;
  }

  /** A descriptor, or the name of an errno. */
  openGroup(): number | string {
    let fd = 0;
    const { result } = this.outcome(
      function* (this: GroupWorld) {
        fd = this.process.addFile({ kind: "ours", file: yield* this.vfioGroup.open(this.process) });
        return fd;
      }.call(this),
    );
    return result;
  }

  close(fd: number | string): void {
    this.run(this.process.close(fd as number));
  }

  on(fd: number, request: number, argument: number): number | string {
    const file = this.process.file(fd);
    if (file.kind !== "ours") throw new Error(`${fd} is no file of ours`);
    return this.outcome(file.file.ioctl(this.process, request, argument)).result;
  }

  status(): number | string {
    this.process.memory.write(this.scratch, new GroupStatus(Uint8Array.of(8, 0, 0, 0, 0xff, 0, 0, 0)).$bytes);
    const result = this.on(this.group, VFIO_GROUP_GET_STATUS, this.scratch);
    const bytes = new Uint8Array(8);
    this.process.memory.read(this.scratch, bytes);
    return result === 0 ? bytes[4] : result;
  }

  setContainer(fd: number): number | string {
    this.process.memory.write(this.scratch, new Uint8Array(new Int32Array([fd]).buffer));
    return this.on(this.group, VFIO_GROUP_SET_CONTAINER, this.scratch);
  }

  unsetContainer(): number | string {
    return this.on(this.group, VFIO_GROUP_UNSET_CONTAINER, 0);
  }

  /** A descriptor of the device, or the name of an errno. */
  device(name = FIRST): number | string {
    this.process.memory.write(this.scratch, new TextEncoder().encode(`${name}\0`));
    return this.on(this.group, VFIO_GROUP_GET_DEVICE_FD, this.scratch);
  }

  /** GET_INFO of a device: 0 where it is usable. */
  info(fd: number | string): number | string {
    this.process.memory.write(this.scratch, Uint8Array.of(24, 0, 0, 0));
    return this.on(fd as number, VFIO_DEVICE_GET_INFO, this.scratch);
  }

  bind(cdev: ReturnType<World["open"]>, iommufd: number): number | string {
    return this.ioctl(cdev, VFIO_DEVICE_BIND, BindIommufd, { argsz: 16, iommufd }).result;
  }

  /** The kinds of what is in a context, by id. */
  objects({ objects }: IommufdContext): string[] {
    return objects.list().map(({ id, kind }) => `${id} ${kind}`);
  }
}

describe("a group file", () => {
  it("is open once, and again when it was closed", () => {
    const world = new GroupWorld();
    expect(world.openGroup()).toBe("EBUSY");
    world.close(world.group);
    expect(world.openGroup()).toBe(world.group);
  });

  it("knows its own ioctls only", () => {
    const world = new GroupWorld();
    for (const request of [0x3b64, 0x3b66, 0x3b6b, 0x3b70, 0x3b76, 0x3b84]) {
      expect(world.on(world.group, request, world.scratch)).toBe("ENOTTY");
    }
  });

  it("tells its status as far as the client has room", () => {
    const world = new GroupWorld();
    const file = world.process.file(world.group) as { file: Parameters<World["ioctl"]>[0] };
    const status = (argsz: number) => world.ioctl(file.file, VFIO_GROUP_GET_STATUS, GroupStatus, { argsz, flags: 9 });
    expect(status(7)).toMatchObject({ result: "EINVAL", out: { flags: 9 } });
    expect(status(100)).toMatchObject({ result: 0, out: { argsz: 100, flags: VIABLE } });
    expect(world.on(world.group, VFIO_GROUP_GET_STATUS, 1)).toBe("EFAULT");
  });

  it("is left without devices when their driver lets go of them", () => {
    const world = new GroupWorld();
    const [, ...names] = [...vfioNodes(world.driver).keys()].filter((path) => /^\/dev\/vfio\/\d/.test(path));
    expect(names).toEqual([]);
    for (const member of world.host.functions) world.run(world.host.drivers.unbind(member));
    const { fd } = world.openIommufd();
    expect(world.status()).toBe("ENODEV");
    expect(world.setContainer(fd)).toBe("ENODEV");
    expect(world.device()).toBe("ENODEV");
    expect([...vfioNodes(world.driver).keys()].filter((path) => /^\/dev\/vfio\/\d/.test(path))).toEqual([]);
    world.close(world.group);
  });

  it("cannot be opened when no device is left", () => {
    const world = new GroupWorld();
    const group = world.vfioGroup;
    world.close(world.group);
    for (const member of world.host.functions) world.run(world.host.drivers.unbind(member));
    expect(world.outcome(group.open(world.process) as never).result).toBe("ENODEV");
  });

  it("has nodes where Linux has them", () => {
    const nodes = vfioNodes(new GroupWorld().driver);
    expect(nodes.get("/dev/vfio/0")).toMatchObject({ kind: "device", minor: 0, mode: 0o600 });
    expect(nodes.get("/sys/class/vfio/0")).toEqual({ kind: "link", target: "../../devices/virtual/vfio/0" });
    const uevent = nodes.get("/sys/devices/virtual/vfio/0/uevent");
    expect(uevent?.kind === "text" && uevent.read()).toMatch(/^MAJOR=\d+\nMINOR=0\nDEVNAME=vfio\/0\n$/);
  });
});

describe("the container of a group", () => {
  it("is an iommufd, and only that", () => {
    const world = new GroupWorld();
    const other = world.process.addFile({ kind: "other", label: "/dev/null" });
    const { fd: event, event: counter } = world.addEvent();
    expect(world.on(world.group, VFIO_GROUP_SET_CONTAINER, 1)).toBe("EFAULT");
    expect(world.setContainer(-1)).toBe("EBADF");
    expect(world.setContainer(99)).toBe("EBADF");
    expect(world.setContainer(other)).toBe("EBADFD");
    expect(world.setContainer(world.group)).toBe("EBADFD");
    expect(world.setContainer(event)).toBe("EBADFD");
    expect(counter.held).toBe(0);
    expect(world.unsetContainer()).toBe("EINVAL");
    expect(world.status()).toBe(VIABLE);
  });

  it("gets a compatibility IOAS, and keeps it when it is unset", () => {
    const world = new GroupWorld();
    const { fd, context } = world.openIommufd();
    expect(world.setContainer(fd)).toBe(0);
    expect(world.objects(context)).toEqual(["1 IOAS"]);
    expect(world.status()).toBe(VIABLE | CONTAINER_SET);
    expect(world.setContainer(fd)).toBe("EINVAL");
    expect(world.setContainer(99)).toBe("EBADF");
    expect(world.unsetContainer()).toBe(0);
    expect(world.status()).toBe(VIABLE);
    expect(world.setContainer(fd)).toBe(0);
    expect(world.objects(context)).toEqual(["1 IOAS"]);
  });

  it("stays while it is set, also when its file is closed", () => {
    const world = new GroupWorld();
    const { fd, context } = world.openIommufd();
    world.setContainer(fd);
    world.close(fd);
    expect(world.objects(context)).toEqual(["1 IOAS"]);
    const device = world.device();
    expect(world.info(device)).toBe(0);
    world.close(world.group);
    expect(world.objects(context)).toEqual(["1 IOAS", "2 DEVICE", "3 HWPT_PAGING"]);
    world.close(device);
    expect(context.objects.isEmpty).toBe(true);
  });
});

describe("GET_DEVICE_FD", () => {
  it.each<[string, number | string]>([
    ["", "ENODEV"],
    ["foo", "ENODEV"],
    ["0000:ff:1f.0", "ENODEV"],
    [` ${FIRST}`, "ENODEV"],
    [`${FIRST}x`, "ENODEV"],
    [`${FIRST}\t`, "ENODEV"],
    [FIRST.slice(0, -1), "ENODEV"],
    [`${FIRST} foo`, "EINVAL"],
    [`${FIRST} vf_token=12345678-1234-1234-1234-123456789abc`, "EINVAL"],
    ["a".repeat(4096), "EINVAL"],
    [FIRST, "a descriptor"],
    [`${FIRST} `, "a descriptor"],
    [`${SECOND} \t `, "a descriptor"],
  ])("reads the name %j", (name, answer) => {
    const world = new GroupWorld();
    world.setContainer(world.openIommufd().fd);
    const device = world.device(name);
    expect(typeof device === "number" ? "a descriptor" : device).toBe(answer);
  });

  it("reads no byte behind the name", () => {
    const world = new GroupWorld();
    world.setContainer(world.openIommufd().fd);
    const page = world.process.memory.map(1);
    const name = new TextEncoder().encode(`${FIRST}\0`);
    world.process.memory.write(page + 4096 - name.length, name);
    expect(world.on(world.group, VFIO_GROUP_GET_DEVICE_FD, page + 4096 - name.length)).toBeTypeOf("number");
    world.process.memory.write(page + 4096 - name.length, name.fill(0x61));
    expect(world.on(world.group, VFIO_GROUP_GET_DEVICE_FD, page + 4096 - name.length)).toBe("EFAULT");
  });

  it("wants a container, after a device that is there", () => {
    const world = new GroupWorld();
    expect(world.device("foo")).toBe("ENODEV");
    expect(world.device()).toBe("EINVAL");
  });

  it("binds and attaches with the first file of a device, and gives back with the last", () => {
    const world = new GroupWorld();
    const { fd, context } = world.openIommufd();
    world.setContainer(fd);
    const first = world.device();
    expect(world.objects(context)).toEqual(["1 IOAS", "2 DEVICE", "3 HWPT_PAGING"]);
    const again = world.device();
    const second = world.device(SECOND);
    expect(world.objects(context)).toEqual(["1 IOAS", "2 DEVICE", "3 HWPT_PAGING", "4 DEVICE"]);
    for (const device of [first, again, second]) expect(world.info(device)).toBe(0);
    world.close(first);
    world.close(second);
    expect(world.info(again)).toBe(0);
    expect(world.objects(context)).toEqual(["1 IOAS", "2 DEVICE", "3 HWPT_PAGING"]);
    world.close(again);
    expect(world.objects(context)).toEqual(["1 IOAS"]);
    expect(world.devices.map((device) => device.bound)).toEqual([undefined, undefined]);
  });

  it("gives a file that knows no ATTACH and DETACH, and refuses a BIND", () => {
    const world = new GroupWorld();
    const { fd } = world.openIommufd();
    world.setContainer(fd);
    const device = world.process.file(world.device() as number) as { file: Parameters<World["ioctl"]>[0] };
    expect(world.ioctl(device.file, VFIO_DEVICE_BIND, BindIommufd, { iommufd: fd }).result).toBe("EINVAL");
    expect(world.ioctl(device.file, VFIO_DEVICE_BIND, BindIommufd, { argsz: 15, iommufd: fd }).result).toBe("EINVAL");
    expect(world.ioctl(device.file, VFIO_DEVICE_ATTACH, AttachIommufdPt, { pt_id: 1 }).result).toBe("ENOTTY");
    expect(world.ioctl(device.file, VFIO_DEVICE_DETACH, DetachIommufdPt).result).toBe("ENOTTY");
    expect(world.ioctl(device.file, VFIO_DEVICE_GET_INFO, DeviceInfo).result).toBe(0);
  });

  it("binds nobody where there is no compatibility IOAS any more, or where the device cannot be attached", () => {
    const world = new GroupWorld();
    const { fd, context } = world.openIommufd();
    world.setContainer(fd);
    context.compatIoas = undefined;
    expect(world.device()).toBe("ENODEV");
    world.unsetContainer();
    world.setContainer(fd); // a new one
    world.iommu.refuses = (_device, domain) => domain.type === "unmanaged";
    expect(world.device()).toBe("EINVAL");
    expect(world.objects(context)).toEqual(["1 IOAS", "2 IOAS"]);
    world.iommu.refuses = () => false;
    expect(world.device()).toBeTypeOf("number");
  });

  it("takes back what it opened where the process has no room for a descriptor", () => {
    const world = new GroupWorld();
    const { fd, context } = world.openIommufd();
    world.setContainer(fd);
    const { installFileAsResult } = world.process;
    world.process.installFileAsResult = () => refuse(EFAULT, () => "no room");
    expect(world.device()).toBe("EFAULT");
    expect(world.objects(context)).toEqual(["1 IOAS"]);
    world.process.installFileAsResult = installFileAsResult;
    expect(world.device()).toBeTypeOf("number");
  });

  it("leaves nothing behind wherever it fails", () => {
    for (let nth = 0; ; nth++) {
      const world = new GroupWorld();
      const { fd, context } = world.openIommufd();
      world.setContainer(fd);
      let reached = 0;
      world.system.failures.inject(() => reached++ === nth);
      const device = world.device();
      world.system.failures.inject(undefined);
      if (typeof device === "number") {
        expect(nth).toBeGreaterThan(4);
        return;
      }
      expect([world.objects(context), world.devices[0].bound]).toEqual([["1 IOAS"], undefined]);
      expect(world.host.functions[0].enableCount).toBe(0);
      expect(world.device()).toBeTypeOf("number");
    }
  });
});

describe("group and container apart from each other", () => {
  it("a device that is open stays in its container when the group gets another", () => {
    const world = new GroupWorld();
    const [one, other] = [world.openIommufd(), world.openIommufd()];
    world.setContainer(one.fd);
    const first = world.device();
    expect(world.unsetContainer()).toBe(0);
    expect(world.status()).toBe(0); // somebody has claimed it
    expect(world.setContainer(other.fd)).toBe(0);
    expect(world.status()).toBe(VIABLE | CONTAINER_SET);
    expect(world.device()).toBeTypeOf("number"); // in the first one
    expect(world.device(SECOND)).toBe("EPERM"); // the group belongs to the first one
    expect(world.objects(other.context)).toEqual(["1 IOAS"]);
    expect(world.info(first)).toBe(0);
  });

  it("a device that is open outlives its group's file", () => {
    const world = new GroupWorld();
    const { fd } = world.openIommufd();
    world.setContainer(fd);
    const device = world.device();
    world.close(world.group);
    expect(world.info(device)).toBe(0);
    world.group = world.openGroup() as number;
    expect(world.status()).toBe(0);
    expect(world.device()).toBe("EINVAL");
    world.setContainer(fd);
    expect(world.device(SECOND)).toBeTypeOf("number");
  });

  it("all devices of a group are in the address space that was the container's when the first was opened", () => {
    const world = new GroupWorld();
    const { fd, context } = world.openIommufd();
    world.setContainer(fd);
    const device = world.device();
    const { IOAS_ALLOC } = iommufdCommands;
    const answer = world.ioctl(context, IOAS_ALLOC.number, IOAS_ALLOC.struct);
    context.compatIoas = context.objects.any(answer.out.out_ioas_id) as typeof context.compatIoas;
    expect(world.device(SECOND)).toBe("EINVAL");
    world.close(device);
    expect(world.device(SECOND)).toBeTypeOf("number");
  });
});

describe("a group and the cdevs of its devices", () => {
  it("no cdev can be bound while the group is open", () => {
    const world = new GroupWorld();
    const { fd } = world.openIommufd();
    const cdev = world.open(0);
    expect(world.bind(cdev, -1)).toBe("EINVAL");
    expect(world.bind(cdev, 99)).toBe("EBUSY");
    expect(world.bind(cdev, fd)).toBe("EBUSY");
    world.close(world.group);
    expect(world.bind(cdev, 99)).toBe("EBADF");
    expect(world.openGroup()).toBe(world.group);
    world.close(world.group);
    expect(world.bind(cdev, fd)).toBe(0);
  });

  it("the group cannot be opened while a cdev is bound, whichever", () => {
    const world = new GroupWorld();
    world.close(world.group);
    const { fd } = world.openIommufd();
    const cdevs = [world.open(0), world.open(1)];
    expect(cdevs.map((cdev) => world.bind(cdev, fd))).toEqual([0, 0]);
    expect(world.openGroup()).toBe("EBUSY");
    world.run(cdevs[0].release());
    expect(world.openGroup()).toBe("EBUSY");
    world.run(cdevs[1].release());
    expect(world.openGroup()).toBeTypeOf("number");
  });

  it("a device that its group gave out is nobody else's, when the group's file is closed too", () => {
    const world = new GroupWorld();
    const [one, other] = [world.openIommufd(), world.openIommufd()];
    world.setContainer(one.fd);
    const device = world.device();
    world.close(world.group);
    const cdevs = [world.open(0), world.open(1)];
    expect(world.bind(cdevs[0], one.fd)).toBe("EINVAL");
    expect(world.bind(cdevs[1], other.fd)).toBe("EPERM");
    expect(world.bind(cdevs[1], one.fd)).toBe(0);
    expect(world.openGroup()).toBe("EBUSY");
    world.close(device);
    expect(world.bind(cdevs[0], one.fd)).toBe(0);
  });

  it("a driver that lets go of a device waits for whoever has it through the group", () => {
    const world = new GroupWorld();
    world.setContainer(world.openIommufd().fd);
    const device = world.device();
    const unbinding = world.host.drivers.unbind(world.host.functions[0]);
    let done = false;
    world.system.tasks.spawn("unbind", unbinding, () => {
      done = true;
    });
    world.system.tasks.drain();
    expect([done, world.device()]).toEqual([false, "ENODEV"]);
    world.close(device);
    expect(done).toBe(true);
  });
});

describe("a reset of the whole bus, of a device that its group gave out", () => {
  function behindBridge() {
    const world = new GroupWorld({ bridge: true });
    const { fd } = world.openIommufd();
    world.setContainer(fd);
    const device = world.process.file(world.device("0000:01:01.0") as number) as {
      file: Parameters<World["ioctl"]>[0];
    };
    const info = (argsz: number) => {
      const answer = world.ioctl(device.file, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, PciHotResetInfo, { argsz });
      const entries = new Uint8Array(16);
      world.process.memory.read(world.scratch + 12, entries);
      const devices = [0, 8].map((at) => new PciDependentDevice(entries.subarray(at)));
      return { ...answer, devices: devices.map(({ devid, bus, devfn }) => [devid, bus, devfn]) };
    };
    const reset = (...fds: number[]) =>
      world.ioctl(
        device.file,
        VFIO_DEVICE_PCI_HOT_RESET,
        PciHotReset,
        { count: fds.length },
        new Uint8Array(new Int32Array(fds).buffer),
      ).result;
    return { world, fd, info, reset };
  }

  it("names the groups of the functions", () => {
    const { info } = behindBridge();
    expect(info(27)).toMatchObject({ result: "ENOSPC", out: { flags: 0, count: 2 } });
    expect(info(28)).toMatchObject({
      result: 0,
      out: { flags: 0, count: 2 },
      devices: [
        [1, 1, 8],
        [1, 1, 16],
      ],
    });
  });

  it("names that of a function without VFIO's driver too, which keeps all of them from being reset", () => {
    const { world, info, reset } = behindBridge();
    world.run(world.host.drivers.unbind(world.host.find("0000:01:02.0")!));
    expect(info(28)).toMatchObject({
      result: 0,
      devices: [
        [1, 1, 8],
        [1, 1, 16],
      ],
    });
    expect(reset(world.group)).toBe("EINVAL");
  });

  it("is allowed to who shows the groups of all of them", () => {
    const { world, fd, reset } = behindBridge();
    expect(reset()).toBe("EINVAL");
    expect(reset(99)).toBe("EBADF");
    expect(reset(world.group, 99)).toBe("EBADF");
    expect(reset(fd)).toBe("EINVAL");
    expect(reset(world.group, world.group, world.group)).toBe("EINVAL");
    expect(reset(world.group, world.group)).toBe(0);
    expect(reset(world.group)).toBe(0);
    world.unsetContainer();
    expect(reset(world.group)).toBe(0);
  });
});
