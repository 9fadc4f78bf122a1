import { describe, expect, it } from "vitest";
import {
  ALLOC_DIRTY_TRACKING,
  ALLOC_NEST_PARENT,
  Device,
  groupNodes,
  IommuCore,
  newGather,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
} from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import { readEntry } from "../../pasidtable/index.ts";
import { EBUSY, EINVAL, ENODEV, ENOSPC, ENXIO, EOPNOTSUPP, Refusal, System, type Task } from "../../runtime/index.ts";
import { CFGI_CD, CFGI_STE, commandName, SYNC, TLBI_NH_ASID, TLBI_NH_VA } from "./commands.ts";
import type { SmmuV3PagingDomain } from "./domain.ts";
import { SmmuV3Driver } from "./driver.ts";
import { FakeSmmu, fakeIdentification } from "./fake-smmu.test-support.ts";
import { masterOf } from "./master.ts";
import {
  CMDQ_BASE,
  CR0,
  CR1,
  CR2,
  EVENTQ_BASE,
  EVENTQ_CONS,
  EVENTQ_PROD,
  GBPA,
  GERROR,
  GERROR_EVENTQ_ABT,
  GERROR_PRIQ_ABT,
  GERROR_SFM,
  GERRORN,
  IDR0,
  IDR1,
  IDR3,
  IRQ_CTRL,
  STRTAB_BASE,
} from "./registers.ts";
import { abortEntry } from "./stream-table-entry.ts";

function bare(identification: Readonly<Record<number, number>> = {}) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 28 }] });
  const hardware = new FakeSmmu(memory, identification);
  const driver = new SmmuV3Driver(system, memory);
  const core = new IommuCore(system, { defaultDomain: "identity" });
  const run = <T>(code: Task<T>): T => system.run("test", code);
  const errno = (code: Task<unknown>): number | undefined => {
    try {
      run(code);
      return undefined;
    } catch (error) {
      if (error instanceof Refusal) return error.errno;
      throw error;
    }
  };
  return { system, memory, hardware, driver, core, run, errno };
}

function setUp(identification: Readonly<Record<number, number>> = {}) {
  const world = bare(identification);
  const { run, driver, hardware, core } = world;
  const instance = run(driver.probe(hardware, { name: "smmu" }));
  run(core.register(instance));
  const device = (name: string, ...streamIds: number[]): Device =>
    new Device({ name, firmware: { instance: "smmu", streamIds } });
  const a = device("a", 8);
  run(core.probe(a));
  /** What a piece of work makes the SMMU do. */
  const commandsOf = (work: Task<unknown>): string[] => {
    const from = hardware.commands.length;
    run(work);
    return hardware.commands.slice(from).map(([word]) => commandName(word & 0xff));
  };
  const domain = (flags = 0): PagingDomain => run(driver.allocatePaging(a, flags, undefined));
  const entry = (streamId: number) => readEntry(world.memory, instance.streamTable.entryAddress(streamId));
  return { ...world, instance, device, a, commandsOf, domain, entry };
}

const RW = PROT_READ | PROT_WRITE;

