import { describe, expect, it } from "vitest";
import { EduDevice } from "../hardware/devices/index.ts";
import {
  COMMAND,
  express,
  msi,
  msix,
  PciBus,
  PciDevice,
  type PciFunction,
  type PciIdentity,
  powerManagement,
} from "../pci/index.ts";
import { EBUSY, refuse, type System } from "../runtime/index.ts";
import {
  AttachIommufdPt,
  BindIommufd,
  DetachIommufdPt,
  DeviceInfo,
  Feature,
  IoEventFd,
  IrqInfo,
  IrqSet,
  iommufdCommands,
  PciDependentDevice,
  PciHotReset,
  PciHotResetInfo,
  REGION_STRIDE,
  RegionInfo,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_DETACH,
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_IOEVENTFD,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
} from "../uapi/index.ts";
import { vfioNodes } from "./sysfs.ts";
import { type Values, World } from "./world.test-support.ts";

/** Keeps what is written to its BAR, and interrupts when the test says so. */
class Scratch extends PciDevice {
  readonly bytes = new Uint8Array(0x2000);
  resets = 0;

  constructor(system: System, identity: Partial<PciIdentity> = {}) {
    super(system, {
      vendor: 0x1234,
      device: 0x5678,
      classCode: 0,
      interruptPin: 1,
      capabilities: [
        msi({ vectors: 4 }),
        msix({ vectors: 4, table: { bar: 0, offset: 0x1000 }, pending: { bar: 0, offset: 0x1800 } }),
        powerManagement(),
        express({ functionLevelReset: true }),
      ],
      bars: [
        {
          index: 0,
          size: 0x2000,
          read: (offset, size) =>
            this.bytes.slice(offset, offset + size).reduceRight((sum, byte) => sum * 256n + BigInt(byte), 0n),
          write: (offset, size, value) => {
            for (let at = 0; at < size; at++) this.bytes[offset + at] = Number((value / 256n ** BigInt(at)) % 256n);
          },
        },
      ],
      ...identity,
    });
  }

  protected override reset(): void {
    this.resets++;
  }

  override interrupt(vector?: number): void {
    super.interrupt(vector);
    this.system.tasks.drain();
  }

  override clearInterrupt(): void {
    super.clearInterrupt();
  }
}

function plug(members: (system: System) => readonly PciFunction[] = (system) => [new Scratch(system)]) {
  const world = new World(members);
  const { fd: iommufd, context } = world.openIommufd();
  const file = world.open();
  const bind = (values: Values = {}, of = file) =>
    world.ioctl(of, VFIO_DEVICE_BIND, BindIommufd, { iommufd, ...values });
  const ioas = (): number => {
    const { number, struct } = iommufdCommands.IOAS_ALLOC;
    return world.ioctl(context, number, struct).out.out_ioas_id;
  };
  return { world, iommufd, context, file, bind, ioas, member: world.host.functions[0] as Scratch };
}

function fds(...numbers: number[]): Uint8Array {
  return new Uint8Array(Int32Array.from(numbers).buffer);
}

