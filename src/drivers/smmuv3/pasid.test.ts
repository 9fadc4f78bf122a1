/** PASIDs of devices behind an SMMU, by the driver and the model of the hardware together. */
import { describe, expect, it } from "vitest";
import { ABORTED, SmmuV3, smmuFeatures, TRANSLATED } from "../../hardware/smmuv3/index.ts";
import {
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  attachPasid,
  Device,
  detachPasid,
  IommuCore,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
  replacePasid,
} from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import { readEntry } from "../../pasidtable/index.ts";
import { EBUSY, EINVAL, ENOMEM, EOPNOTSUPP, Refusal, System, type Task } from "../../runtime/index.ts";
import { SmmuV3Driver } from "./driver.ts";

const IOVA = 0x4000_0000;
const NO_PASID = -1;

function setUp(choices: Parameters<typeof smmuFeatures>[0] = {}, pasidBits = 20) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 28 }] });
  const driver = new SmmuV3Driver(system, memory);
  const hardware = new SmmuV3(system, memory, { ...smmuFeatures({ substreamIdBits: 16, ...choices }) });
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
  const core = new IommuCore(system, { defaultDomain: "identity" });
  const instance = run(driver.probe(hardware, { name: "smmu" }));
  run(core.register(instance));
  const device = new Device({ name: "a", firmware: { instance: "smmu", streamIds: [8, 9], pasidBits } });
  run(core.probe(device));
  const group = device.group!;
  const own = new Map<PagingDomain, number>();
  /** A domain that translates {@link IOVA} to a page of its own. */
  const domain = (flags = ALLOC_PASID): PagingDomain => {
    const made = run(driver.allocatePaging(device, flags, undefined));
    const physical = 0x100_0000 + own.size * 0x1000;
    run(made.map(BigInt(IOVA), physical, 4096, PROT_READ | PROT_WRITE));
    own.set(made, physical);
    return made;
  };
  /** What both streams get for IOVA: a domain whose page it is, or the address, or undefined for an abort. */
  const through = (pasid = NO_PASID): PagingDomain | number | undefined => {
    const outcomes = [8, 9].map((streamId) => {
      const outcome = hardware.translate(streamId, pasid, 0, IOVA, true);
      if (outcome === ABORTED) return undefined;
      expect(outcome).toBe(TRANSLATED);
      const { physical } = hardware;
      return [...own].find(([, page]) => page === physical)?.[0] ?? physical;
    });
    expect(outcomes[0]).toBe(outcomes[1]);
    return outcomes[0];
  };
  const entry = (): number[] => [...readEntry(memory, instance.streamTable.entryAddress(8))];
  return { system, memory, driver, hardware, run, errno, core, device, group, domain, through, entry };
}

