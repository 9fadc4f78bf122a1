/**
 * The driver on the model of the device. They meet only in memory, registers and the interrupt; after every operation
 * what the device translates must be what the objects say, for every endpoint and every page looked at.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type FeatureChoices, VirtioIommu, virtioIommuConfig } from "../../hardware/virtio-iommu/index.ts";
import {
  Device,
  type Group,
  IommuCore,
  newGather,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
} from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import { EADDRINUSE, Refusal, System, type Task } from "../../runtime/index.ts";
import { VirtioIommuDriver, type VirtioIommuInstance } from "./index.ts";

const PAGE = 4096;
const PAGES = 11;
const FIRST = 0x4000_0000;
/** Where nothing is ever mapped by us. */
const RESERVED = { kind: "reserved", start: 0x4000_a000n, last: 0x4000_afffn } as const;

/** What the objects say of a domain: by page, and which pages were mapped together. */
interface Mapped {
  readonly first: number;
  readonly count: number;
  readonly physical: number;
  readonly prot: number;
}

const operation = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: fc.constant("attach" as const), group: fc.nat(2), domain: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("detach" as const), group: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("own" as const), group: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("renew" as const), domain: fc.nat(2) }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("map" as const),
      domain: fc.nat(2),
      first: fc.nat(7),
      count: fc.integer({ min: 1, max: 3 }),
      frame: fc.nat(64),
      prot: fc.constantFrom(PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("unmap" as const),
      domain: fc.nat(2),
      first: fc.nat(7),
      count: fc.integer({ min: 1, max: 4 }),
    }),
  },
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

interface Delayed {
  readonly step: Operation;
  readonly delay: number;
}

class World {
  private readonly system = new System();
  private readonly memory = new PhysicalMemory(this.system, { ram: [{ base: 0, size: 2 ** 24 }] });
  private readonly hardware: VirtioIommu;
  private readonly driver = new VirtioIommuDriver(this.system, this.memory);
  private readonly core: IommuCore;
  private instance: VirtioIommuInstance | undefined;
  private readonly devices: readonly Device[];
  private readonly groups: readonly Group[];
  private readonly domains: (PagingDomain | undefined)[] = [undefined, undefined, undefined];
  private readonly mapped = new Map<PagingDomain, Set<Mapped>>();

  constructor(choices: FeatureChoices, defaultDomain: "identity" | "dma", queueSize = 16) {
    this.hardware = new VirtioIommu(this.system, this.memory, {
      config: virtioIommuConfig(choices),
      endpoints: [8, 16, 17, 24, 32],
      reserved: [RESERVED],
      queueSize,
      interrupt: () => this.instance && this.driver.handleInterrupt(this.instance),
    });
    this.system.events.listen((event) => {
      if (event.kind === "virtio-iommu.warning" || event.kind === "virtio-iommu.device.break") {
        throw new Error(JSON.stringify(event));
      }
    });
    this.core = new IommuCore(this.system, { defaultDomain });
    this.instance = this.run(this.driver.probe(this.hardware, { name: "viommu" }));
    this.run(this.core.register(this.instance));
    // Two devices share a group; one has two endpoints.
    const device = (name: string, ...streamIds: number[]): Device =>
      new Device({ name, firmware: { instance: "viommu", streamIds } });
    this.devices = [device("a", 8), device("b", 16, 17), device("c", 24), device("d", 32)];
    const deviceGroup = this.driver.deviceGroup.bind(this.driver);
    this.driver.deviceGroup = (device, core) => (device.name === "b" ? core.groups.get(0)! : deviceGroup(device, core));
    for (const each of this.devices) this.run(this.core.probe(each));
    this.groups = [...this.core.groups.values()];
  }

  run<T>(code: Task<T>): T {
    return this.system.run("test", code);
  }

  /** All at once, each after as many steps of the others as it says, their steps mixed. */
  performTogether(steps: readonly Delayed[]): void {
    const { tasks } = this.system;
    const errors: unknown[] = [];
    tasks.exploring = true;
    for (const [index, { step, delay }] of steps.entries()) {
      const perform = this.perform(step);
      const code = function* (): Task<void> {
        try {
          for (let i = 0; i < delay; i++) yield* tasks.point();
          yield* perform;
        } catch (error) {
          errors.push(error);
        }
      };
      tasks.spawn(`step ${index}`, code());
    }
    tasks.drain();
    tasks.exploring = false;
    if (errors.length > 0) throw errors[0];
  }

  *perform(step: Operation): Task<void> {
    switch (step.do) {
      case "attach": {
        const group = this.groups[step.group];
        const domain = yield* this.domain(step.domain);
        yield* group.handle === undefined ? group.attach(domain, domain) : group.replace(domain, domain);
        return;
      }
      case "detach":
        yield* this.detach(this.groups[step.group]);
        return;
      case "own": {
        const group = this.groups[step.group];
        if (group.handle !== undefined) return;
        const [first] = group.devices;
        yield* group.owner === undefined ? group.claim(first, this) : group.disclaim(first);
        return;
      }
      case "renew": {
        const old = this.domains[step.domain];
        if (this.groups.some(({ domain }) => domain !== undefined && domain === old)) return;
        this.domains[step.domain] = undefined;
        old?.free();
        return;
      }
      case "map":
        yield* this.map(step);
        return;
      case "unmap":
        yield* this.unmap(step);
        return;
    }
  }

  /** Looks at every page through every endpoint. */
  check(): void {
    for (const device of this.devices) {
      for (const endpoint of device.firmware!.streamIds) {
        for (let page = 0; page < PAGES; page++) {
          for (const write of [false, true]) this.checkOne(device, endpoint, page, write);
        }
      }
    }
  }

