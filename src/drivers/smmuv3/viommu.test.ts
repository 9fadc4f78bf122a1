import { describe, expect, it } from "vitest";
import {
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  attachPasid,
  type Device,
  detachPasid,
  type Invalidation,
  newGather,
  type PageRequestGroup,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
  REQUEST_LAST_PAGE,
  REQUEST_PASID_VALID,
  RESPONSE_INVALID,
  RESPONSE_SUCCESS,
  type UserData,
  type Viommu,
  type ViommuServices,
} from "../../iommu/index.ts";
import { readEntry } from "../../pasidtable/index.ts";
import { EBUSY, EINVAL, EIO, ENOENT, EOPNOTSUPP, refuse } from "../../runtime/index.ts";
import {
  ATC_INV,
  CFGI_CD,
  CFGI_CD_ALL,
  CFGI_STE,
  commandName,
  RESUME,
  SYNC,
  TLBI_NH_ALL,
  TLBI_NH_ASID,
  TLBI_NH_VA,
  TLBI_NH_VAA,
  TLBI_NSNH_ALL,
  TLBI_S2_IPA,
} from "./commands.ts";
import { type GuestMemory, GuestTables } from "./guest.test-support.ts";
import { modelWorld } from "./on-model.test-support.ts";
import { EVENT_TYPE_ARM_SMMUV3, HWPT_DATA_ARM_SMMUV3, INVALIDATE_DATA_ARM_SMMUV3 } from "./user-data.ts";

const STREAM = 8;
/** What the guest calls it. */
const VIRTUAL = 0x42;
const RW = PROT_READ | PROT_WRITE;
/** The guest's memory: its physical addresses, and where they are in fact. */
const RAM = { ipa: 0x8000_0000, physical: 0x80_0000, size: 0x10_0000 };
const IOVA = 0x1234_5000;

function data(words: readonly bigint[], type = HWPT_DATA_ARM_SMMUV3): UserData {
  const bytes = new Uint8Array(new BigUint64Array(words).buffer);
  return { type, length: bytes.length, bytes, write: () => undefined };
}

function commands(...words: (readonly [bigint, bigint])[]): Invalidation {
  const bytes = new Uint8Array(new BigUint64Array(words.flat()).buffer);
  return {
    type: INVALIDATE_DATA_ARM_SMMUV3,
    entryLength: 16,
    count: words.length,
    done: 0,
    read: (index, into) => into.set(bytes.subarray(index * 16, index * 16 + 16)),
  };
}

/** A viommu above a parent that shows the guest's RAM; one device, which the guest knows unless told otherwise. */
function setUp(features?: Parameters<typeof modelWorld>[0]) {
  const world = modelWorld(features);
  const { run, driver, probed, memory, system, instance } = world;
  const device = probed("a", { streamIds: [STREAM], canStall: true });
  const parent = run(driver.allocatePaging(device, ALLOC_NEST_PARENT, undefined));
  run(parent.map(BigInt(RAM.ipa), RAM.physical, RAM.size, RW));
  const vdevices = new Map<bigint, Device>([[BigInt(VIRTUAL), device]]);
  const reports: { type: number; record: BigUint64Array }[] = [];
  let hasQueue = true;
  const services: ViommuServices = {
    device: (virtualId) => vdevices.get(virtualId),
    virtualId: (wanted) => [...vdevices].find(([, each]) => each === wanted)?.[0],
    report: (type, record) => {
      if (!hasQueue) refuse(EOPNOTSUPP, () => "no queue");
      reports.push({ type, record: new BigUint64Array(record.slice().buffer) });
    },
    publishWindow: () => 0n,
    retractWindow: () => undefined,
  };
  const viommu: Viommu = run(driver.allocateViommu(device, parent, 1, undefined, services));
  const nested = (ste: readonly bigint[], flags = 0) => run(viommu.allocateNested!(device, flags, data(ste)));
  const physical = (ipa: number): number => ipa - RAM.ipa + RAM.physical;
  const guestMemory: GuestMemory = {
    read64: (ipa) => {
      const at = physical(ipa);
      return BigInt(memory.readWord(at)) + BigInt(memory.readWord(at + 4)) * 2n ** 32n;
    },
    write64: (ipa, value) => {
      const at = physical(ipa);
      memory.writeWord(at, Number(value % 2n ** 32n));
      memory.writeWord(at + 4, Number(value / 2n ** 32n));
    },
  };
  const seen: number[][] = [];
  system.events.listen((event) => {
    if (event.kind === "smmuv3.command.consume") seen.push(event.words as number[]);
  });
  /** The commands that a piece of work makes, without those that only wait. */
  const commandsOf = (work: () => void): number[][] => {
    seen.length = 0;
    work();
    return seen.splice(0);
  };
  return {
    ...world,
    device,
    parent,
    viommu,
    vdevices,
    reports,
    nested,
    guestMemory,
    commandsOf,
    setQueue: (has: boolean) => void (hasQueue = has),
    entry: () => readEntry(memory, instance.streamTable.entryAddress(STREAM)),
    /** Byte at a guest's physical address. */
    byte: (ipa: number) => memory.readWord(physical(ipa)) & 0xff,
  };
}

