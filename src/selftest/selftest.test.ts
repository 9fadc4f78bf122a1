/** IOMMU_TEST_CMD as a program meets it: a machine with the mock bus, a client, ioctls. */
import { beforeEach, describe, expect, test } from "vitest";
import { buildMachine, LibraryClient, type Machine, presets } from "../machine/index.ts";
import { errnoName, Refusal } from "../runtime/index.ts";
import * as uapi from "../uapi/index.ts";

const PAGE = 4096;
const APERTURE = 0x0100_0000n;

let machine: Machine;
let client: LibraryClient;
let fd: number;

beforeEach(() => {
  machine = buildMachine(presets.empty, { mock: true });
  client = new LibraryClient(machine);
  fd = client.open("/dev/iommu");
});

/** A test operation; its struct afterwards. */
function run<V extends { op: number; size: number; readonly $bytes: Uint8Array }>(
  struct: new (bytes?: Uint8Array) => V,
  op: number,
  fields: Partial<V>,
): V {
  const command = new struct(new Uint8Array(uapi.IommuTest.size));
  return client.ioctl(fd, uapi.iommuTestCommand.number, command, { ...fields, op, size: 72 } as Partial<V>);
}

/** The name of the errno with which `action` is refused; "" if it is not. */
function errno(action: () => unknown): string {
  try {
    action();
    return "";
  } catch (error) {
    if (error instanceof Refusal) return errnoName(error.errno);
    throw error;
  }
}

const command = <N extends uapi.CommandName>(name: N, fields: Partial<uapi.Command<N>>): uapi.Command<N> => {
  const { number, struct } = uapi.iommufdCommands[name];
  const view = new struct() as uapi.Command<N>;
  return client.ioctl(fd, number, view, { ...fields, size: struct.size } as Partial<uapi.Command<N>>);
};

const ioasAlloc = (): number => command("IOAS_ALLOC", {}).out_ioas_id;
const memory = (pages: number): number => client.process.memory.map(pages);
const mapAt = (ioas: number, address: number, pages: number, iova = APERTURE): bigint =>
  command("IOAS_MAP", { flags: 7, ioas_id: ioas, user_va: BigInt(address), length: BigInt(pages * PAGE), iova }).iova;
const mockDomain = (id: number, flags = 0) =>
  run(uapi.TestMockDomain, uapi.TEST_MOCK_DOMAIN_FLAGS, { id, dev_flags: flags });
const checkMap = (id: number, iova: bigint, address: number, pages = 1): string =>
  errno(() =>
    run(uapi.TestCheckMap, uapi.TEST_MD_CHECK_MAP, {
      id,
      iova,
      uptr: BigInt(address),
      length: BigInt(pages * PAGE),
    }),
  );
const checkRefs = (address: number, pages: number, refs: number): string =>
  errno(() =>
    run(uapi.TestCheckRefs, uapi.TEST_MD_CHECK_REFS, { uptr: BigInt(address), length: BigInt(pages * PAGE), refs }),
  );

test("IOAS_COPY may name the source by the number of an area and an offset in it", () => {
  const [ioas, other] = [ioasAlloc(), ioasAlloc()];
  mapAt(ioas, memory(1), 1, 0x5000n);
  mapAt(ioas, memory(2), 2, 0x9000n);
  const copy = (area: bigint, offset: bigint, flags = 7 | uapi.ACCESS_SYZ) => {
    const src_iova = area + offset * 2n ** 32n;
    return command("IOAS_COPY", {
      flags,
      src_ioas_id: ioas,
      dst_ioas_id: other,
      length: 0x1000n,
      src_iova,
      dst_iova: 0n,
    });
  };
  expect(copy(1n, 0x1000n)).toMatchObject({ flags: 7, src_iova: 0xa000n });
  expect([errno(() => copy(2n, 0n)), errno(() => copy(0n, 0n, 8 | uapi.ACCESS_SYZ))]).toEqual(["ENOENT", "EOPNOTSUPP"]);
});