describe("bringing an SMMU up", () => {
  it("follows the reset order", () => {
    const { hardware } = setUp();
    const order: (readonly [number, number?])[] = [
      [CR0, 0],
      [CR1],
      [CR2],
      [STRTAB_BASE],
      [CMDQ_BASE],
      [CR0, 0x8],
      [EVENTQ_BASE],
      [CR0, 0xc],
      [IRQ_CTRL],
      [CR0, 0xd],
    ];
    let at = -1;
    for (const [offset, value] of order) {
      at = hardware.writes.findIndex(
        (write, i) => i > at && write.offset === offset && (value ?? write.value) === write.value,
      );
      expect(at, `register 0x${offset.toString(16)}`).toBeGreaterThanOrEqual(0);
    }
    expect(hardware.commands.slice(0, 4).map(([word]) => commandName(word & 0xff))).toEqual([
      "CFGI_STE_RANGE",
      "SYNC",
      "TLBI_NSNH_ALL",
      "SYNC",
    ]);
  });

  it("lets nothing pass while it takes over an SMMU that was on", () => {
    const { hardware, run, driver } = bare();
    hardware.registers.set(CR0, 1);
    run(driver.probe(hardware, { name: "smmu" }));
    expect(hardware.writes[0]).toEqual({ offset: GBPA, value: 0x8010_0000 });
    expect(hardware.writes[1]).toEqual({ offset: CR0, value: 0 });
  });

  it.each([
    ["no stage", { [IDR0]: 2 << 2 }],
    ["no AArch64 tables", { [IDR0]: 3 | (1 << 2) }],
    ["big-endian tables only", { [IDR0]: 3 | (2 << 2) | (3 << 21) }],
    ["preset tables", { [IDR1]: 16 | (8 << 21) | (1 << 30) }],
    ["a short command queue", { [IDR1]: 16 | (6 << 21) }],
  ])("is refused with ENXIO where there is %s", (_, identification) => {
    const { errno, driver, hardware, memory } = bare(identification);
    expect(errno(driver.probe(hardware, { name: "smmu" }))).toBe(ENXIO);
    expect(memory.usedFrames).toBe(0);
  });

  it("gives all memory back on removal", () => {
    const { run, driver, core, instance, memory } = setUp();
    run(core.unregister(instance));
    run(driver.remove(instance));
    expect(memory.usedFrames).toBe(0);
  });
});

describe("a device", () => {
  it("aborts before it is attached and after it left", () => {
    const { core, run, a, entry } = setUp();
    expect(entry(9)).toEqual(abortEntry());
    expect(entry(8)).not.toEqual(abortEntry());
    run(core.release(a));
    expect(entry(8)).toEqual(abortEntry());
  });

  it("may not use another's stream id, or one beyond the table", () => {
    const { core, errno, device } = setUp();
    expect(errno(core.probe(device("b", 7, 8)))).toBe(ENODEV);
    expect(errno(core.probe(device("c", 2 ** 20)))).toBeDefined();
    expect(errno(core.probe(device("d", 7, 7)))).toBeUndefined();
  });

  it("says what hardware it is behind", () => {
    const { driver, a, hardware } = setUp();
    const { type, bytes } = driver.hardwareInfo(a, 0);
    expect(type).toBe(2);
    expect(bytes.length).toBe(40);
    expect(new DataView(bytes.buffer).getUint32(8, true)).toBe(hardware.read32(IDR0));
    expect(() => driver.hardwareInfo(a, 1)).toThrow(Refusal);
  });

  it("reserves the window of its message interrupts", () => {
    const { a, driver } = setUp();
    expect(driver.reservedRegions(a)).toEqual([{ start: 0x8000000n, last: 0x80fffffn, type: "software-msi" }]);
  });
});