/** As {@link setUp}, and the device translates by a table of the guest's, in which one page is mapped. */
function translating(options: { stalls?: boolean } = {}) {
  const world = setUp();
  const tables = new GuestTables(world.guestMemory, RAM.ipa, { asid: 7, ...options });
  tables.map(IOVA, RAM.ipa + 0x8000);
  const domain = world.nested(tables.streamEntry);
  return { ...world, tables, domain, attach: () => world.run(world.device.group!.attach(domain, {})) };
}

const CFG = (config: bigint): bigint => 1n + config * 2n;

describe("a viommu", () => {
  it.each([
    ["no stage 1", { stage1: false, substreamIdBits: 0 }],
    ["no stage 2", { stage2: false }],
    ["no forced write-back", { stage2ForceWriteBack: false }],
  ])("is not to be had of an SMMU with %s", (_, features) => {
    const { driver, probed } = modelWorld(features);
    expect(driver.supportsViommu(probed("a", { streamIds: [STREAM] }), 1)).toBe(false);
  });

  it("is of one type, and on a parent of the same SMMU only", () => {
    const { driver, device, errno, instance } = setUp();
    expect([1, 0, 2].map((type) => driver.supportsViommu(device, type))).toEqual([true, false, false]);
    const foreign = setUp().parent;
    const none = {} as ViommuServices;
    expect(errno(driver.allocateViommu(device, foreign, 1, undefined, none))).toBe(EINVAL);
    expect(errno(driver.allocateViommu(device, {} as PagingDomain, 1, undefined, none))).toBe(EINVAL);
    expect(instance.vmids.size).toBe(1);
  });

  it("takes no device with several stream ids", () => {
    const { viommu, probed, errno } = setUp();
    expect(errno(viommu.addDevice!(probed("b", { streamIds: [9, 10] }), 1n))).toBe(EOPNOTSUPP);
    expect(errno(viommu.addDevice!(probed("c", { streamIds: [11] }), 2n))).toBeUndefined();
  });
});