test("is there only with the mock bus, and knows 23 operations", () => {
  expect(errno(() => run(uapi.TestMemoryLimit, 24, {}))).toBe("EOPNOTSUPP");
  expect(errno(() => run(uapi.TestMemoryLimit, uapi.TEST_SET_TEMP_MEMORY_LIMIT, { limit: 11 }))).toBe("EINVAL");
  expect(errno(() => run(uapi.TestMemoryLimit, uapi.TEST_SET_TEMP_MEMORY_LIMIT, { limit: 12 }))).toBe("");
  const plain = new LibraryClient(buildMachine(presets.empty));
  const file = plain.open("/dev/iommu");
  expect(errno(() => plain.call(file, uapi.iommuTestCommand.number, 0))).toBe("ENOTTY");
});

describe("mock devices", () => {
  test("take three ids: their own, the bound device's, an automatic HWPT's", () => {
    const ioas = ioasAlloc();
    const { out_stdev_id, out_idev_id, out_hwpt_id } = mockDomain(ioas);
    expect([ioas, out_stdev_id, out_idev_id, out_hwpt_id]).toEqual([1, 2, 3, 4]);
    expect(errno(() => command("DESTROY", { id: out_idev_id }))).toBe("EBUSY");
    command("DESTROY", { id: out_stdev_id });
    expect(mockDomain(ioas).out_idev_id).toBe(3);
  });

  test("leave nothing behind when they are refused", () => {
    const ioas = ioasAlloc();
    expect(errno(() => mockDomain(ioas, 2))).toBe("EINVAL");
    expect(errno(() => mockDomain(77))).toBe("ENOENT");
    expect(errno(() => mockDomain(2))).toBe("ENOENT"); // the id just reserved
    expect(errno(() => mockDomain(3))).toBe("EINVAL"); // the device just bound
    expect(machine.core.groups.size).toBe(0);
    expect(mockDomain(ioas).out_stdev_id).toBe(2);
  });

  test("move between HWPTs, and by PASIDs", () => {
    const [a, b] = [ioasAlloc(), ioasAlloc()];
    const { out_stdev_id: id, out_idev_id, out_hwpt_id } = mockDomain(a, uapi.MOCK_PASID);
    const replaced = run(uapi.TestMockDomainReplace, uapi.TEST_MOCK_DOMAIN_REPLACE, { id, pt_id: b });
    expect(replaced.pt_id).not.toBe(out_hwpt_id);
    const hwpt = command("HWPT_ALLOC", { dev_id: out_idev_id, pt_id: a, flags: uapi.HWPT_ALLOC_PASID }).out_hwpt_id;
    const pasid = (op: number, fields: { pasid?: number; pt_id?: number }): string =>
      errno(() => run(uapi.TestPasid, op, { id, pasid: 1, ...fields }));
    expect(pasid(uapi.TEST_PASID_ATTACH, { pt_id: hwpt })).toBe("EINVAL"); // the RID's HWPT has no PASID flag
    run(uapi.TestMockDomainReplace, uapi.TEST_MOCK_DOMAIN_REPLACE, { id, pt_id: hwpt });
    expect(pasid(uapi.TEST_PASID_CHECK_HWPT, { pt_id: 0 })).toBe("");
    expect(pasid(uapi.TEST_PASID_ATTACH, { pt_id: hwpt })).toBe("");
    expect(pasid(uapi.TEST_PASID_ATTACH, { pt_id: hwpt })).toBe("EBUSY");
    expect(pasid(uapi.TEST_PASID_CHECK_HWPT, { pt_id: hwpt })).toBe("");
    expect(pasid(uapi.TEST_PASID_CHECK_HWPT, { pt_id: 0 })).toBe("EINVAL");
    expect(pasid(uapi.TEST_PASID_CHECK_HWPT, { pt_id: a })).toBe("EINVAL");
    expect(pasid(uapi.TEST_PASID_CHECK_HWPT, { pt_id: 99 })).toBe("ENOENT");
    expect(pasid(uapi.TEST_PASID_DETACH, {})).toBe("");
    expect(pasid(uapi.TEST_PASID_REPLACE, { pt_id: hwpt })).toBe("EINVAL");
  });

  test("go with the context that made them", () => {
    mockDomain(ioasAlloc());
    mockDomain(ioasAlloc());
    expect(machine.core.groups.size).toBe(2);
    const { usedFrames } = machine.memory;
    client.close(fd);
    expect(machine.core.groups.size).toBe(0);
    expect(machine.memory.usedFrames).toBeLessThan(usedFrames);
  });
});

