/**
 * The driver on the model of the hardware. They meet only in memory, registers and interrupts; after every operation
 * what the hardware translates must be what the objects say, for every device and every page looked at. Looking fills
 * the TLB, so an invalidation that is missing shows at the next look.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ABORTED, SmmuV3, smmuFeatures, TRANSLATED } from "../../hardware/smmuv3/index.ts";
import {
  ALLOC_NEST_PARENT,
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
import type { SmmuV3PagingDomain } from "./domain.ts";
import { SmmuV3Driver } from "./driver.ts";

const PAGE = 4096;
const LARGE = 2 ** 21;

/** Where mappings may begin: single pages, and places for large leaves. */
const places = [
  ...Array.from({ length: 6 }, (_, page) => ({ iova: 0x4000_0000 + page * PAGE, size: PAGE })),
  ...Array.from({ length: 2 }, (_, block) => ({ iova: 0x8000_0000 + block * LARGE, size: LARGE })),
];
/** Offsets looked at in each place. */
const offsets = (size: number): number[] => (size === PAGE ? [0x10] : [0, 0x1234, LARGE - 8]);

/** What an attached domain should do, by place. */
type Reference = Map<number, { physical: number; prot: number }>;

const operation = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: fc.constant("attach" as const), group: fc.nat(2), domain: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("detach" as const), group: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("own" as const), group: fc.nat(2) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("renew" as const), domain: fc.nat(2), stage2: fc.boolean() }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("map" as const),
      domain: fc.nat(2),
      place: fc.nat(places.length - 1),
      count: fc.integer({ min: 1, max: 4 }),
      frame: fc.nat(64),
      large: fc.boolean(),
      prot: fc.constantFrom(PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant("unmap" as const),
      domain: fc.nat(2),
      place: fc.nat(places.length - 1),
      count: fc.integer({ min: 1, max: 4 }),
    }),
  },
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

class World {
  private readonly system = new System();
  private readonly memory = new PhysicalMemory(this.system, { ram: [{ base: 0, size: 2 ** 28 }] });
  private readonly hardware: SmmuV3;
  private readonly driver = new SmmuV3Driver(this.system, this.memory);
  private readonly core: IommuCore;
  private readonly instance;
  private readonly devices: readonly Device[];
  private readonly groups: readonly Group[];
  private readonly framesAtStart: number;
  private readonly stalls: boolean;
  private readonly domains: (PagingDomain | undefined)[] = [undefined, undefined, undefined];
  private readonly references = new Map<PagingDomain, Reference>();

  constructor(choices: Parameters<typeof smmuFeatures>[0], defaultDomain: "identity" | "dma") {
    this.stalls = choices?.stalls === "stall";
    this.hardware = new SmmuV3(this.system, this.memory, {
      ...smmuFeatures(choices),
      interrupt: (line) => this.driver.handleInterrupt(this.instance, line),
    });
    this.system.events.listen((event) => {
      if (event.kind === "smmuv3.command-queue.error" || event.kind === "smmuv3.command-queue.timeout") {
        throw new Error(JSON.stringify(event));
      }
    });
    this.core = new IommuCore(this.system, { defaultDomain });
    this.instance = this.run(this.driver.probe(this.hardware, { name: "smmu" }));
    this.run(this.core.register(this.instance));
    // Two devices share a group; one has two streams; the last is on another bus.
    const device = (name: string, ...streamIds: number[]): Device =>
      new Device({ name, firmware: { instance: "smmu", streamIds } });
    this.devices = [device("a", 8), device("b", 16, 17), device("c", 0x108), device("d", 24)];
    const deviceGroup = this.driver.deviceGroup.bind(this.driver);
    this.driver.deviceGroup = (device, core) => (device.name === "b" ? core.groups.get(0)! : deviceGroup(device, core));
    for (const each of this.devices) this.run(this.core.probe(each));
    this.groups = [...this.core.groups.values()];
    this.framesAtStart = this.memory.usedFrames;
  }

  run<T>(code: Task<T>): T {
    return this.system.run("test", code);
  }

  perform(step: Operation): void {
    switch (step.do) {
      case "attach": {
        const group = this.groups[step.group];
        const domain = this.domain(step.domain);
        this.run(group.handle === undefined ? group.attach(domain, domain) : group.replace(domain, domain));
        return;
      }
      case "detach":
        this.detach(this.groups[step.group]);
        return;
      case "own": {
        const group = this.groups[step.group];
        if (group.handle !== undefined) return;
        const [first] = group.devices;
        this.run(group.owner === undefined ? group.claim(first, this) : group.disclaim(first));
        return;
      }
      case "renew": {
        const old = this.domains[step.domain];
        if (this.groups.some(({ domain }) => domain !== undefined && domain === old)) return;
        old?.free();
        this.domains[step.domain] = this.allocate(step.stage2);
        return;
      }
      case "map":
        this.map(step);
        return;
      case "unmap":
        this.unmap(step);
        return;
    }
  }

  /** Looks at every place through every stream. */
  check(): void {
    for (const device of this.devices) {
      for (const streamId of device.firmware!.streamIds) {
        for (const { iova, size } of places) {
          for (const offset of offsets(size)) {
            for (const write of this.stalls ? [false] : [false, true])
              this.checkOne(device, streamId, iova, offset, write);
          }
        }
      }
    }
  }