describe("a guest's STE", () => {
  const refusal = (ste: readonly bigint[], type?: number, flags = 0): number | undefined => {
    const { viommu, device, errno } = setUp();
    return errno(viommu.allocateNested!(device, flags, data(ste, type)));
  };

  it.each<[string, number, bigint[], number?, number?]>([
    ["flags", EOPNOTSUPP, [0n, 0n], HWPT_DATA_ARM_SMMUV3, ALLOC_PASID],
    ["another type of data", EINVAL, [0n, 0n], 1],
    ["too little data", EINVAL, [0n]],
    ["too much data", EINVAL, [0n, 0n, 0n]],
    ["Config of stage 2", EIO, [CFG(6n), 0n]],
    ["Config of both stages", EIO, [CFG(7n), 0n]],
    ["a reserved Config", EIO, [CFG(1n), 0n]],
    ["a bit between pointer and S1CDMax", EIO, [CFG(5n) + 2n ** 52n, 0n]],
    ["split ATS", EIO, [CFG(5n), 2n * 2n ** 28n]],
    ["reserved EATS", EIO, [CFG(0n), 3n * 2n ** 28n]],
    ["STRW", EIO, [CFG(5n), 2n ** 31n]],
    ["MEV", EIO, [CFG(5n), 2n ** 19n]],
    ["S2FWB", EIO, [CFG(5n), 2n ** 25n]],
    ["SHCFG", EIO, [CFG(4n), 2n ** 44n]],
  ])("is refused for %s", (_, errno, ste, type, flags) => {
    expect(refusal(ste, type, flags)).toBe(errno);
  });

  it.each<[string, bigint[]]>([
    ["nothing, whatever else it says", [2n ** 60n, 2n ** 63n]],
    ["abort", [CFG(0n), 0n]],
    ["bypass", [CFG(4n), 2n ** 28n]],
    ["all that is a guest's", [0xf80f_ffff_ffff_fff0n + CFG(5n), 0x1800_00ffn]],
  ])("may say %s", (_, ste) => {
    expect(refusal(ste)).toBeUndefined();
  });

  it("is combined with the parent's stage 2: Config 7, and MEV", () => {
    const { run, device, parent, domain, attach, entry, tables } = translating();
    run(device.group!.attach(parent, {}));
    const stage2 = [...entry()];
    run(device.group!.detach());
    attach();
    const expected = stage2.slice();
    expected[0] = 1 + 7 * 2 + tables.context;
    expected[2] = (stage2[2] + 0xd4 + 2 ** 19) >>> 0;
    expect([...entry()]).toEqual(expected);
    expect(device.group!.domain).toBe(domain);
  });

  it("of bypass is the parent's stage 2, and of abort an aborting one", () => {
    const { run, device, parent, nested, entry, dma } = setUp();
    run(device.group!.attach(parent, {}));
    const stage2 = [...entry()];
    run(device.group!.replace(nested([CFG(4n), 0n]), {}));
    expect([...entry()]).toEqual(stage2);
    expect(dma(STREAM, RAM.ipa).done).toBe(true);
    for (const ste of [
      [CFG(0n), 0n],
      [0n, 0n],
    ]) {
      run(device.group!.replace(nested(ste), { ste }));
      expect([...entry()]).toEqual([1, ...new Array(15).fill(0)]);
      expect(dma(STREAM, RAM.ipa).done).toBe(false);
    }
  });

  it("that translates needs a vdevice; abort and bypass do not", () => {
    const { device, errno, vdevices, nested, domain } = translating();
    vdevices.clear();
    const attachTo = (target: typeof domain) => {
      const failed = errno(device.group!.attach(target, {}));
      if (failed === undefined) errno(device.group!.detach());
      return failed;
    };
    const others = [
      [0n, 0n],
      [CFG(0n), 0n],
      [CFG(4n), 0n],
    ].map((ste) => nested(ste));
    expect([domain, ...others].map(attachTo)).toEqual([ENOENT, undefined, undefined, undefined]);
  });

  it("has no place beside PASIDs of the host's, whether the guest knows the device or not", () => {
    const { run, errno, driver, probed, viommu, tables } = translating();
    const device = probed("b", { streamIds: [9], pasidBits: 4 });
    const stage1 = run(driver.allocatePaging(device, ALLOC_PASID, undefined));
    run(device.group!.attach(stage1, {}));
    run(attachPasid(device.group!, stage1, 3, {}));
    const nested = run(viommu.allocateNested!(device, 0, data(tables.streamEntry)));
    expect(errno(device.group!.replace(nested, {}))).toBe(EBUSY);
    run(detachPasid(device.group!, 3));
    expect(errno(device.group!.replace(nested, {}))).toBe(ENOENT);
  });

  it("is nothing for devices behind another SMMU", () => {
    const { domain } = translating();
    const other = setUp();
    expect(other.errno(domain.attachDevice(other.device, undefined))).toBe(EINVAL);
  });
});

