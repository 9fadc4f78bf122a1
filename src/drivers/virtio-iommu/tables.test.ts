/** Tables of the driver's own, walked by the model of a virtio IOMMU. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type FeatureChoices, VirtioIommu, virtioIommuConfig } from "../../hardware/virtio-iommu/index.ts";
import {
  ALLOC_PASID,
  attachPasid,
  Device,
  detachPasid,
  IommuCore,
  newGather,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
  replacePasid,
} from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import { EBUSY, EINVAL, EOPNOTSUPP, Refusal, System, type Task } from "../../runtime/index.ts";
import { VirtioIommuDriver, type VirtioIommuInstance } from "./index.ts";

const IOVA = 0x4000_0000;
const RW = PROT_READ | PROT_WRITE;

function setUp(choices: FeatureChoices = { attachTable: true, bypass: true }) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 26 }] });
  const driver = new VirtioIommuDriver(system, memory);
  const hardware: VirtioIommu = new VirtioIommu(system, memory, {
    config: virtioIommuConfig(choices),
    endpoints: [8, 16, 17, 24],
    interrupt: () => instance && driver.handleInterrupt(instance),
  });
  const warnings: unknown[] = [];
  system.events.listen((event) => event.kind === "virtio-iommu.warning" && warnings.push(event.text));
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
  const instance: VirtioIommuInstance = run(driver.probe(hardware, { name: "viommu" }));
  run(core.register(instance));
  const device = (pasidBits: number, ...streamIds: number[]): Device => {
    const made = new Device({ name: `d${streamIds[0]}`, firmware: { instance: "viommu", streamIds, pasidBits } });
    run(core.probe(made));
    return made;
  };
  let pages = 0;
  const own = new Map<number, PagingDomain>();
  /** A domain with a page of its own at {@link IOVA}. */
  const domain = (of: Device, flags = ALLOC_PASID): PagingDomain => {
    const made = run(driver.allocatePaging(of, flags, undefined));
    const physical = 0x100_0000 + pages++ * 0x1000;
    run(made.map(BigInt(IOVA), physical, 4096, RW));
    own.set(physical, made);
    return made;
  };
  /** What an endpoint gets for IOVA: a domain whose page it is, or the address, or undefined. */
  const through = (endpoint: number, pasid?: number): PagingDomain | number | undefined => {
    const physical = hardware.translate(endpoint, BigInt(IOVA), true, pasid)?.physical;
    system.tasks.drain();
    return physical === undefined ? undefined : (own.get(physical) ?? physical);
  };
  const unmap = (of: PagingDomain): void => {
    const gather = newGather();
    expect(run(of.unmap(BigInt(IOVA), 4096, gather))).toBe(4096);
    run(of.sync(gather));
  };
  return { system, memory, driver, hardware, core, run, errno, instance, device, domain, through, unmap, warnings };
}