  /** Takes everything down; nothing may be left. */
  finish(): void {
    for (const group of this.groups) this.detach(group);
    for (const domain of this.domains) domain?.free();
    const extra = this.devices.filter((device) => (device.iommu!.data as { contextTable?: object }).contextTable);
    expect(this.memory.usedFrames - this.framesAtStart).toBeLessThanOrEqual(16 * extra.length);
    for (const device of [...this.devices].reverse()) this.run(this.core.release(device));
    this.run(this.core.unregister(this.instance));
    this.run(this.driver.remove(this.instance));
    expect(this.memory.usedFrames).toBe(0);
    expect(this.hardware.occupancy.stalled).toBe(0);
  }

  private detach(group: Group): void {
    if (group.handle !== undefined) this.run(group.detach());
  }

  private allocate(stage2: boolean): PagingDomain {
    const domain = this.run(this.driver.allocatePaging(this.devices[0], stage2 ? ALLOC_NEST_PARENT : 0, undefined));
    this.references.set(domain, new Map());
    return domain;
  }

  private domain(index: number): PagingDomain {
    return (this.domains[index] ??= this.allocate(index === 2));
  }

  private map({ domain: index, place, count, frame, large, prot }: Extract<Operation, { do: "map" }>): void {
    const domain = this.domain(index);
    const reference = this.references.get(domain)!;
    const wanted = places.slice(place, place + count).filter(({ size }) => size === places[place].size);
    const { iova, size } = wanted[0];
    const physical = large && size === LARGE ? frame * LARGE : frame * PAGE;
    const occupied = wanted.some((each) => reference.has(each.iova));
    try {
      this.run(domain.map(BigInt(iova), physical, size * wanted.length, prot));
      expect(occupied).toBe(false);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      expect([error.errno, occupied]).toEqual([EADDRINUSE, true]);
      return;
    }
    for (const [at, each] of wanted.entries()) reference.set(each.iova, { physical: physical + at * size, prot });
  }

  private unmap({ domain: index, place, count }: Extract<Operation, { do: "unmap" }>): void {
    const domain = this.domain(index);
    const reference = this.references.get(domain)!;
    const gather = newGather();
    for (const { iova, size } of places.slice(place, place + count)) {
      if (!reference.delete(iova)) continue;
      expect(this.run(domain.unmap(BigInt(iova), size, gather))).toBe(size);
    }
    this.run(domain.sync(gather));
  }

  private checkOne(device: Device, streamId: number, iova: number, offset: number, write: boolean): void {
    const address = iova + offset;
    const expected = this.expected(device.group!, iova, offset, write);
    const got = this.stalls ? this.readOrStall(streamId, address, expected) : this.translate(streamId, address, write);
    if (got !== expected) {
      const text = `${write ? "write" : "read"} of ${device.name} at 0x${address.toString(16)} through ${device.group!.domain!.label}`;
      expect(got, text).toBe(expected);
    }
  }

  /** The physical address, or undefined for an abort. */
  private translate(streamId: number, address: number, write: boolean): number | string | undefined {
    const outcome = this.hardware.translate(streamId, -1, 0, address, write);
    this.system.tasks.drain();
    return outcome === TRANSLATED ? this.hardware.physical : outcome === ABORTED ? undefined : "neither";
  }

  /** A whole access, since it must wait for the driver's answer; it says only whether it got through. */
  private readOrStall(streamId: number, address: number, expected: number | undefined): number | undefined {
    const done = this.run(this.hardware.access(streamId, undefined, BigInt(address), new Uint8Array(1), false));
    return done ? (expected ?? -1) : undefined;
  }

  private expected({ domain }: Group, iova: number, offset: number, write: boolean): number | undefined {
    if (domain!.type === "identity") return iova + offset;
    const mapping = this.references.get(domain as PagingDomain)?.get(iova);
    if (mapping === undefined) return undefined;
    // Stage 1 has no encoding for what can be written but not read.
    const prot = (domain as SmmuV3PagingDomain).stage === 1 ? mapping.prot | PROT_READ : mapping.prot;
    if ((prot & (write ? PROT_WRITE : PROT_READ)) === 0) return undefined;
    return mapping.physical + offset;
  }
}

describe("what the hardware translates is what the objects say", () => {
  it.each([
    ["a full-featured SMMU", {}, "identity"],
    ["without range invalidation, devices on a dma default domain", { rangeInvalidation: false }, "dma"],
    ["a linear stream table", { twoLevelStreamTable: false, streamIdBits: 10, rangeInvalidation: false }, "identity"],
    ["stage 2 only", { stage1: false, substreamIdBits: 0 }, "dma"],
    ["faults that always stall", { stalls: "stall" }, "dma"],
  ] as const)("%s", (_, choices, defaultDomain) => {
    const steps = fc.array(operation, { minLength: 30, maxLength: 60, size: "max" });
    fc.assert(
      fc.property(steps, (steps) => {
        const world = new World(choices, defaultDomain);
        world.perform({ do: "attach", group: 0, domain: 0 });
        for (const step of steps) {
          if ("stage1" in choices && (("stage2" in step && step.stage2) || ("domain" in step && step.domain === 2)))
            continue;
          world.perform(step);
          world.check();
        }
        world.finish();
      }),
      { numRuns: 20 },
    );
  });
});