describe("DMA through both stages", () => {
  it("goes to the guest's memory, by the guest's rights", () => {
    const { attach, dma, hardware, tables } = translating();
    tables.map(IOVA + 4096, RAM.ipa + 0x9000, false);
    attach();
    expect(dma(STREAM, IOVA, true).done).toBe(true);
    expect(hardware.physical).toBe(RAM.physical + 0x8000);
    expect(dma(STREAM, IOVA + 4096).done).toBe(true);
    expect(dma(STREAM, IOVA + 4096, true).done).toBe(false);
  });

  it("remembers what the guest changed until it says so", () => {
    const { run, attach, dma, hardware, tables, viommu } = translating();
    attach();
    dma(STREAM, IOVA);
    tables.map(IOVA, RAM.ipa + 0xa000);
    expect([dma(STREAM, IOVA).done, hardware.physical]).toEqual([true, RAM.physical + 0x8000]);
    const invalidation = commands([BigInt(TLBI_NH_VA) + 7n * 2n ** 48n, BigInt(IOVA)]);
    run(viommu.invalidate!(invalidation));
    expect(invalidation.done).toBe(1);
    expect([dma(STREAM, IOVA).done, hardware.physical]).toEqual([true, RAM.physical + 0xa000]);
  });

  it("forgets what the guest made of memory that goes", () => {
    const { run, attach, dma, parent, commandsOf } = translating();
    attach();
    expect(dma(STREAM, IOVA).done).toBe(true);
    const gather = newGather();
    const work = commandsOf(() => {
      run(parent.unmap(BigInt(RAM.ipa), RAM.size, gather));
      run(parent.sync(gather));
    });
    expect(work.map(([word]) => word & 0xff).at(-1)).toBe(SYNC);
    expect(new Set(work.map(([word]) => word & 0xff))).toEqual(new Set([TLBI_S2_IPA, TLBI_NH_ALL, SYNC]));
    expect(dma(STREAM, IOVA).done).toBe(false);
  });

  it("never sees an invalid entry when one nested domain replaces another, or stage 2 alone", () => {
    const { run, attach, device, parent, memory, instance, nested, tables, guestMemory } = translating();
    const other = new GuestTables(guestMemory, RAM.ipa + 0x4_0000, { asid: 8 });
    other.map(IOVA, RAM.ipa + 0xb000);
    attach();
    const address = instance.streamTable.entryAddress(STREAM);
    const configs: number[] = [];
    const write = memory.writeWord.bind(memory);
    memory.writeWord = (at, value) => {
      if (at === address) configs.push(value & 0xf);
      write(at, value);
    };
    const targets = [nested(other.streamEntry), parent, nested(tables.streamEntry), nested([CFG(4n), 0n])];
    for (const target of targets) {
      run(device.group!.replace(target, { target }));
    }
    expect(configs.length).toBeGreaterThan(3);
    expect(configs.filter((config) => config !== 15 && config !== 13)).toEqual([]);
  });
});