describe.each([
  ["contexts in two levels", { twoLevelContextTable: true }],
  ["contexts in one level", { twoLevelContextTable: false }],
])("a PASID, %s", (_, choices) => {
  it("translates through its own domain until it is detached", () => {
    const { run, group, domain, through } = setUp(choices);
    const [own, first, second] = [domain(), domain(), domain()];
    run(group.attach(own, {}));
    run(attachPasid(group, first, 1, {}));
    run(attachPasid(group, second, 1000, {}));
    expect([through(), through(1), through(1000), through(2)]).toEqual([own, first, second, undefined]);
    run(replacePasid(group, second, 1, {}));
    expect([through(), through(1), through(1000)]).toEqual([own, second, second]);
    run(group.replace(first, {}));
    expect([through(), through(1), through(1000)]).toEqual([first, second, second]);
    run(detachPasid(group, 1000));
    expect([through(), through(1), through(1000)]).toEqual([first, second, undefined]);
    run(detachPasid(group, 1));
    run(group.detach());
    expect([through(), through(1)]).toEqual([IOVA, undefined]);
  });

  it("lives beside identity and blocked traffic, which have plain entries again when the last PASID is gone", () => {
    const { run, group, domain, through, entry, device } = setUp(choices);
    const first = domain();
    const plainBypass = entry();
    run(attachPasid(group, first, 3, {}));
    expect([through(), through(3)]).toEqual([IOVA, first]);
    run(attachPasid(group, first, 4, {}));
    run(detachPasid(group, 3));
    expect([through(), through(3), through(4)]).toEqual([IOVA, undefined, first]);
    run(detachPasid(group, 4));
    expect(entry()).toEqual(plainBypass);
    run(group.claim(device, "somebody" as unknown as object));
    const plainAbort = entry();
    run(attachPasid(group, first, 3, {}));
    expect([through(), through(3)]).toEqual([undefined, first]);
    run(detachPasid(group, 3));
    expect(entry()).toEqual(plainAbort);
    expect(through()).toBeUndefined();
  });

  it("is refused what has no stage 1 of this SMMU, and itself refuses a stage 2 beside it", () => {
    const { run, errno, group, domain, driver, core, system, memory, through } = setUp(choices);
    const [stage1, stage2] = [domain(), domain(ALLOC_NEST_PARENT)];
    expect(errno(attachPasid(group, stage2, 1, {}))).toBe(EINVAL);
    expect(errno(attachPasid(group, driver.identityDomain, 1, {}))).toBe(EOPNOTSUPP);
    const hardware = new SmmuV3(system, memory, smmuFeatures());
    run(core.register(run(driver.probe(hardware, { name: "other" }))));
    const foreign = new Device({ name: "b", firmware: { instance: "other", streamIds: [8] } });
    run(core.probe(foreign));
    expect(errno(attachPasid(group, run(driver.allocatePaging(foreign, 0, undefined)), 1, {}))).toBe(EINVAL);

    run(attachPasid(group, stage1, 1, {}));
    expect(errno(group.attach(stage2, {}))).toBe(EBUSY);
    expect([through(), through(1)]).toEqual([IOVA, stage1]);
    run(detachPasid(group, 1));
    run(group.attach(stage2, {}));
    expect(errno(attachPasid(group, stage1, 1, {}))).toBe(EINVAL);
    expect([through(), through(1)]).toEqual([stage2, undefined]);
  });

  it("changes nothing when its memory cannot be had", () => {
    const { errno, group, domain, through, system, memory } = setUp(choices);
    const [first, second] = [domain(), domain()];
    for (const [operation, before] of [
      [(): Task<void> => attachPasid(group, first, 1, {}), undefined],
      [(): Task<void> => replacePasid(group, second, 1, {}), first],
    ] as const) {
      for (let nth = 1; ; nth++) {
        let points = 0;
        const frames = memory.usedFrames;
        system.failures.inject(() => ++points === nth);
        const failed = errno(operation());
        system.failures.inject(undefined);
        if (failed === undefined) break;
        expect([failed, through(), through(1)]).toEqual([ENOMEM, IOVA, before]);
        // The way to the CD stays once it is made.
        expect(memory.usedFrames - frames).toBeLessThanOrEqual(before === undefined ? 64 : 0);
      }
    }
    expect(through(1)).toBe(second);
  });
});

describe("context tables", () => {
  it("have two levels for more than 1024 PASIDs, with leaves where there are PASIDs", () => {
    const { run, group, domain, through, memory, entry } = setUp();
    const first = domain();
    const frames = memory.usedFrames;
    run(attachPasid(group, first, 60_000, {}));
    // S1Fmt 2, S1CDMax 16; one frame for the first level, one leaf of 64 KiB.
    expect([(entry()[0] >>> 4) & 3, entry()[1] >>> 27]).toEqual([2, 16]);
    expect(memory.usedFrames - frames).toBe(1 + 16);
    run(attachPasid(group, first, 60_001, {}));
    expect(memory.usedFrames - frames).toBe(1 + 16);
    expect([through(60_000), through(60_001), through(1)]).toEqual([first, first, undefined]);
  });

  it("end at 1024 PASIDs where the SMMU knows one level only, and at what the device can send", () => {
    const linear = setUp({ twoLevelContextTable: false });
    expect(linear.errno(attachPasid(linear.group, linear.domain(), 1023, {}))).toBeUndefined();
    expect(linear.errno(attachPasid(linear.group, linear.domain(), 1024, {}))).toBe(EINVAL);
    const small = setUp({}, 4);
    expect(small.errno(attachPasid(small.group, small.domain(), 15, {}))).toBeUndefined();
    expect(small.errno(attachPasid(small.group, small.domain(), 16, {}))).toBe(EINVAL);
    expect(small.entry()[1] >>> 27).toBe(4);
  });

  it("go with their device", () => {
    const { run, core, device, group, domain, memory } = setUp();
    const before = memory.usedFrames;
    const first = domain();
    run(attachPasid(group, first, 1, {}));
    run(attachPasid(group, first, 5000, {}));
    run(replacePasid(group, domain(), 5000, {}));
    for (const pasid of [1, 5000]) run(detachPasid(group, pasid));
    run(core.release(device));
    // The page tables of the two domains: one root and three levels each.
    expect(memory.usedFrames - before).toBe(2 * 4);
  });
});