describe("domains", () => {
  it.each([
    [0, 1],
    [1, 2],
    [2, 1],
    [8, 1],
    [10, 1],
  ])("with flags %i is stage %i", (flags, stage) => {
    const { domain } = setUp();
    expect((domain(flags) as SmmuV3PagingDomain).stage).toBe(stage);
  });

  it("answer EOPNOTSUPP to other flags and to data", () => {
    const { errno, driver, a } = setUp();
    for (const flags of [3, 4, 9, 16]) expect(errno(driver.allocatePaging(a, flags, undefined))).toBe(EOPNOTSUPP);
    const data = { type: 2, length: 16, bytes: new Uint8Array(16), write: () => {} };
    expect(errno(driver.allocatePaging(a, 0, data))).toBe(EOPNOTSUPP);
  });

  it("fall back to stage 2 where there is no stage 1, which then nests nothing", () => {
    const { domain, errno, driver, a } = setUp({ [IDR0]: 1 | (2 << 2) | (1 << 27) });
    expect((domain() as SmmuV3PagingDomain).stage).toBe(2);
    for (const flags of [1, 2, 8]) expect(errno(driver.allocatePaging(a, flags, undefined))).toBe(EOPNOTSUPP);
  });

  it("take the lowest free ASID, and EBUSY when none is left", () => {
    const { domain, errno, driver, a, instance } = setUp({ [IDR0]: 0x3 | (2 << 2) | (1 << 27) });
    const [first, second] = [domain(), domain()];
    first.free();
    expect(domain().label).toContain("ASID 1");
    expect(second.label).toContain("ASID 2");
    while (instance.contexts.size < 255) domain();
    expect(errno(driver.allocatePaging(a, 0, undefined))).toBe(EBUSY);
  });

  it("take the lowest free VMID of stage 2, and ENOSPC when none is left", () => {
    const { domain, errno, driver, a, instance } = setUp({ [IDR0]: 0x3 | (2 << 2) | (1 << 27) });
    const [first, second] = [domain(ALLOC_NEST_PARENT), domain(ALLOC_NEST_PARENT)];
    first.free();
    const again = domain(ALLOC_NEST_PARENT);
    expect(again.label).toContain("VMID 1");
    expect(second.label).toContain("VMID 2");
    while (instance.vmids.size < 255) domain(ALLOC_NEST_PARENT);
    expect(errno(driver.allocatePaging(a, ALLOC_NEST_PARENT, undefined))).toBe(ENOSPC);
    again.free();
    expect(domain(ALLOC_NEST_PARENT).label).toContain("VMID 1");
  });

  it("belong to one SMMU", () => {
    const { run, errno, memory, driver, core, domain } = setUp();
    const other = run(driver.probe(new FakeSmmu(memory), { name: "other" }));
    run(core.register(other));
    const b = new Device({ name: "b", firmware: { instance: "other", streamIds: [8] } });
    run(core.probe(b));
    expect(errno(b.group!.attach(domain(), {}))).toBe(EINVAL);
  });
});

describe("attaching", () => {
  it("writes the CD before the STE, and drops the old domain's TLB entries last", () => {
    const { a, domain, commandsOf } = setUp();
    const [first, second] = [domain(), domain()];
    const group = a.group!;
    expect(commandsOf(group.attach(first, {}))).toEqual([
      ...["CFGI_CD", "SYNC", "CFGI_CD", "SYNC"],
      ...["CFGI_STE", "SYNC", "CFGI_STE", "SYNC", "PREFETCH_CONFIG"],
    ]);
    expect(commandsOf(group.replace(second, {}))).toEqual([
      ...["CFGI_STE", "SYNC", "PREFETCH_CONFIG"],
      ...["TLBI_NH_ASID", "SYNC"],
    ]);
    expect(commandsOf(group.detach()).slice(-2)).toEqual(["TLBI_NH_ASID", "SYNC"]);
  });

  it("tells the domain of its user before the hardware, and takes it away after", () => {
    const { a, domain, hardware, run, instance } = setUp();
    const target = domain() as SmmuV3PagingDomain;
    const seen: string[] = [];
    const { add, remove } = target.invalidation;
    const mark = (word: string): void =>
      void seen.push(`${word} after ${hardware.commands.filter(isSte).length} STE changes`);
    const isSte = ([word]: number[]): boolean => (word & 0xff) === CFGI_STE;
    target.invalidation.add = function (targets) {
      mark("in");
      add.call(this, targets);
    };
    target.invalidation.remove = function* (targets) {
      mark("out");
      yield* remove.call(this, targets);
    };
    hardware.commands.length = 0;
    run(a.group!.attach(target, {}));
    const changes = hardware.commands.filter(isSte).length;
    run(a.group!.detach());
    expect(seen).toEqual(["in after 0 STE changes", `out after ${hardware.commands.filter(isSte).length} STE changes`]);
    expect(changes).toBeGreaterThan(0);
    expect(instance.contexts.size).toBe(1);
  });
});