describe("an open device", () => {
  it("answers EINVAL to everything until it is bound, and says why", () => {
    const { world, file } = plug();
    expect(world.ioctl(file, VFIO_DEVICE_ATTACH, AttachIommufdPt, { pt_id: 1 })).toMatchObject({
      result: "EINVAL",
      reason: "device is not bound: BIND of vfio0 (0000:00:01.0) to an iommufd comes first",
    });
    expect(world.outcome(file.ioctl(world.process, 0x1234, 0)).result).toBe("EINVAL");
    expect(world.outcome(file.read(world.process, 0, new Uint8Array(4))).result).toBe("EINVAL");
  });

  const binds: { what: string; values: Values; result: string | number }[] = [
    { what: "argsz too small", values: { argsz: 15 }, result: "EINVAL" },
    { what: "no descriptor", values: { iommufd: -1 }, result: "EINVAL" },
    { what: "unknown flag", values: { flags: 2 }, result: "EINVAL" },
    { what: "token that cannot be read", values: { flags: 1 }, result: "EFAULT" },
    { what: "descriptor that is not open", values: { iommufd: 99 }, result: "EBADF" },
    { what: "the shortest struct", values: { argsz: 16 }, result: 0 },
  ];
  it.each(binds)("BIND: $what is $result", ({ values, result }) => {
    expect(plug().bind(values).result).toBe(result);
  });

  it("BIND: EBADFD for what is no iommufd; nothing is held", () => {
    const { world, bind } = plug();
    const { fd, event } = world.addEvent();
    expect(bind({ iommufd: fd }).result).toBe("EBADFD");
    expect(event.held).toBe(0);
  });

  it("BIND: one file of a device at a time, once", () => {
    const { world, bind } = plug();
    expect(bind().out.out_devid).toBe(1);
    expect(bind().reason).toContain("bound through this file already");
    const second = world.open();
    expect(bind({}, second)).toMatchObject({ result: "EINVAL" });
    expect(bind({ flags: 1 }, second).result).toBe("EFAULT");
  });

  it("BIND: all is undone when its result cannot be written", () => {
    const { world, context, file, iommufd } = plug();
    const readOnly = world.process.memory.map(1, { writable: true });
    const request = new BindIommufd();
    request.argsz = 16;
    request.iommufd = iommufd;
    world.process.memory.write(readOnly + 4096 - 12, request.$bytes.subarray(0, 12));
    expect(world.outcome(file.ioctl(world.process, VFIO_DEVICE_BIND, readOnly + 4096 - 12)).result).toBe("EFAULT");
    expect(context.objects.isEmpty).toBe(true);
    expect(world.devices[0].bound).toBeUndefined();
  });

  it("is attached first, replaced afterwards; detached as often as one likes", () => {
    const { world, file, bind, ioas } = plug();
    bind();
    const attach = (pt_id: number) => world.ioctl(file, VFIO_DEVICE_ATTACH, AttachIommufdPt, { argsz: 12, pt_id });
    const detach = () => world.ioctl(file, VFIO_DEVICE_DETACH, DetachIommufdPt, { argsz: 8 }).result;
    const [a, b] = [ioas(), ioas()];
    expect(attach(77).result).toBe("ENOENT");
    const { out } = attach(a);
    expect(out.pt_id).toBe(4);
    expect(attach(a).out.pt_id).toBe(4);
    expect(attach(b).result).toBe(0);
    expect([detach(), detach()]).toEqual([0, 0]);
    expect(world.ioctl(file, VFIO_DEVICE_ATTACH, AttachIommufdPt, { flags: 2, pt_id: a }).result).toBe("EINVAL");
    expect(world.ioctl(file, VFIO_DEVICE_ATTACH, AttachIommufdPt, { argsz: 12, flags: 1 }).result).toBe("EINVAL");
    const far = { flags: 1, pt_id: a, pasid: 0x80000000 };
    expect(world.ioctl(file, VFIO_DEVICE_ATTACH, AttachIommufdPt, far).result).toBe("ENOSPC");
  });

  it("gives everything back when it is closed", () => {
    const { world, context, file, bind, ioas, member } = plug();
    const before = member.config.bytes;
    bind();
    world.ioctl(file, VFIO_DEVICE_ATTACH, AttachIommufdPt, { argsz: 12, pt_id: ioas() });
    const { fd, event } = world.addEvent();
    const values = { flags: 36, index: 1, start: 0, count: 1 };
    expect(world.ioctl(file, VFIO_DEVICE_SET_IRQS, IrqSet, values, fds(fd)).result).toBe(0);
    world.run(file.write(world.process, 7 * REGION_STRIDE + 4, Uint8Array.of(6, 0)));
    expect([world.interrupts.allocated, event.held, member.enableCount]).toEqual([1, 1, 1]);
    world.run(file.release());
    expect([world.interrupts.allocated, event.held, member.enableCount]).toEqual([0, 0, 0]);
    expect(member.config.bytes).toEqual(before);
    expect(context.objects.list().map(({ kind }) => kind)).toEqual(["IOAS"]);
    expect(world.devices[0].bound).toBeUndefined();
  });

  it("every failure on the way to a bound device leaves nothing behind", () => {
    for (let nth = 1; ; nth++) {
      const { world, context, bind, member } = plug();
      const before = member.config.bytes;
      let left = nth;
      world.system.failures.inject(() => --left === 0);
      const { result } = bind();
      world.system.failures.inject(undefined);
      if (left > 0) {
        expect(result).toBe(0);
        expect(nth).toBeGreaterThan(1);
        break;
      }
      expect(result).toBe("ENOMEM");
      expect([context.objects.isEmpty, world.devices[0].bound, member.enableCount]).toEqual([true, undefined, 0]);
      expect(member.config.bytes).toEqual(before);
    }
  });

  it("is asked for by the REQ interrupt when its driver lets go, which waits for the close", () => {
    const { world, file, bind, member } = plug();
    bind();
    const { fd, event } = world.addEvent();
    world.ioctl(file, VFIO_DEVICE_SET_IRQS, IrqSet, { flags: 36, index: 4, start: 0, count: 1 }, fds(fd));
    world.system.tasks.spawn("unbind", world.host.drivers.unbind(member));
    world.system.tasks.drain();
    expect([event.take(), member.driver?.name]).toEqual([1n, "vfio-pci"]);
    expect(world.outcome(world.driver.devices[0].open(world.process) as never).result).toBe("ENODEV");
    world.run(file.release());
    expect(member.driver).toBeUndefined();
    expect(vfioNodes(world.driver).has("/dev/vfio/devices/vfio0")).toBe(false);
  });
});

