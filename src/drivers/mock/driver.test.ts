import { describe, expect, test } from "vitest";
import {
  ALLOC_DIRTY_TRACKING,
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  attachPasid,
  type Device,
  type Domain,
  detachPasid,
  groupOf,
  type Invalidation,
  IommuCore,
  newGather,
  PROT_READ,
  PROT_WRITE,
  replacePasid,
  type UserData,
  type ViommuServices,
} from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import {
  EEXIST,
  EFAULT,
  EINVAL,
  EIO,
  ENOENT,
  ENOMEM,
  EOPNOTSUPP,
  Refusal,
  System,
  type Task,
} from "../../runtime/index.ts";
import { MockBus } from "./bus.ts";
import { mockStateOf } from "./device-state.ts";
import type { MockPagingDomain } from "./domain.ts";
import { MockDriver } from "./driver.ts";
import type { MockNestedDomain } from "./nested.ts";
import { type MockViommu, reportMockEvent } from "./viommu.ts";

function setUp() {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 2 ** 30, size: 2 ** 26 }] });
  const core = new IommuCore(system);
  const driver = new MockDriver(system, memory);
  const bus = new MockBus(core, driver);
  const run = <T>(code: Task<T>): T => system.run("test", code);
  const errno = (code: () => unknown): number => {
    try {
      code();
      return 0;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  };
  run(core.register(driver.instance));
  const plug = (options: { tracksDirty?: boolean; pasids?: boolean } = {}): Device =>
    run(bus.plug({ tracksDirty: true, pasids: false, ...options }));
  const paging = (device: Device, flags = 0, data?: UserData): MockPagingDomain =>
    run(driver.allocatePaging(device, flags, data)) as MockPagingDomain;
  return { system, memory, core, driver, bus, run, errno, plug, paging };
}

function userData(type: number, ...words: number[]): UserData & { answer?: Uint8Array } {
  const bytes = new Uint8Array(new Uint32Array(words).buffer);
  return {
    type,
    length: bytes.length,
    bytes,
    write(answer) {
      this.answer = answer;
    },
  } as UserData & { answer?: Uint8Array };
}

function entries(type: number, entryLength: number, ...words: number[]): Invalidation {
  const bytes = new Uint8Array(new Uint32Array(words).buffer);
  const count = bytes.length / entryLength;
  return {
    type,
    entryLength,
    count,
    done: 0,
    read: (index, into) => into.set(bytes.subarray(index * entryLength, (index + 1) * entryLength)),
  };
}

describe("the bus", () => {
  test("numbers devices from the lowest free number on, and gives each a group", () => {
    const { plug, bus, run, core } = setUp();
    const [a, b] = [plug(), plug()];
    expect([a.name, b.name]).toEqual(["iommufd_mock0", "iommufd_mock1"]);
    expect(core.groups.size).toBe(2);
    run(bus.unplug(a));
    expect(plug().name).toBe("iommufd_mock0");
    expect(groupOf(b).domain?.type).toBe("blocked");
  });

  test("a device has 2^20 PASIDs or the one that stands for none", () => {
    const { plug } = setUp();
    expect(plug({ pasids: true }).iommu!.maxPasids).toBe(2 ** 20);
    expect(plug().iommu!.maxPasids).toBe(1);
  });
});