describe("dirty tracking", () => {
  /** The default features, with hardware that keeps access flags and dirty states. */
  function tracked() {
    const world = setUp({ [IDR0]: fakeIdentification[IDR0] | (2 << 6) });
    const domain = world.domain(ALLOC_DIRTY_TRACKING);
    world.run(world.a.group!.attach(domain, {}));
    world.run(domain.map(0x4000_0000n, 0x4000_0000, 0x20_0000 + 0x3000, RW));
    world.run(domain.map(0x8000_0000n, 0x4000_0000, 0x1000, PROT_READ));
    const read = (clear: boolean, iova = 0x4000_0000n, size = 0x20_3000): [bigint, number][] => {
      const told: [bigint, number][] = [];
      const reader = { clear, gather: newGather(), report: (at: bigint, bytes: number) => void told.push([at, bytes]) };
      const issued = world.commandsOf(
        (function* () {
          yield* domain.readDirty!(iova, size, reader);
          yield* domain.sync(reader.gather);
        })(),
      );
      expect(issued.length > 0).toBe(clear && told.length > 0);
      return told;
    };
    return { ...world, domain, read };
  }

  it("finds what may be written dirty at first, each leaf as far as it is asked for, and clean once it was read", () => {
    const { read, domain, run } = tracked();
    const pages: [bigint, number][] = [0x4020_0000n, 0x4020_1000n, 0x4020_2000n].map((at) => [at, 0x1000]);
    expect(read(false)).toEqual([[0x4000_0000n, 0x20_0000], ...pages]);
    expect(read(true, 0x401f_f000n, 0x2000)).toEqual([[0x401f_f000n, 0x1000], pages[0]]);
    expect(read(true)).toEqual(pages.slice(1));
    expect([read(true), read(true, 0x8000_0000n, 0x1000)]).toEqual([[], []]);
    expect(domain.translate(0x4020_1000n)).toBe(0x4020_1000);
    run(domain.setDirtyTracking!(true));
  });
});

describe("unmapping", () => {
  function mapped(size: number, options: { identification?: Record<number, number>; physical?: number } = {}) {
    const world = setUp(options.identification);
    const domain = world.domain() as SmmuV3PagingDomain;
    world.run(world.a.group!.attach(domain, {}));
    world.run(domain.map(0x4000_0000n, options.physical ?? 0x4000_0000, size, RW));
    const unmap = function* (): Task<void> {
      const gather = newGather();
      yield* domain.unmap(0x4000_0000n, size, gather);
      yield* domain.sync(gather);
      expect(gather).toEqual(newGather());
    };
    const from = world.hardware.commands.length;
    world.run(unmap());
    return { commands: world.hardware.commands.slice(from), domain };
  }

  it("invalidates page by page, tables included where tables went", () => {
    const { commands, domain } = mapped(2 * 4096);
    expect(commands).toEqual([
      [TLBI_NH_VA, 1 << 16, 0x4000_0000, 0],
      [TLBI_NH_VA, 1 << 16, 0x4000_1000, 0],
      [SYNC, 0, 0, 0],
    ]);
    expect(domain.tableFrames).toBe(1);
  });

  it("invalidates one large leaf by one command", () => {
    const { commands } = mapped(2 ** 21);
    expect(commands.length).toBe(2);
  });

  it("invalidates the whole ASID where pages are too many", () => {
    const { commands } = mapped(512 * 4096, { physical: 0x4000_1000 });
    expect(commands).toEqual([
      [TLBI_NH_ASID, 1 << 16, 0, 0],
      [SYNC, 0, 0, 0],
    ]);
  });

  it("invalidates by range where the SMMU can", () => {
    const { commands } = mapped(33 * 4096, { identification: { [IDR3]: 1 << 10 }, physical: 0x4000_1000 });
    const ranges = commands.slice(0, -1).map(([word, , low]) => ({
      pages: (((word >>> 12) & 31) + 1) * 2 ** ((word >>> 20) & 31),
      granule: (low >>> 10) & 3,
    }));
    // The table went with the pages, so no level is told, and one page alone cannot be said: two are.
    expect(ranges).toEqual([
      { pages: 2, granule: 1 },
      { pages: 32, granule: 1 },
    ]);
  });

  it("needs no command where nobody is attached", () => {
    const { run, domain, hardware, memory } = setUp();
    const target = domain();
    const before = memory.usedFrames;
    const count = hardware.commands.length;
    const gather = newGather();
    run(target.map(0n, 0, 4096, RW));
    run(target.unmap(0n, 4096, gather));
    run(target.sync(gather));
    expect(hardware.commands.length).toBe(count);
    expect(memory.usedFrames).toBe(before);
  });
});