describe("page tables and pins", () => {
  test("translate to the client's pages, which are pinned once", () => {
    const ioas = ioasAlloc();
    const { out_hwpt_id: hwpt } = mockDomain(ioas);
    const buffer = memory(4);
    mapAt(ioas, buffer, 4);
    expect(checkMap(hwpt, APERTURE, buffer, 4)).toBe("");
    expect(checkMap(hwpt, APERTURE, buffer + PAGE)).toBe("EINVAL");
    expect(checkMap(hwpt, APERTURE + 0x4000n, buffer)).toBe("EINVAL");
    expect(checkMap(hwpt, APERTURE + 1n, buffer)).toBe("EINVAL");
    expect(checkMap(hwpt, APERTURE, 0x1000)).toBe("EFAULT");
    expect(checkMap(ioas, APERTURE, buffer)).toBe("ENOENT");
    expect(checkRefs(buffer, 4, 1)).toBe("");
    mockDomain(ioas);
    expect(checkRefs(buffer, 4, 1)).toBe("");
    expect(checkRefs(buffer, 1, 2)).toBe("EIO");
    expect(checkRefs(buffer + 1, 1, 1)).toBe("EINVAL");
    expect(checkRefs(0x1000, 1, 1)).toBe("EFAULT");
  });

  test("reserved ranges stay as long as the IOAS", () => {
    const ioas = ioasAlloc();
    const add = (start: bigint, length: bigint, id = ioas): string =>
      errno(() => run(uapi.TestAddReserved, uapi.TEST_ADD_RESERVED, { id, start, length }));
    expect(add(APERTURE, 0n)).toBe("EINVAL");
    expect(add(2n ** 64n - 1n, 2n)).toBe("EOVERFLOW");
    expect(add(APERTURE, 4096n, 9)).toBe("ENOENT");
    expect(add(APERTURE, 4096n)).toBe("");
    expect(add(APERTURE, 8192n)).toBe("");
    expect(errno(() => mapAt(ioas, memory(1), 1))).toBe("EINVAL");
    mapAt(ioas, memory(1), 1, APERTURE + 0x2000n);
    expect(add(APERTURE, 0x3000n)).toBe("EADDRINUSE");
  });

  test("what a device wrote to is marked, and counted also where nothing is mapped", () => {
    const ioas = ioasAlloc();
    const { out_idev_id: device } = mockDomain(ioas);
    const flags = uapi.HWPT_ALLOC_DIRTY_TRACKING;
    const hwpt = command("HWPT_ALLOC", { dev_id: device, pt_id: ioas, flags }).out_hwpt_id;
    mapAt(ioas, memory(8), 8);
    const bitmap = memory(1);
    client.process.memory.write(bitmap, new Uint8Array([0b1000_0001, 0b11]));
    const mark = (fields: Partial<InstanceType<typeof uapi.TestDirty>>) =>
      run(uapi.TestDirty, uapi.TEST_DIRTY, {
        id: hwpt,
        iova: APERTURE,
        length: 16n * 4096n,
        page_size: 4096n,
        uptr: BigInt(bitmap),
        ...fields,
      });
    expect(errno(() => mark({}))).toBe("EINVAL");
    command("HWPT_SET_DIRTY_TRACKING", { hwpt_id: hwpt, flags: 1 });
    expect(errno(() => mark({ page_size: 0n }))).toBe("EINVAL");
    expect(errno(() => mark({ uptr: 0n }))).toBe("EINVAL");
    expect(errno(() => mark({ id: ioas }))).toBe("ENOENT");
    expect(errno(() => mark({ uptr: 0x1000n }))).toBe("EFAULT");
    expect(errno(() => mark({ length: 2n ** 40n, page_size: 2048n }))).toBe("EOVERFLOW");
    expect(mark({}).out_nr_dirty).toBe(4n);
    const answer = memory(1);
    const read = { hwpt_id: hwpt, iova: APERTURE, length: 8n * 4096n, page_size: 4096n, data: BigInt(answer) };
    command("HWPT_GET_DIRTY_BITMAP", read);
    const bits = new Uint8Array(1);
    client.process.memory.read(answer, bits);
    expect(bits[0]).not.toBe(0);
  });
});