describe("what a device says of itself", () => {
  it("GET_INFO: a PCI device, its reset, 9 regions and 5 interrupt indexes", () => {
    const { world, file, bind } = plug();
    bind();
    const { out } = world.ioctl(file, VFIO_DEVICE_GET_INFO, DeviceInfo, { argsz: 16 });
    expect(out).toMatchObject({ flags: 3, num_regions: 9, num_irqs: 5 });
    expect(world.ioctl(file, VFIO_DEVICE_GET_INFO, DeviceInfo, { argsz: 15 }).result).toBe("EINVAL");
  });

  it("without a reset of its own, RESET is EINVAL and the flag is missing", () => {
    const { world, file, bind } = plug((system) => [new EduDevice(system)]);
    bind();
    expect(world.ioctl(file, VFIO_DEVICE_GET_INFO, DeviceInfo).out.flags).toBe(2);
    expect(world.outcome(file.ioctl(world.process, VFIO_DEVICE_RESET, 0)).result).toBe("EINVAL");
    expect(world.ioctl(file, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, PciHotResetInfo).result).toBe("ENODEV");
  });

  it("GET_REGION_INFO: places are index · 2^40, BARs cannot be mapped", () => {
    const { world, file, bind } = plug();
    bind();
    const info = (index: number) => world.ioctl(file, VFIO_DEVICE_GET_REGION_INFO, RegionInfo, { index });
    expect(info(0).out).toMatchObject({ flags: 3, size: 0x2000n, offset: 0n });
    expect(info(3).out).toMatchObject({ flags: 0, size: 0n, offset: BigInt(3 * 2 ** 40) });
    expect(info(7).out).toMatchObject({ flags: 3, size: 4096n });
    expect([info(8).result, info(9).result]).toEqual(["EINVAL", "EINVAL"]);
    const kept = world.ioctl(file, VFIO_DEVICE_GET_REGION_INFO, RegionInfo, { index: 0, cap_offset: 7 });
    expect(kept.out.cap_offset).toBe(7);
  });

  it.each([
    { index: 0, flags: 7, count: 1 },
    { index: 1, flags: 9, count: 4 },
    { index: 2, flags: 1, count: 4 },
    { index: 3, flags: 9, count: 1 },
    { index: 4, flags: 9, count: 1 },
  ])("GET_IRQ_INFO of index $index", ({ index, flags, count }) => {
    const { world, file, bind } = plug();
    bind();
    expect(world.ioctl(file, VFIO_DEVICE_GET_IRQ_INFO, IrqInfo, { index }).out).toMatchObject({ flags, count });
  });
});