describe("the command queue", () => {
  it("goes on after a command that the SMMU does not know, and says so", () => {
    const { system, hardware, a, domain, commandsOf } = setUp();
    const told: unknown[] = [];
    system.events.listen((event) => event.kind === "smmuv3.command-queue.error" && told.push(event.command));
    hardware.isIllegal = ([word]) => (word & 0xff) === CFGI_CD;
    const commands = commandsOf(a.group!.attach(domain(), {}));
    expect(commands).not.toContain("CFGI_CD");
    expect(commands.filter((name) => name === "CFGI_STE").length).toBe(2);
    expect(told).toEqual(["CFGI_CD", "CFGI_CD"]);
  });

  it("goes on after an invalidation that the SMMU does not know: the unmap waits for a SYNC behind it", () => {
    const { system, hardware, a, run, domain } = setUp();
    const target = domain() as SmmuV3PagingDomain;
    run(a.group!.attach(target, {}));
    run(target.map(0x4000_0000n, 0x4000_0000, 4096, RW));
    const told: unknown[] = [];
    system.events.listen((event) => event.kind === "smmuv3.command-queue.error" && told.push(event.command));
    hardware.isIllegal = ([word]) => (word & 0xff) === TLBI_NH_VA;
    const gather = newGather();
    run(target.unmap(0x4000_0000n, 4096, gather));
    run(target.sync(gather));
    expect(told).toEqual(["TLBI_NH_VA"]);
    expect(hardware.commands.at(-1)![0]).toBe(SYNC);
    expect(gather).toEqual(newGather());
  });

  it("takes more commands than it has entries", () => {
    const { instance, run, hardware } = setUp();
    const from = hardware.commands.length;
    run(
      (function* () {
        for (let address = 0; address < 1000; address++) instance.commands.push(TLBI_NH_VA, 0, address, 0);
        yield* instance.commands.sync();
      })(),
    );
    const seen = hardware.commands.slice(from);
    expect(seen.length).toBe(1001);
    expect(seen.slice(0, -1).every(([, , address], index) => address === index)).toBe(true);
  });

  it("says so if the SMMU does not answer, and does not hang", () => {
    const { system, hardware, instance, run } = setUp();
    const told: string[] = [];
    system.events.listen((event) => told.push(event.kind));
    hardware.write32 = () => undefined;
    run(instance.commands.sync());
    expect(told).toContain("smmuv3.command-queue.timeout");
  });
});

describe("global errors", () => {
  it.each([
    ["an event queue that could not be written", GERROR_EVENTQ_ABT, /events are lost/],
    ["a page request queue that could not be written", GERROR_PRIQ_ABT, /requests are lost/],
    ["service failure mode", GERROR_SFM, /does not work any more/],
    ["an MSI that was aborted", 0x20, undefined],
  ])("are acknowledged and told: %s", (_, bit, text) => {
    const { system, hardware, driver, instance } = setUp();
    const told: unknown[] = [];
    system.events.listen((event) => event.kind === "smmuv3.warning" && told.push(event.text));
    for (let round = 0; round < 2; round++) {
      hardware.registers.set(GERROR, hardware.read32(GERROR) ^ bit);
      driver.handleInterrupt(instance, "gerror");
      expect(hardware.read32(GERRORN)).toBe(hardware.read32(GERROR));
    }
    expect(told).toEqual(text === undefined ? [] : [expect.stringMatching(text), expect.stringMatching(text)]);
  });
});