describe("a guest's invalidation commands", () => {
  const vmid = 1;
  const sid = (stream: number): bigint => BigInt(stream) * 2n ** 32n;

  it.each<[string, bigint, bigint, number[]]>([
    ["TLBI_NSNH_ALL is that of its VMID", BigInt(TLBI_NSNH_ALL), 5n, [TLBI_NH_ALL, vmid, 0, 0]],
    ["TLBI_NH_ALL", BigInt(TLBI_NH_ALL) + 0xdead_0000_0000n, 0n, [TLBI_NH_ALL, vmid, 0, 0]],
    ["TLBI_NH_ASID", BigInt(TLBI_NH_ASID) + 7n * 2n ** 48n + sid(9), 0n, [TLBI_NH_ASID, 0x7_0001, 0, 0]],
    ["TLBI_NH_VA", BigInt(TLBI_NH_VA) + 7n * 2n ** 48n, 0x12_3456_7001n, [TLBI_NH_VA, 0x7_0001, 0x3456_7001, 0x12]],
    ["TLBI_NH_VAA", BigInt(TLBI_NH_VAA), 0x1000n, [TLBI_NH_VAA, vmid, 0x1000, 0]],
    ["CFGI_CD", BigInt(CFGI_CD) + 3n * 4096n + sid(VIRTUAL), 1n, [CFGI_CD + 3 * 4096, STREAM, 1, 0]],
    ["CFGI_CD_ALL", BigInt(CFGI_CD_ALL) + sid(VIRTUAL), 0n, [CFGI_CD_ALL, STREAM, 0, 0]],
  ])("%s: the VMID is its own, the stream the real one", (_, first, second, expected) => {
    const { run, viommu, commandsOf } = setUp();
    const seen = commandsOf(() => run(viommu.invalidate!(commands([first, second]))));
    expect(seen).toEqual([expected, [SYNC, 0, 0, 0]]);
  });

  it("name devices by the guest's ids: one that it does not have is an error, and so is what is not a guest's", () => {
    const { errno, viommu } = setUp();
    const failing: [bigint, bigint][] = [
      [BigInt(CFGI_CD) + sid(STREAM), 0n],
      [BigInt(ATC_INV) + sid(1), 0n],
      [BigInt(CFGI_STE) + sid(VIRTUAL), 0n],
      [BigInt(TLBI_S2_IPA), 0n],
      [BigInt(SYNC), 0n],
      [BigInt(RESUME), 0n],
    ];
    expect(failing.map((command) => errno(viommu.invalidate!(commands(command))))).toEqual(failing.map(() => EIO));
  });

  it("are refused without any, or as another type of data", () => {
    const { errno, viommu } = setUp();
    expect(errno(viommu.invalidate!(commands()))).toBe(EINVAL);
    expect(errno(viommu.invalidate!({ ...commands([BigInt(TLBI_NH_ALL), 0n]), type: 2 }))).toBe(EINVAL);
  });

  it("go out in batches of 63; those of a batch with a bad one do not, but count as done", () => {
    const { errno, viommu, commandsOf } = setUp();
    const good = (count: number) => Array.from({ length: count }, () => [BigInt(TLBI_NH_ALL), 0n] as const);
    const invalidation = commands(...good(63), ...good(10), [BigInt(SYNC), 0n], ...good(5));
    const seen = commandsOf(() => expect(errno(viommu.invalidate!(invalidation))).toBe(EIO));
    expect(invalidation.done).toBe(73);
    expect(seen.map(([word]) => commandName(word & 0xff))).toEqual([...new Array(63).fill("TLBI_NH_ALL"), "SYNC"]);

    const all = commands(...good(127));
    const names = commandsOf(() => expect(errno(viommu.invalidate!(all))).toBeUndefined());
    expect(all.done).toBe(127);
    expect(names.map(([word], at) => ((word & 0xff) === SYNC ? at : -1)).filter((at) => at >= 0)).toEqual([
      63, 127, 129,
    ]);
  });

  it("that cannot be read are not carried out", () => {
    const { errno, viommu, commandsOf } = setUp();
    const invalidation = commands([BigInt(TLBI_NH_ALL), 0n], [BigInt(TLBI_NH_ALL), 0n]);
    const { read } = invalidation;
    invalidation.read = (index, into) => (index === 1 ? refuse(EIO, () => "unreadable") : read(index, into));
    const seen = commandsOf(() => expect(errno(viommu.invalidate!(invalidation))).toBe(EIO));
    expect([seen, invalidation.done]).toEqual([[], 0]);
  });
});