describe("regions", () => {
  function bound() {
    const { world, file, bind, member } = plug();
    bind();
    const at = (region: number, offset: number): number => region * REGION_STRIDE + offset;
    const read = (position: number, count: number) => {
      const bytes = new Uint8Array(count);
      return { result: world.outcome(file.read(world.process, position, bytes)).result, bytes };
    };
    const write = (position: number, ...bytes: number[]) =>
      world.outcome(file.write(world.process, position, Uint8Array.from(bytes))).result;
    return { world, file, member, at, read, write };
  }

  it("carry bytes of any place and length, cut at the end", () => {
    const { member, at, read, write } = bound();
    expect(write(at(0, 3), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14)).toBe(14);
    expect([...member.bytes.subarray(2, 18)]).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0]);
    expect([...read(at(0, 5), 4).bytes]).toEqual([3, 4, 5, 6]);
    expect(read(at(0, 0x1ffe), 8).result).toBe(2);
    expect([read(at(0, 0), 0).result, read(at(9, 0), 0).result]).toEqual([0, 0]);
  });

  it.each([
    { what: "behind a BAR", region: 0, offset: 0x2000, result: "EINVAL" },
    { what: "an absent BAR", region: 1, offset: 0, result: "EINVAL" },
    { what: "no region", region: 9, offset: 0, result: "EINVAL" },
    { what: "an absent ROM", region: 6, offset: 0, result: "EINVAL" },
    { what: "VGA", region: 8, offset: 0xa0000, result: "EINVAL" },
    { what: "over the end of configuration space", region: 7, offset: 4094, result: "EFAULT" },
  ])("refuse $what", ({ region, offset, result }) => {
    const { at, read } = bound();
    expect(read(at(region, offset), 4).result).toBe(result);
  });

  it("do not answer while memory decoding is off", () => {
    const { at, read, write } = bound();
    write(at(7, 4), 0, 0);
    expect(read(at(0, 0), 4).result).toBe("EIO");
    write(at(7, 4), 2, 0);
    expect(read(at(0, 0), 4).result).toBe(4);
  });

  it("hide the MSI-X table: it reads all ones, and cannot be written", () => {
    const { member, at, read, write } = bound();
    write(at(0, 0xffe), 1, 2, 3, 4);
    expect([...read(at(0, 0xffe), 4).bytes]).toEqual([1, 2, 0xff, 0xff]);
    expect(member.readBar(0, 0x1000, 8)).toBe(0n);
  });
});