describe("events", () => {
  function withEvent(words: readonly number[], overflow = false) {
    const world = setUp();
    const { hardware, memory, driver, instance, system } = world;
    const base = hardware.read32(EVENTQ_BASE);
    for (const [word, value] of words.entries()) memory.writeWord(Math.floor(base / 32) * 32 + word * 4, value);
    hardware.registers.set(EVENTQ_PROD, (overflow ? 2 ** 31 : 0) + 1);
    const told: string[] = [];
    driver.onEvent = (_, explain) => told.push(explain());
    const from = hardware.commands.length;
    driver.handleInterrupt(instance, "event");
    system.tasks.drain();
    return { ...world, told, commands: hardware.commands.slice(from) };
  }

  it("are told in words", () => {
    const { told, hardware, commands } = withEvent([0x10, 8, 0, 0x200, 0x1000, 0x1, 0, 0]);
    expect(told).toEqual(["smmu: F_TRANSLATION of a: write at 0x100001000: nothing is mapped there (stage 1)"]);
    expect(hardware.read32(EVENTQ_CONS)).toBe(1);
    expect(commands).toEqual([]);
  });

  it("of a stalled transaction are answered, once, with abort", () => {
    const { commands, told } = withEvent([0x13, 8, 0x8000_0007, 0x208, 0x1000, 0, 0, 0]);
    expect(commands).toEqual([[0x44 | (2 << 12), 8, 7, 0]]);
    expect(told[0]).toContain("read at 0x1000: the mapping does not allow it (stage 1, stalled)");
  });

  it("that were lost are acknowledged", () => {
    const { hardware } = withEvent([0x10, 8, 0, 0x200, 0x1000, 0x1, 0, 0], true);
    expect(hardware.read32(EVENTQ_CONS)).toBe(0x8000_0001);
  });
});

describe("what a failure leaves", () => {
  it.each(["probe", "attach", "replace"] as const)("%s: nothing, whichever step fails", (operation) => {
    const world = setUp();
    const { system, memory, core, driver, errno, run, device, domain, entry, instance, a } = world;
    const [first, second] = [domain(), domain(1)];
    const b = device("b", 9, 10);
    if (operation !== "probe") run(core.probe(b));
    if (operation === "replace") run(b.group!.attach(second, {}));
    const state = (): unknown => ({
      frames: memory.usedFrames,
      entries: [8, 9, 10].map((streamId) => [...entry(streamId)]),
      references: core.driverReferences(driver).holders(),
      masters: [...instance.masters.keys()],
      groups: [...core.groups.values()].map(({ id, devices, domain }) => [id, devices.map(({ name }) => name), domain]),
      tags: [instance.contexts.size, instance.vmids.size],
      translations: [a, b].map((each) => each.iommu && masterOf(each).translation.label),
      sysfs: [...groupNodes(core, ({ name }) => `/sys/devices/${name}`).keys()],
    });
    for (let nth = 1; ; nth++) {
      const before = state();
      let points = 0;
      system.failures.inject(() => ++points === nth);
      const failed = errno(operation === "probe" ? core.probe(b) : b.group![operation](first, {}));
      system.failures.inject(undefined);
      if (points < nth) {
        expect(failed).toBeUndefined();
        expect(nth).toBeGreaterThan(3);
        break;
      }
      expect(failed).toBeDefined();
      expect(state(), `after failure ${nth}`).toEqual(before);
    }
  });

  it("bringing up: nothing, whichever step fails", () => {
    const { system, memory, driver, hardware, errno } = bare();
    for (let nth = 1; ; nth++) {
      let points = 0;
      system.failures.inject(() => ++points === nth);
      const failed = errno(driver.probe(hardware, { name: "smmu" }));
      system.failures.inject(undefined);
      if (failed === undefined) break;
      expect(memory.usedFrames).toBe(0);
    }
  });
});