describe("accesses", () => {
  const create = (ioas: number, flags: number = uapi.ACCESS_NEEDS_PIN): number =>
    run(uapi.TestCreateAccess, uapi.TEST_CREATE_ACCESS, { id: ioas, flags }).out_access_fd;
  const pin = (access: number, fields: Partial<InstanceType<typeof uapi.TestAccessPages>>) =>
    run(uapi.TestAccessPages, uapi.TEST_ACCESS_PAGES, { id: access, iova: APERTURE, length: 4096n, ...fields });
  const copy = (access: number, address: number, length: number, flags = 0, iova = APERTURE): string =>
    errno(() =>
      run(uapi.TestAccessRw, uapi.TEST_ACCESS_RW, {
        id: access,
        iova,
        uptr: BigInt(address),
        length: BigInt(length),
        flags,
      }),
    );

  test("are made for an IOAS, take an id, and go with their descriptor", () => {
    const ioas = ioasAlloc();
    expect(errno(() => create(ioas, 2))).toBe("EOPNOTSUPP");
    expect(errno(() => create(9))).toBe("ENOENT");
    const access = create(ioas);
    expect(ioasAlloc()).toBe(3);
    expect(errno(() => command("DESTROY", { id: 2 }))).toBe("EBUSY");
    expect(errno(() => command("DESTROY", { id: ioas }))).toBe("EBUSY");
    client.close(access);
    command("DESTROY", { id: ioas });
  });

  test("pin pages, compare them with the client's, and let go of what is unmapped", () => {
    const ioas = ioasAlloc();
    const access = create(ioas);
    const buffer = memory(4);
    mapAt(ioas, buffer, 4);
    const uptr = BigInt(buffer);
    expect(pin(access, { uptr, length: 0x4000n }).out_access_pages_id).toBe(0);
    expect(checkRefs(buffer, 4, 1)).toBe("");
    expect(errno(() => pin(access, { uptr: uptr + 4096n }))).toBe("EBADE");
    expect(errno(() => pin(access, { uptr: 0x1000n }))).toBe("EFAULT");
    expect(errno(() => pin(access, { flags: 4 }))).toBe("EOPNOTSUPP");
    expect(errno(() => pin(access, { length: 2n ** 24n + 1n }))).toBe("ENOMEM");
    expect(errno(() => pin(fd, {}))).toBe("EBADFD");
    expect(errno(() => pin(99, {}))).toBe("EBADFD");
    expect(errno(() => pin(create(ioas, 0), {}))).toBe("EOPNOTSUPP");
    expect(errno(() => pin(access, { length: 0n }))).toBe("EINVAL");
    expect(errno(() => pin(access, { iova: APERTURE + 0x4000n }))).toBe("ENOENT");
    expect(pin(access, { uptr }).out_access_pages_id).toBe(1);
    const drop = (item: number): string =>
      errno(() =>
        run(uapi.TestDestroyAccessPages, uapi.TEST_DESTROY_ACCESS_PAGES, { id: access, access_pages_id: item }),
      );
    expect(drop(1)).toBe("");
    expect(drop(1)).toBe("ENOENT");
    command("IOAS_UNMAP", { ioas_id: ioas, iova: APERTURE, length: 0x4000n });
    expect(drop(0)).toBe("ENOENT");
    expect(machine.memory.pinnedFrames).toBe(0);
  });

  test("read and write, directly and through frames", () => {
    const ioas = ioasAlloc();
    const access = create(ioas, 0);
    const [buffer, other] = [memory(2), memory(2)];
    mapAt(ioas, buffer, 2);
    for (const slow of [0, uapi.ACCESS_SLOW_PATH]) {
      client.process.memory.write(other, new Uint8Array([slow + 1, 2, 3]));
      expect(copy(access, other, 3, uapi.ACCESS_WRITE | slow, APERTURE + 4095n)).toBe("");
      client.process.memory.write(other, new Uint8Array(3));
      expect(copy(access, other, 3, slow, APERTURE + 4095n)).toBe("");
      const bytes = new Uint8Array(3);
      client.process.memory.read(other, bytes);
      expect([...bytes]).toEqual([slow + 1, 2, 3]);
    }
    expect(copy(access, 0x1000, 3)).toBe("EFAULT");
    expect(copy(access, 0x1000, 3, uapi.ACCESS_WRITE)).toBe("EFAULT");
    expect(copy(access, other, 3, 2)).toBe("EOPNOTSUPP");
    expect(copy(access, other, 2 ** 24 + 1)).toBe("ENOMEM");
    expect(copy(access, other, 0)).toBe("EINVAL");
    expect(copy(access, other, 8, 0, APERTURE + 8190n)).toBe("ENOENT");
    expect(copy(access, other, 3, uapi.ACCESS_SYZ, 4095n * 2n ** 32n)).toBe("");
    expect(machine.memory.pinnedFrames).toBe(0);
  });

  test("change their IOAS, and unpin then", () => {
    const [a, b] = [ioasAlloc(), ioasAlloc()];
    const access = create(a);
    mapAt(a, memory(1), 1);
    pin(access, {});
    const replace = (ioas_id: number): string =>
      errno(() => run(uapi.TestAccessReplaceIoas, uapi.TEST_ACCESS_REPLACE_IOAS, { id: access, ioas_id }));
    expect(replace(9)).toBe("ENOENT");
    expect(machine.memory.pinnedFrames).toBe(1);
    expect(replace(b)).toBe("");
    expect(machine.memory.pinnedFrames).toBe(0);
    command("DESTROY", { id: a });
  });
});