describe("SET_IRQS", () => {
  function bound(members?: (system: System) => readonly PciFunction[]) {
    const { world, file, bind, member } = plug(members);
    bind();
    const [a, b] = [world.addEvent(), world.addEvent()];
    const set = (index: number, flags: number, start: number, count: number, tail?: Uint8Array, argsz?: number) =>
      world.ioctl(file, VFIO_DEVICE_SET_IRQS, IrqSet, { index, flags, start, count, ...(argsz && { argsz }) }, tail)
        .result;
    return { world, file, member, set, a, b };
  }
  const TRIGGER = 32;
  const [NONE, BOOL, EVENTFD, MASK, UNMASK] = [1, 2, 4, 8, 16];

  it.each([
    { what: "argsz below the header", index: 1, flags: 33, start: 0, count: 0, argsz: 19, result: "EINVAL" },
    { what: "unknown index", index: 5, flags: 33, start: 0, count: 0, result: "EINVAL" },
    { what: "a range that wraps", index: 1, flags: 33, start: 1, count: 0xfffffffe, result: "EINVAL" },
    { what: "unknown flag", index: 1, flags: 64 | 33, start: 0, count: 0, result: "EINVAL" },
    { what: "start behind the last vector", index: 1, flags: 33, start: 4, count: 0, result: "EINVAL" },
    { what: "end behind the last vector", index: 1, flags: 33, start: 1, count: 4, result: "EINVAL" },
    { what: "no data type", index: 1, flags: 32, start: 0, count: 1, result: "EINVAL" },
    { what: "two data types", index: 1, flags: 35, start: 0, count: 1, result: "EINVAL" },
    { what: "too little data", index: 1, flags: 36, start: 0, count: 1, result: "EINVAL" },
    { what: "two actions", index: 1, flags: 1 | 24, start: 0, count: 1, result: "ENOTTY" },
    { what: "no action", index: 1, flags: 1, start: 0, count: 1, result: "ENOTTY" },
    { what: "masking MSI", index: 1, flags: 1 | 8, start: 0, count: 1, result: "ENOTTY" },
    { what: "unmasking ERR", index: 3, flags: 1 | 16, start: 0, count: 1, result: "ENOTTY" },
    { what: "signalling MSI that is not active", index: 1, flags: 33, start: 0, count: 1, result: "EINVAL" },
    { what: "masking INTx that is not active", index: 0, flags: 9, start: 0, count: 1, result: "EINVAL" },
    { what: "signalling REQ without eventfd", index: 4, flags: 33, start: 0, count: 1, result: "EINVAL" },
    { what: "MSI with no vectors", index: 1, flags: 36, start: 0, count: 0, result: "ERANGE" },
  ])("$what is $result", ({ index, flags, start, count, argsz, result }) => {
    expect(bound().set(index, flags, start, count, undefined, argsz)).toBe(result);
  });

  it("MSI: eventfds for vectors, by the device or by the client", () => {
    const { member, set, a, b } = bound();
    member.writeConfig(COMMAND, 2, 0x6);
    expect(set(1, EVENTFD | TRIGGER, 0, 2, fds(a.fd, b.fd))).toBe(0);
    member.interrupt(1);
    expect([a.event.take(), b.event.take()]).toEqual([0n, 1n]);
    expect(set(1, BOOL | TRIGGER, 0, 2, Uint8Array.of(1, 0))).toBe(0);
    expect([a.event.take(), b.event.take()]).toEqual([1n, 0n]);
    expect(set(1, NONE | TRIGGER, 0, 2)).toBe(0);
    expect([a.event.take(), b.event.take()]).toEqual([1n, 1n]);
    expect(set(1, EVENTFD | TRIGGER, 0, 1, fds(-1))).toBe(0);
    member.interrupt(0);
    expect([a.event.take(), a.event.held]).toEqual([0n, 0]);
    expect(set(1, EVENTFD | TRIGGER, 2, 1, fds(a.fd))).toBe("EINVAL");
    expect(set(2, EVENTFD | TRIGGER, 0, 1, fds(a.fd))).toBe("EINVAL");
    expect(set(1, NONE | TRIGGER, 0, 0)).toBe(0);
    expect([b.event.held, set(1, NONE | TRIGGER, 0, 0)]).toEqual([0, "EINVAL"]);
  });

  it("MSI-X: vectors may be added while it is active; what the device raises before is pending", () => {
    const { world, member, set, a, b } = bound();
    member.writeConfig(COMMAND, 2, 0x6);
    expect(set(2, EVENTFD | TRIGGER, 0, 1, fds(a.fd))).toBe(0);
    member.interrupt(3);
    expect(set(2, EVENTFD | TRIGGER, 3, 1, fds(b.fd))).toBe(0);
    world.system.tasks.drain();
    expect([a.event.take(), b.event.take()]).toEqual([0n, 1n]);
  });

  it("a bad descriptor takes the vectors before it along, and all if the call was to enable", () => {
    const { world, set, a, b } = bound();
    expect(set(1, EVENTFD | TRIGGER, 0, 2, fds(a.fd, 99))).toBe("EBADF");
    expect([world.interrupts.allocated, a.event.held]).toEqual([0, 0]);
    expect(set(1, EVENTFD | TRIGGER, 0, 3, fds(a.fd, b.fd, b.fd))).toBe(0);
    const { fd } = world.openIommufd();
    expect(set(1, EVENTFD | TRIGGER, 0, 2, fds(b.fd, fd))).toBe("EINVAL");
    expect([world.interrupts.allocated, a.event.held, b.event.held]).toEqual([4, 0, 1]);
  });

  it("INTx: masked by each delivery, delivered again if the line still stands when it is unmasked", () => {
    const { member, set, a } = bound();
    expect(set(0, EVENTFD | TRIGGER, 0, 1, fds(a.fd))).toBe(0);
    member.interrupt();
    expect(a.event.take()).toBe(1n);
    expect(set(0, NONE | UNMASK, 0, 1)).toBe(0);
    expect(a.event.take()).toBe(1n);
    member.clearInterrupt();
    expect(set(0, BOOL | UNMASK, 0, 1, Uint8Array.of(1))).toBe(0);
    expect(a.event.take()).toBe(0n);
    expect(set(0, NONE | MASK, 0, 1)).toBe(0);
    member.interrupt();
    expect(a.event.take()).toBe(0n);
    expect(set(0, EVENTFD | MASK, 0, 1, fds(a.fd))).toBe("ENOTTY");
    expect(set(1, EVENTFD | TRIGGER, 0, 1, fds(a.fd))).toBe("EINVAL");
    expect(set(0, NONE | TRIGGER, 0, 0)).toBe(0);
    expect(a.event.held).toBe(0);
  });

  it("INTx: the client's INTx-disable bit masks too, and holds at the start", () => {
    const { world, file, member, set, a } = bound();
    const command = (value: number): number =>
      world.run(file.write(world.process, 7 * REGION_STRIDE + 4, Uint8Array.of(value % 256, value / 256)));
    command(0x402);
    expect(set(0, EVENTFD | TRIGGER, 0, 1, fds(a.fd))).toBe(0);
    member.interrupt();
    expect(a.event.take()).toBe(0n);
    expect(set(0, NONE | UNMASK, 0, 1)).toBe(0);
    expect(a.event.take()).toBe(0n);
    command(0x002);
    expect(a.event.take()).toBe(1n);
  });

  it("INTx: a trigger by the client itself is held back by its INTx-disable bit, not by a mask", () => {
    const { world, file, set, a } = bound();
    const command = (value: number): number =>
      world.run(file.write(world.process, 7 * REGION_STRIDE + 4, Uint8Array.of(value % 256, value / 256)));
    expect(set(0, EVENTFD | TRIGGER, 0, 1, fds(a.fd))).toBe(0);
    expect(set(0, NONE | MASK, 0, 1)).toBe(0);
    expect(set(0, NONE | TRIGGER, 0, 1)).toBe(0);
    expect(a.event.take()).toBe(1n);
    command(0x402);
    expect(set(0, NONE | TRIGGER, 0, 1)).toBe(0);
    expect(a.event.take()).toBe(0n);
  });

  it("INTx: an eventfd of the client unmasks", () => {
    const { member, set, a, b } = bound();
    set(0, EVENTFD | TRIGGER, 0, 1, fds(a.fd));
    expect(set(0, EVENTFD | UNMASK, 0, 1, fds(b.fd))).toBe(0);
    expect(set(0, EVENTFD | UNMASK, 0, 1, fds(b.fd))).toBe("EBUSY");
    member.interrupt();
    b.event.poke();
    expect(a.event.take()).toBe(2n);
    expect(set(0, EVENTFD | UNMASK, 0, 1, fds(-1))).toBe(0);
    expect(b.event.held).toBe(0);
  });

  it("REQ and ERR: one eventfd each", () => {
    const { set, a } = bound();
    for (const index of [3, 4]) {
      expect(set(index, EVENTFD | TRIGGER, 0, 1, fds(a.fd))).toBe(0);
      expect(set(index, NONE | TRIGGER, 0, 1)).toBe(0);
      expect(set(index, BOOL | TRIGGER, 0, 1, Uint8Array.of(1))).toBe(0);
      expect(a.event.take()).toBe(2n);
      expect(set(index, BOOL | TRIGGER, 0, 0)).toBe("EINVAL");
      expect(set(index, EVENTFD | TRIGGER, 0, 1, fds(-2))).toBe("EINVAL");
      expect(set(index, NONE | TRIGGER, 0, 0)).toBe(0);
      expect([a.event.held, set(index, NONE | TRIGGER, 0, 1)]).toEqual([0, "EINVAL"]);
    }
  });

  it("gives the number of vectors that there are where the machine has fewer, and enables none", () => {
    const { world, set, a } = bound((system) => [new Scratch(system)]);
    for (let taken = 0; taken < 62; taken++) world.interrupts.allocate(0, () => {});
    expect(set(1, EVENTFD | TRIGGER, 0, 4, fds(a.fd, a.fd, a.fd, a.fd))).toBe(2);
    expect([world.interrupts.allocated, a.event.held]).toEqual([62, 0]);
  });

  it("messages survive a RESET", () => {
    const { world, file, member, set, a } = bound();
    member.writeConfig(COMMAND, 2, 0x6);
    set(2, EVENTFD | TRIGGER, 0, 1, fds(a.fd));
    expect(world.outcome(file.ioctl(world.process, VFIO_DEVICE_RESET, 0)).result).toBe(0);
    member.interrupt(0);
    expect([a.event.take(), member.resets > 0]).toEqual([1n, true]);
  });
});