describe("paging domains", () => {
  test("come with one of two tables", () => {
    const { plug, paging } = setUp();
    const device = plug();
    const plain = paging(device);
    expect(plain.aperture).toEqual({ start: 0x0100_0000n, last: 0x7fff_ffffn });
    expect(plain.pageSizes.reduce((mask, size) => mask + size, 0)).toBe(0x1f_ffff_f800);
    const huge = paging(device, 0, userData(0xdead, 0, 1));
    expect(huge.aperture).toEqual({ start: 0n, last: 2n ** 38n - 1n });
    expect(huge.pageSizes).toEqual([4096, 2 ** 20]);
  });

  test("refuse what they do not know, in Linux's order", () => {
    const { plug, paging, errno } = setUp();
    const device = plug({ tracksDirty: false });
    expect(errno(() => paging(device, 16))).toBe(EOPNOTSUPP);
    expect(errno(() => paging(device, ALLOC_DIRTY_TRACKING))).toBe(EOPNOTSUPP);
    expect(errno(() => paging(device, 0, userData(2, 0, 0)))).toBe(EOPNOTSUPP);
    expect(errno(() => paging(device, 0, userData(0xdead, 0, 0, 0)))).toBe(EINVAL);
    expect(errno(() => paging(device, 0, userData(0xdead, 0, 2)))).toBe(EOPNOTSUPP);
    expect(errno(() => paging(device, ALLOC_NEST_PARENT | ALLOC_PASID, userData(0xdead, 0)))).toBe(0);
  });

  test("tell what was written to, all but the last entry of a leaf", () => {
    const { plug, paging, run, memory } = setUp();
    const domain = paging(plug(), ALLOC_DIRTY_TRACKING);
    const base = 0x0100_0000n;
    run(domain.map(base, 0x4000_0000, 2 ** 21, PROT_READ | PROT_WRITE));
    run(domain.map(base + 0x20_0000n, 0x4020_1000, 4096, PROT_READ | PROT_WRITE));
    const read = (clear: boolean): [bigint, number][] => {
      const told: [bigint, number][] = [];
      const report = (iova: bigint, size: number): void => void told.push([iova, size]);
      run(domain.readDirty(base, 2 ** 22, { clear, report, gather: newGather() }));
      return told;
    };
    expect(read(false)).toEqual([]);
    domain.markDirty(base + 0x10_0000n);
    domain.markDirty(base + 0x20_0800n);
    expect(read(true)).toEqual([
      [base, 2 ** 20],
      [base + 0x20_0000n, 2048],
    ]);
    expect(read(true)).toEqual([]);
    const gather = newGather();
    expect(run(domain.unmap(base, 2 ** 21 + 4096, gather))).toBe(2 ** 21 + 4096);
    run(domain.sync(gather));
    domain.free();
    expect(memory.usedFrames).toBe(0);
  });

  test("that track writes take no device that cannot", () => {
    const { plug, paging, run, errno } = setUp();
    const [able, unable] = [plug(), plug({ tracksDirty: false })];
    const domain = paging(able, ALLOC_DIRTY_TRACKING);
    run(domain.attachDevice(able, undefined));
    expect(errno(() => run(domain.attachDevice(unable, undefined)))).toBe(EINVAL);
    run(domain.setDevicePasid(unable, 1, undefined));
  });
});

test("every second attach of PASID 1024 fails, until it is detached", () => {
  const { plug, paging, run, errno, core } = setUp();
  const device = plug({ pasids: true });
  const group = groupOf(device);
  const [a, b] = [paging(device), paging(device)];
  run(group.claim(device, core));
  const replace = (domain: Domain): number => errno(() => run(replacePasid(group, domain, 1024, {})));
  run(attachPasid(group, a, 1024, {}));
  expect(replace(b)).toBe(ENOMEM);
  expect(replace(b)).toBe(0);
  expect(replace(a)).toBe(ENOMEM);
  run(detachPasid(group, 1024));
  expect(errno(() => run(attachPasid(group, a, 1024, {})))).toBe(0);
  expect(errno(() => run(attachPasid(group, a, 2 ** 20, {})))).toBe(EINVAL);
});

describe("nested domains", () => {
  const make = () => {
    const world = setUp();
    const device = world.plug();
    const parent = world.paging(device, ALLOC_NEST_PARENT);
    const nest = (data: UserData): MockNestedDomain =>
      world.run(world.driver.allocateNested(device, parent, 0, data)) as MockNestedDomain;
    return { ...world, device, parent, nest };
  };

  test("have four words of IOTLB, which invalidations clear", () => {
    const { nest, run, errno } = make();
    const domain = nest(userData(0xdead, 0xbadbeef));
    const one = entries(0xdeadbeef, 8, 0, 1, 0, 3, 2, 0);
    expect(errno(() => run(domain.invalidate(one)))).toBe(EOPNOTSUPP);
    expect(one.done).toBe(2);
    expect([...domain.iotlb]).toEqual([0xbadbeef, 0, 0xbadbeef, 0]);
    expect(errno(() => run(domain.invalidate(entries(0xdeadbeef, 8, 1, 4))))).toBe(EINVAL);
    run(domain.invalidate(entries(0xdeadbeef, 8, 1, 0)));
    expect([...domain.iotlb]).toEqual([0, 0, 0, 0]);
    expect(errno(() => run(domain.invalidate(entries(0xdeadbeef, 12, 0, 0, 0))))).toBe(EINVAL);
    expect(errno(() => run(domain.invalidate(entries(1, 8))))).toBe(EINVAL);
  });

  test("refuse data that is not theirs", () => {
    const { nest, errno } = make();
    expect(errno(() => nest(userData(1, 0)))).toBe(EOPNOTSUPP);
    expect(errno(() => nest(userData(0xdead, 0, 0, 0)))).toBe(EINVAL);
  });
});