describe("dma-bufs", () => {
  const get = (length: number): number => {
    const view = new uapi.TestDmabufGet(new Uint8Array(72));
    Object.assign(view, { size: 72, op: uapi.TEST_DMABUF_GET, length });
    const address = memory(1);
    client.process.memory.write(address, view.$bytes);
    return client.call(fd, uapi.iommuTestCommand.number, address);
  };
  const revoke = (dmabuf_fd: number, revoked = 1): string =>
    errno(() => run(uapi.TestDmabufRevoke, uapi.TEST_DMABUF_REVOKE, { dmabuf_fd, revoked }));

  test("are mapped by descriptor until they are revoked", () => {
    const ioas = ioasAlloc();
    const { out_hwpt_id: hwpt } = mockDomain(ioas);
    expect(errno(() => get(0))).toBe("EINVAL");
    expect(errno(() => get(513 * PAGE))).toBe("EINVAL");
    const buffer = get(2 * PAGE - 1);
    const { iova } = command("IOAS_MAP_FILE", { flags: 6, ioas_id: ioas, fd: buffer, length: 2n * 4096n });
    expect(iova).toBe(APERTURE);
    expect(checkMap(hwpt, iova, memory(1))).toBe("EINVAL");
    expect(revoke(fd)).toBe("EINVAL");
    expect(revoke(99)).toBe("EBADF");
    expect(revoke(buffer)).toBe("");
    expect(errno(() => command("IOAS_MAP_FILE", { flags: 6, ioas_id: ioas, fd: buffer, length: 4096n }))).toBe(
      "ENODEV",
    );
    expect(revoke(buffer, 0)).toBe("");
    command("IOAS_UNMAP", { ioas_id: ioas, iova, length: 2n * 4096n });
  });

  test("keep their memory until nobody has them", () => {
    const before = machine.memory.usedFrames;
    const ioas = ioasAlloc();
    const buffer = get(2 * PAGE);
    command("IOAS_MAP_FILE", { flags: 6, ioas_id: ioas, fd: buffer, length: 4096n });
    client.close(buffer);
    expect(machine.memory.usedFrames).toBeGreaterThanOrEqual(before + 2);
    command("DESTROY", { id: ioas });
    client.close(fd);
    // The pages that get() used for its struct stay the client's.
    expect(machine.memory.usedFrames).toBe(before + 1);
  });
});