  /** Takes everything down; nothing may be left. */
  finish(): void {
    for (const group of this.groups) this.run(this.detach(group));
    for (const domain of this.domains) domain?.free();
    for (const device of [...this.devices].reverse()) this.run(this.core.release(device));
    expect(this.hardware.occupancy).toEqual({ domains: 0, mappings: 0 });
    expect(this.instance!.domainIds.size).toBe(0);
    this.run(this.core.unregister(this.instance!));
    this.run(this.driver.remove(this.instance!));
    expect(this.memory.usedFrames).toBe(0);
  }

  private *detach(group: Group): Task<void> {
    if (group.handle !== undefined) yield* group.detach();
  }

  private *domain(index: number): Task<PagingDomain> {
    const there = this.domains[index];
    if (there !== undefined) return there;
    const made = yield* this.driver.allocatePaging(this.devices[0], 0, undefined);
    this.mapped.set(made, new Set());
    return (this.domains[index] = made);
  }

  private *map({ domain: index, first, count, frame, prot }: Extract<Operation, { do: "map" }>): Task<void> {
    const domain = yield* this.domain(index);
    const all = this.mapped.get(domain)!;
    const occupied = [...all].some((each) => each.first < first + count && first < each.first + each.count);
    const entry = { first, count, physical: frame * PAGE, prot };
    // Noted before, so that a step mixed with this one knows of it.
    if (!occupied) all.add(entry);
    try {
      yield* domain.map(BigInt(FIRST + first * PAGE), frame * PAGE, count * PAGE, prot);
      expect(occupied).toBe(false);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      expect([error.errno, occupied]).toEqual([EADDRINUSE, true]);
    }
  }

  private *unmap({ domain: index, first, count }: Extract<Operation, { do: "unmap" }>): Task<void> {
    const domain = yield* this.domain(index);
    const all = this.mapped.get(domain)!;
    let removed = 0;
    for (const each of [...all].sort((a, b) => a.first - b.first)) {
      if (each.first + each.count <= first || each.first >= first + count) continue;
      if (each.first < first) break;
      all.delete(each);
      removed += each.count;
    }
    const gather = newGather();
    const bytes = yield* domain.unmap(BigInt(FIRST + first * PAGE), count * PAGE, gather);
    expect(bytes).toBe(removed < count ? 0 : removed * PAGE);
    yield* domain.sync(gather);
  }

  private checkOne(device: Device, endpoint: number, page: number, write: boolean): void {
    const address = FIRST + page * PAGE + 0x10;
    const got = this.hardware.translate(endpoint, BigInt(address), write)?.physical;
    this.system.tasks.drain();
    const expected = this.expected(device.group!, page, write, address);
    if (got !== expected) {
      const text = `${write ? "write" : "read"} of ${device.name} at page ${page} through ${device.group!.domain!.label}`;
      expect(got, text).toBe(expected);
    }
  }

  private expected({ domain }: Group, page: number, write: boolean, address: number): number | undefined {
    if (domain!.type === "identity") {
      const isHeld = this.instance!.bypass === undefined && page === 10;
      return isHeld ? undefined : address;
    }
    for (const { first, count, physical, prot } of this.mapped.get(domain as PagingDomain) ?? []) {
      if (page < first || page >= first + count || (prot & (write ? PROT_WRITE : PROT_READ)) === 0) continue;
      return physical + (page - first) * PAGE + 0x10;
    }
    return undefined;
  }
}

const delayed = fc.record({ step: operation, delay: fc.nat(12) });
const steps = fc.array(operation, { minLength: 30, maxLength: 80, size: "max" });

describe("what the device translates is what the objects say", () => {
  it.each([
    ["bypass domains", { bypass: false }, "identity", 16],
    ["identity by 1:1 mappings", {}, "identity", 16],
    [
      "devices on a dma default domain, ranges announced",
      { inputRange: { start: 0n, last: 2n ** 40n - 1n } },
      "dma",
      16,
    ],
    ["rings of two entries", { bypass: true, indirectDescriptors: false }, "dma", 2],
  ] as const)("%s", (_, choices, defaultDomain, queueSize) => {
    fc.assert(
      fc.property(steps, (steps) => {
        const world = new World(choices, defaultDomain, queueSize);
        for (const step of steps) {
          world.run(world.perform(step));
          world.check();
        }
        world.finish();
      }),
      { numRuns: 30 },
    );
  });

  it("also when attaching, mapping and unmapping of different domains' pages go on at once", () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(delayed, { minLength: 2, maxLength: 5 }), { maxLength: 25, size: "max" }),
        (rounds) => {
          const world = new World({ bypass: false }, "dma");
          for (const domain of [0, 1, 2]) world.run(world.perform({ do: "attach", group: domain % 3, domain }));
          for (const round of rounds) {
            world.performTogether(apart(round));
            world.check();
          }
          world.finish();
        },
      ),
      { numRuns: 40 },
    );
  });
});

/** Of steps that would disturb each other only the first: one for a group, and one for a page of a domain. */
function apart(steps: readonly Delayed[]): Delayed[] {
  const taken = new Set<string>();
  return steps.filter(({ step }) => {
    if (step.do === "renew") return false;
    const touched =
      "domain" in step && step.do !== "attach" ? `pages of ${step.domain}` : `group ${"group" in step && step.group}`;
    const isFirst = !taken.has(touched);
    taken.add(touched);
    return isFirst;
  });
}