describe("FEATURE", () => {
  const [GET, SET, PROBE] = [0x10000, 0x20000, 0x40000];
  it.each([
    { what: "argsz below the header", flags: 3 | PROBE, argsz: 7, result: "EINVAL" },
    { what: "unknown flag", flags: 3 | PROBE | 0x80000, result: "EINVAL" },
    { what: "GET and SET", flags: 3 | GET | SET, result: "EINVAL" },
    { what: "GET and SET of what there is not", flags: 1 | GET | SET | PROBE, result: "ENOTTY" },
    { what: "a migration feature", flags: 1 | GET | PROBE, result: "ENOTTY" },
    { what: "pre-copy information", flags: 12 | PROBE, result: "EINVAL" },
    { what: "a direction that there is not", flags: 3 | GET | PROBE, result: "EINVAL" },
    { what: "a probe", flags: 3 | SET | PROBE, result: 0 },
    { what: "nothing", flags: 3, result: "EINVAL" },
    { what: "too little data", flags: 4 | SET, argsz: 12, result: "EINVAL" },
  ])("$what is $result", ({ flags, argsz, result }) => {
    const { world, file, bind } = plug();
    bind();
    expect(world.ioctl(file, VFIO_DEVICE_FEATURE, Feature, { flags, argsz: argsz ?? 8 }).result).toBe(result);
  });

  it("low power: entered once, left by EXIT only", () => {
    const { world, file, bind } = plug();
    bind();
    const feature = (number: number, tail?: Uint8Array) =>
      world.ioctl(file, VFIO_DEVICE_FEATURE, Feature, { flags: number | SET }, tail).result;
    expect([feature(3), feature(3), feature(5), feature(3), feature(5)]).toEqual([0, "EINVAL", 0, 0, 0]);
    const { fd, event } = world.addEvent();
    expect([feature(4, fds(-1, 0)), feature(4, fds(99, 0)), feature(4, fds(fd, 7))]).toEqual(["EINVAL", "EBADF", 0]);
    world.ioctl(file, VFIO_DEVICE_GET_INFO, DeviceInfo);
    expect([event.take(), event.held, feature(4, fds(fd, 0)), feature(5), event.held]).toEqual([0n, 1, "EINVAL", 0, 0]);
  });
});