describe("guests", () => {
  const nest = () => {
    const ioas = ioasAlloc();
    const { out_stdev_id: stdev, out_idev_id: device } = mockDomain(ioas);
    const parent = command("HWPT_ALLOC", { dev_id: device, pt_id: ioas, flags: 1 }).out_hwpt_id;
    const data = memory(1);
    client.process.memory.write(data, new Uint8Array(new Uint32Array([0xbadbeef, 0]).buffer));
    const nested = (pt_id: number): number =>
      command("HWPT_ALLOC", { dev_id: device, pt_id, data_type: 0xdead, data_len: 8, data_uptr: BigInt(data) })
        .out_hwpt_id;
    return { ioas, stdev, device, parent, nested };
  };

  test("have caches that tests look into", () => {
    const { device, parent, nested } = nest();
    const id = nested(parent);
    const iotlb = (word: number, iotlb: number, hwpt = id): string =>
      errno(() => run(uapi.TestCheckIotlb, uapi.TEST_MD_CHECK_IOTLB, { id: hwpt, word, iotlb }));
    expect(iotlb(3, 0xbadbeef)).toBe("");
    expect(iotlb(3, 0)).toBe("EINVAL");
    expect(iotlb(4, 0xbadbeef)).toBe("EINVAL");
    expect(iotlb(0, 0xbadbeef, parent)).toBe("ENOENT");
    const cache = (id: number, word: number, cache: number): string =>
      errno(() => run(uapi.TestDevCheckCache, uapi.TEST_DEV_CHECK_CACHE, { id, word, cache }));
    expect(cache(device, 0, 0xbaddad)).toBe("");
    expect(cache(device, 4, 0xbaddad)).toBe("EINVAL");
    expect(cache(parent, 0, 0xbaddad)).toBe("ENOENT");
  });

  test("are told events of devices that they know", () => {
    const { device, stdev, parent, nested } = nest();
    const trigger = (): string =>
      errno(() => run(uapi.TestTriggerVevent, uapi.TEST_TRIGGER_VEVENT, { dev_id: device }));
    expect(trigger()).toBe("ENOENT");
    const viommu = command("VIOMMU_ALLOC", { type: 0xdeadbeef, dev_id: device, hwpt_id: parent }).out_viommu_id;
    const id = nested(viommu);
    command("VDEVICE_ALLOC", { viommu_id: viommu, dev_id: device, virt_id: 0x55n });
    run(uapi.TestMockDomainReplace, uapi.TEST_MOCK_DOMAIN_REPLACE, { id: stdev, pt_id: id });
    expect(trigger()).toBe("EOPNOTSUPP");
    const { out_veventq_fd: queue } = command("VEVENTQ_ALLOC", {
      viommu_id: viommu,
      type: 0xbeefbeef,
      veventq_depth: 2,
    });
    expect(trigger()).toBe("");
    const record = new Uint8Array(12);
    expect(client.read(queue, 0, record)).toBe(12);
    expect([...new Uint32Array(record.buffer)]).toEqual([0, 0, 0x55]);
  });

  test("are asked for pages", () => {
    const ioas = ioasAlloc();
    const { out_stdev_id: id, out_idev_id: device } = mockDomain(ioas);
    const trigger = (dev_id: number): string =>
      errno(() => run(uapi.TestTriggerIopf, uapi.TEST_TRIGGER_IOPF, { dev_id, grpid: 7, perm: 3, addr: 0x5000n }));
    expect(trigger(ioas)).toBe("ENOENT");
    expect(trigger(device)).toBe("");
    const queue = command("FAULT_QUEUE_ALLOC", {});
    const pt_id = command("HWPT_ALLOC", {
      dev_id: device,
      pt_id: ioas,
      flags: uapi.HWPT_FAULT_ID_VALID,
      fault_id: queue.out_fault_id,
    }).out_hwpt_id;
    run(uapi.TestMockDomainReplace, uapi.TEST_MOCK_DOMAIN_REPLACE, { id, pt_id });
    expect(trigger(device)).toBe("");
    const record = new Uint8Array(40);
    expect(client.read(queue.out_fault_fd, 0, record)).toBe(40);
    const words = new Uint32Array(record.buffer);
    expect([words[0], words[1], words[3], words[4], words[6], words[9]]).toEqual([2, device, 7, 3, 0x5000, 1]);
  });
});