describe("a virtio IOMMU that walks tables", () => {
  it("gives a device PASIDs, beside traffic of its own", () => {
    const { run, device, domain, through, instance, unmap, warnings } = setUp();
    const a = device(16, 8);
    expect([instance.maxPasids, a.iommu!.maxPasids]).toEqual([2 ** 20, 2 ** 16]);
    const [own, first, second] = [domain(a), domain(a), domain(a)];
    const group = a.group!;
    run(group.attach(own, {}));
    run(attachPasid(group, first, 1, {}));
    run(attachPasid(group, second, 5000, {}));
    expect([through(8), through(8, 1), through(8, 5000), through(8, 2)]).toEqual([own, first, second, undefined]);
    run(replacePasid(group, second, 1, {}));
    run(group.replace(first, {}));
    expect([through(8), through(8, 1), through(8, 5000)]).toEqual([first, second, second]);
    unmap(second);
    expect([through(8), through(8, 1), through(8, 5000)]).toEqual([first, undefined, undefined]);
    run(detachPasid(group, 5000));
    run(detachPasid(group, 1));
    run(group.detach());
    expect([through(8), through(8, 1)]).toEqual([IOVA, undefined]);
    expect(warnings).toEqual([]);
  });

  it.each([
    ["with", true],
    ["without", undefined],
  ])("lets traffic without PASID pass, or blocks it, beside PASIDs (%s bypass domains)", (_, bypass) => {
    const { run, device, domain, through } = setUp({ attachTable: true, bypass });
    const a = device(4, 8);
    const group = a.group!;
    const first = domain(a);
    run(attachPasid(group, first, 3, {}));
    expect([through(8), through(8, 3)]).toEqual([IOVA, first]);
    run(detachPasid(group, 3));
    run(group.claim(a, {}));
    expect([through(8), through(8, 3)]).toEqual([undefined, undefined]);
    run(attachPasid(group, first, 3, {}));
    expect([through(8), through(8, 3)]).toEqual([undefined, first]);
    const own = domain(a);
    run(group.attach(own, {}));
    expect([through(8), through(8, 3)]).toEqual([own, first]);
    run(group.detach());
    expect([through(8), through(8, 3)]).toEqual([undefined, first]);
  });

  it("keeps PASIDs and domains of mappings apart", () => {
    const { run, errno, device, domain, through } = setUp();
    const a = device(4, 8);
    const group = a.group!;
    const [tables, mappings] = [domain(a), domain(a, 0)];
    run(attachPasid(group, tables, 3, {}));
    expect(errno(group.attach(mappings, {}))).toBe(EBUSY);
    expect(errno(attachPasid(group, mappings, 4, {}))).toBe(EOPNOTSUPP);
    expect(errno(attachPasid(group, tables, 16, {}))).toBe(EINVAL);
    run(detachPasid(group, 3));
    run(group.attach(mappings, {}));
    expect([through(8), errno(attachPasid(group, tables, 3, {}))]).toEqual([mappings, EINVAL]);
    run(group.replace(tables, {}));
    expect(through(8)).toBe(tables);
    run(group.replace(mappings, {}));
    expect(through(8)).toBe(mappings);
  });

  it("has no tables for devices of several endpoints, and none at all unless it offers them", () => {
    const { errno, device, driver } = setUp();
    expect(errno(driver.allocatePaging(device(4, 16, 17), ALLOC_PASID, undefined))).toBe(EOPNOTSUPP);
    const plain = setUp({ bypass: true });
    expect(plain.instance.maxPasids).toBe(0);
    expect(plain.errno(plain.driver.allocatePaging(plain.device(4, 8), ALLOC_PASID, undefined))).toBe(EOPNOTSUPP);
  });

  it("leaves nothing behind, whatever fails", () => {
    for (let nth = 1; ; nth++) {
      const { run, errno, driver, core, memory, instance, system, hardware } = setUp();
      const frames = memory.usedFrames;
      let points = 0;
      system.failures.inject(() => ++points === nth);
      const life = function* (): Task<void> {
        const a = new Device({ name: "a", firmware: { instance: "viommu", streamIds: [8], pasidBits: 16 } });
        yield* core.probe(a);
        try {
          const domains: PagingDomain[] = [];
          try {
            for (let i = 0; i < 2; i++) domains.push(yield* driver.allocatePaging(a, ALLOC_PASID, undefined));
            yield* a.group!.attach(domains[0], {});
            yield* attachPasid(a.group!, domains[1], 7, {});
            yield* replacePasid(a.group!, domains[0], 7, {});
            yield* a.group!.replace(domains[1], {});
          } finally {
            yield* detachPasid(a.group!, 7);
            if (a.group!.handle !== undefined) yield* a.group!.detach();
            for (const each of domains) each.free();
          }
        } finally {
          yield* core.release(a);
        }
      };
      const failed = errno(life());
      system.failures.inject(undefined);
      const left = [memory.usedFrames, instance.domainIds.size, instance.contexts?.size ?? 0];
      expect(left, `failure ${nth}`).toEqual([frames, 0, 0]);
      expect(hardware.occupancy.domains).toBe(0);
      run(core.unregister(instance));
      run(driver.remove(instance));
      if (failed === undefined) break;
    }
  });
});

it("what the IOMMU walks is what the objects say, whatever is attached and unmapped", () => {
  const step = fc.record({
    do: fc.constantFrom("attach" as const, "detach" as const, "PASID" as const, "no PASID" as const, "toggle" as const),
    domain: fc.nat(3),
    pasid: fc.constantFrom(1, 2, 1500),
    device: fc.nat(1),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40, size: "max" }), (steps) => {
      const { run, device, domain, through, unmap, warnings } = setUp();
      const devices = [device(16, 8), device(11, 24)];
      const domains = Array.from({ length: 4 }, () => domain(devices[0]));
      const mapped = new Map<PagingDomain, number>(domains.map((each, i) => [each, 0x100_0000 + i * 0x1000]));
      const places = new Map(mapped);
      for (const { do: what, domain: index, pasid, device: which } of steps) {
        const group = devices[which].group!;
        const target = domains[index];
        if (what === "attach") run(group.handle === undefined ? group.attach(target, {}) : group.replace(target, {}));
        else if (what === "detach" && group.handle !== undefined) run(group.detach());
        else if (what === "PASID")
          run((group.pasidDomains.has(pasid) ? replacePasid : attachPasid)(group, target, pasid, {}));
        else if (what === "no PASID") run(detachPasid(group, pasid));
        else if (what === "toggle" && mapped.delete(target)) unmap(target);
        else if (what === "toggle") {
          run(target.map(BigInt(IOVA), places.get(target)!, 4096, RW));
          mapped.set(target, places.get(target)!);
        }
        for (const [i, endpoint] of [8, 24].entries()) {
          const { domain: own, pasidDomains } = devices[i].group!;
          const expected = own!.type === "identity" ? IOVA : mapped.has(own as PagingDomain) ? own : undefined;
          expect(through(endpoint)).toBe(expected);
          for (const each of [1, 2, 1500]) {
            const of = pasidDomains.get(each) as PagingDomain | undefined;
            expect(through(endpoint, each)).toBe(of !== undefined && mapped.has(of) ? of : undefined);
          }
        }
      }
      expect(warnings).toEqual([]);
    }),
    { numRuns: 40 },
  );
});