describe("who watches resets", () => {
  it("hears of each way to a reset, and can keep a client from it", () => {
    const { world, bind, file, member } = plug();
    const log: string[] = [];
    let refuses = false;
    world.host.resetWatch = {
      *prepare() {
        if (refuses) refuse(EBUSY, () => "not now");
        log.push("prepare");
      },
      *done() {
        log.push("done");
      },
    };
    const pair = ["prepare", "done"];
    const heard = (): string[] => log.splice(0);
    const [express, initiate] = [member.capability(0x10)! + 8, 0x8000];
    const write = () =>
      world.run(file.write(world.process, 7 * REGION_STRIDE + express, Uint8Array.of(initiate & 0xff, initiate >>> 8)));
    bind();
    expect(heard()).toEqual(pair);
    expect([world.outcome(file.ioctl(world.process, VFIO_DEVICE_RESET, 0)).result, heard()]).toEqual([0, pair]);
    write();
    expect(heard()).toEqual(pair);

    refuses = true;
    const { resets } = member;
    expect(world.outcome(file.ioctl(world.process, VFIO_DEVICE_RESET, 0)).result).toBe("EBUSY");
    write();
    world.run(file.release());
    expect([member.resets, heard()]).toEqual([resets, []]);
  });
});

describe("a reset of the whole bus", () => {
  function behindBridge() {
    const { world, iommufd, bind } = plug();
    const bus = new PciBus(world.host, 1, world.host.functions[0]);
    world.host.buses.push(bus);
    const members = [new Scratch(world.system), new Scratch(world.system)];
    for (const [slot, member] of members.entries()) world.plug(member, bus, slot);
    const [first, second] = [world.open(1), world.open(2)];
    bind({}, first);
    const info = (argsz: number) => {
      const answer = world.ioctl(first, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, PciHotResetInfo, { argsz });
      const entries = new Uint8Array(16);
      world.process.memory.read(world.scratch + 12, entries);
      const devices = [0, 8].map((at) => new PciDependentDevice(entries.subarray(at)));
      return { ...answer, devices: devices.map(({ devid, bus, devfn }) => [devid, bus, devfn]) };
    };
    const reset = (count = 0) => world.ioctl(first, VFIO_DEVICE_PCI_HOT_RESET, PciHotReset, { count }).result;
    return { world, iommufd, bind, members, second, info, reset };
  }

  it("says how much room it wants", () => {
    const { info } = behindBridge();
    expect(info(11).result).toBe("EINVAL");
    expect(info(27)).toMatchObject({ result: "ENOSPC", out: { flags: 0, count: 2 } });
  });

  it("names the functions by their ids in the iommufd, and is refused while one is not owned", () => {
    const { bind, second, info, reset, members } = behindBridge();
    expect(info(28)).toMatchObject({
      result: 0,
      out: { flags: 1, count: 2 },
      devices: [
        [1, 1, 0],
        [0xffffffff, 1, 8],
      ],
    });
    expect(reset()).toBe("EINVAL");
    bind({}, second);
    expect(info(28)).toMatchObject({
      out: { flags: 3 },
      devices: [
        [1, 1, 0],
        [2, 1, 8],
      ],
    });
    const before = members.map(({ resets }) => resets);
    expect(reset(1)).toBe("EINVAL");
    expect(reset()).toBe(0);
    expect(members.map(({ resets }) => resets)).toEqual(before.map((resets) => resets + 1));
  });
});