describe("viommus", () => {
  const make = (data?: UserData) => {
    const world = setUp();
    const device = world.plug();
    const parent = world.paging(device, ALLOC_NEST_PARENT);
    const ids = new Map<bigint, Device>();
    const events: [number, Uint8Array][] = [];
    const windows = new Map<bigint, number>();
    const services: ViommuServices = {
      device: (id) => ids.get(id),
      virtualId: (device) => [...ids].find(([, other]) => other === device)?.[0],
      report: (type, record) => void events.push([type, record]),
      publishWindow(pfn) {
        windows.set(0x1000n, pfn);
        return 0x1000n;
      },
      retractWindow: (offset) => void windows.delete(offset),
    };
    const viommu = world.run(world.driver.allocateViommu(device, parent, 0xdeadbeef, data, services)) as MockViommu;
    return { ...world, device, parent, ids, events, windows, viommu };
  };

  test("show the client a window with what it gave", () => {
    const data = userData(0xdeadbeef, 0x55aa, 0, 0, 0, 0, 0);
    const { viommu, memory, windows, run, parent } = make(data);
    expect([...new Uint32Array(data.answer!.buffer)]).toEqual([0x55aa, 0x55aa, 0x1000, 0, 8192, 0]);
    expect(memory.readWord(windows.get(0x1000n)! * 4096)).toBe(0x55aa);
    run(viommu.free());
    parent.free();
    expect(windows.size).toBe(0);
    expect(memory.usedFrames).toBe(0);
  });

  test("clear caches of devices by their virtual ids, once all entries were read", () => {
    const { viommu, ids, device, run, errno } = make();
    ids.set(7n, device);
    const { cache } = mockStateOf(device);
    expect(cache[0]).toBe(0xbaddad);
    const some = entries(0xdeadbeef, 12, 0, 7, 1, 0, 8, 1);
    expect(errno(() => run(viommu.invalidate(some)))).toBe(EINVAL);
    expect(some.done).toBe(1);
    expect([...cache]).toEqual([0xbaddad, 0, 0xbaddad, 0xbaddad]);
    run(viommu.invalidate(entries(0xdeadbeef, 12, 1, 7, 0)));
    expect([...cache]).toEqual([0, 0, 0, 0]);
  });

  test("take a device only with a vdevice, and remember the id with which it came", () => {
    const { viommu, ids, device, run, errno, events, driver } = make();
    const nested = [1, 2].map((word) => run(viommu.allocateNested(device, 0, userData(0xdead, word))));
    expect(errno(() => run(nested[0].attachDevice(device, driver.blockedDomain)))).toBe(ENOENT);
    expect(errno(() => reportMockEvent(device))).toBe(ENOENT);
    ids.set(5n, device);
    run(nested[0].attachDevice(device, driver.blockedDomain));
    ids.clear();
    expect(errno(() => run(nested[1].attachDevice(device, nested[0])))).toBe(ENOENT);
    ids.set(6n, device);
    run(nested[1].attachDevice(device, nested[0]));
    reportMockEvent(device);
    expect(events).toEqual([[0xbeefbeef, new Uint8Array([5, 0, 0, 0])]]);
    run(driver.blockedDomain.attachDevice(device, nested[1]));
    expect(errno(() => reportMockEvent(device))).toBe(ENOENT);
  });

  test("have two queues, the second only behind the first; whichever goes frees the first place", () => {
    const { viommu, parent, run, errno } = make();
    run(parent.map(0x0100_0000n, 0x4000_0000, 4096, PROT_READ));
    const allocate = (index: number, physical = 0x4000_0000) =>
      run(viommu.allocateQueue({ type: 0xdeadbeef, index, iova: 0x0100_0000n, length: 4096n, physical }));
    expect(errno(() => allocate(2))).toBe(EINVAL);
    expect(errno(() => allocate(1))).toBe(EIO);
    expect(errno(() => allocate(0, 0x5000_0000))).toBe(EFAULT);
    const first = allocate(0);
    expect(errno(() => allocate(0))).toBe(EEXIST);
    const second = allocate(1);
    expect(second.dependsOn).toBe(first);
    run(second.free());
    allocate(0);
    expect(errno(() => allocate(1))).toBe(EEXIST);
  });
});