describe("events of a guest's stream", () => {
  it("reach the guest under its own stream id, if they are of stage 1", () => {
    const { attach, dma, reports } = translating();
    attach();
    expect(dma(STREAM, IOVA + 0x10_0000, true).done).toBe(false);
    const [{ type, record }] = reports;
    expect(type).toBe(EVENT_TYPE_ARM_SMMUV3);
    expect(record[0]).toBe(0x10n + BigInt(VIRTUAL) * 2n ** 32n);
    expect(record[1]).toBe(2n * 2n ** 40n);
    expect(record[2]).toBe(BigInt(IOVA) + 0x10_0000n);
  });

  it("of a CD that is no good do too, but nothing of stage 2 does", () => {
    const { attach, dma, reports, guestMemory, tables, viommu, run } = translating();
    attach();
    guestMemory.write64(tables.context, 0n);
    dma(STREAM, IOVA);
    expect(reports.map(({ record }) => record[0] % 256n)).toEqual([0x0an]);

    const other = new GuestTables(guestMemory, RAM.ipa + 0x4_0000, { asid: 7 });
    other.map(IOVA, RAM.ipa + RAM.size);
    guestMemory.write64(tables.context, guestMemory.read64(other.context));
    guestMemory.write64(tables.context + 8, guestMemory.read64(other.context + 8));
    run(viommu.invalidate!(commands([BigInt(CFGI_CD) + BigInt(VIRTUAL) * 2n ** 32n, 0n])));
    expect(dma(STREAM, IOVA).done).toBe(false);
    expect(reports).toHaveLength(1);
  });

  it("are nobody's where nobody listens, and after the stream left the guest", () => {
    const { run, attach, dma, device, reports, setQueue, parent } = translating();
    attach();
    setQueue(false);
    expect(dma(STREAM, 0).done).toBe(false);
    setQueue(true);
    run(device.group!.replace(parent, {}));
    expect(dma(STREAM, 0).done).toBe(false);
    expect(reports).toEqual([]);
  });

  it("keep the id that the device had when it was attached, though its vdevice is gone", () => {
    const { attach, dma, reports, vdevices } = translating();
    attach();
    vdevices.clear();
    dma(STREAM, 0);
    expect(reports.map(({ record }) => record[0] / 2n ** 32n)).toEqual([BigInt(VIRTUAL)]);
  });

  it("of an STE that the hardware cannot accept do too", () => {
    const { run, device, tables, nested, dma, reports } = translating();
    const [ste0, ste1] = tables.streamEntry;
    const tooWide = 21n * 2n ** 59n;
    run(device.group!.attach(nested([ste0 + tooWide, ste1]), {}));
    dma(STREAM, IOVA);
    expect(reports.map(({ record }) => record[0])).toEqual([0x04n + BigInt(VIRTUAL) * 2n ** 32n]);
  });

  it("with a PASID of the guest's name it; if they stalled, so do their page requests", () => {
    for (const stalls of [false, true]) {
      const { run, device, tables, guestMemory, nested, dma, reports } = translating({ stalls });
      const groups: PageRequestGroup[] = [];
      // Two CDs: the second, which is PASID 1's, is a copy of the first.
      const [ste0, ste1] = tables.streamEntry;
      for (let word = 0; word < 64; word += 8) {
        guestMemory.write64(tables.context + 64 + word, guestMemory.read64(tables.context + word));
      }
      const domain = nested([ste0 + 2n ** 59n, ste1 + 2n]);
      domain.pageRequestHandler = (group) => void groups.push(group);
      run(device.group!.attach(domain, {}));
      expect(dma(STREAM, IOVA, false, 1).done).toBe(true);
      dma(STREAM, IOVA + 4096, false, 1);
      expect(reports.map(({ record }) => record[0] % 2n ** 32n)).toEqual(stalls ? [] : [0x1810n]);
      const requests = groups.flatMap(({ requests }) => requests);
      expect(requests.map(({ flags, pasid }) => [flags, pasid])).toEqual(
        stalls ? [[REQUEST_PASID_VALID | REQUEST_LAST_PAGE, 1]] : [],
      );
      for (const group of groups) run(group.respond(RESPONSE_INVALID));
    }
  });

  it("that stalled are page requests instead", () => {
    const { attach, dma, reports, tables, domain, run } = translating({ stalls: true });
    const groups: PageRequestGroup[] = [];
    domain.pageRequestHandler = (group) => void groups.push(group);
    attach();
    const access = dma(STREAM, IOVA + 4096, true);
    expect(access.done).toBeUndefined();
    expect(groups[0].requests[0].address).toBe(BigInt(IOVA + 4096));
    tables.map(IOVA + 4096, RAM.ipa + 0x9000);
    run(groups[0].respond(RESPONSE_SUCCESS));
    expect(access.done).toBe(true);
    expect(reports).toEqual([]);
  });
});

describe("what a failure leaves", () => {
  it("of viommu, nested domain, attach and invalidation: nothing", () => {
    const { system, driver, device, parent, viommu, entry, errno, nested } = translating();
    const none = {} as ViommuServices;
    const works = [
      () => driver.allocateViommu(device, parent, 1, undefined, none),
      () => viommu.allocateNested!(device, 0, data([0n, 0n])),
      () => viommu.invalidate!(commands([BigInt(TLBI_NH_ALL), 0n])),
      () => device.group!.attach(nested([CFG(4n), 0n]), {}),
    ];
    const before = [...entry()];
    for (const work of works) {
      const code = work();
      system.failures.inject(() => true);
      const failed = errno(code);
      system.failures.inject(undefined);
      expect(failed).toBeDefined();
      expect([...entry()]).toEqual(before);
    }
  });
});