describe("IOEVENTFD", () => {
  it("makes a write of its own when the client signals, while memory decoding is on", () => {
    const { world, file, bind, member } = plug();
    bind();
    const { fd, event } = world.addEvent();
    const set = (values: Values) => world.ioctl(file, VFIO_DEVICE_IOEVENTFD, IoEventFd, values).result;
    const command = (value: number): number =>
      world.run(file.write(world.process, 7 * REGION_STRIDE + 4, Uint8Array.of(value, 0)));
    const one = { flags: 4, offset: 0x10, data: 0x11223344 };
    command(2);
    expect(set({ ...one, fd })).toBe(0);
    event.poke();
    expect(member.readBar(0, 0x10, 4)).toBe(0x11223344n);
    member.writeBar(0, 0x10, 4, 0n);
    command(0);
    event.poke();
    command(2);
    expect(member.readBar(0, 0x10, 4)).toBe(0n);
    expect(set({ ...one, fd })).toBe("EEXIST");
    expect(set({ ...one, fd: -1 })).toBe(0);
    expect(set({ ...one, fd: -1 })).toBe("ENODEV");
    expect(event.held).toBe(0);
    for (const wrong of [
      { flags: 3 },
      { flags: 0 },
      { flags: 8 },
      { offset: 0x1ffd },
      { offset: 0x1000 },
      { offset: 2 ** 40 },
      { fd: -2 },
    ]) {
      expect(set({ ...one, fd, ...wrong })).toBe("EINVAL");
    }
  });
});

describe("the files of a device", () => {
  it("are there under /dev and /sys", () => {
    const { world } = plug();
    const nodes = vfioNodes(world.driver);
    expect(nodes.get("/dev/vfio/devices/vfio0")).toMatchObject({ kind: "device", minor: 0 });
    expect(nodes.get("/sys/class/vfio-dev/vfio0")).toEqual({
      kind: "link",
      target: "../../devices/pci0000:00/0000:00:01.0/vfio-dev/vfio0",
    });
    const dev = nodes.get("/sys/devices/pci0000:00/0000:00:01.0/vfio-dev/vfio0/dev");
    expect(dev?.kind === "text" && dev.read()).toBe("511:0\n");
  });
});
