/**
 * Devices that translate ahead, on the model of the hardware. After every operation what each device reads, with and
 * without PASID, is what the objects say. Looking fills the caches of devices and SMMU, so an invalidation that is missing
 * shows at the next look. In the second test DMA runs while mappings change, in every order that the seed brings.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  ALLOC_NEST_PARENT,
  ALLOC_PASID,
  attachPasid,
  type Domain,
  detachPasid,
  groupOf,
  newGather,
  type PagingDomain,
  PROT_READ,
  PROT_WRITE,
} from "../../iommu/index.ts";
import type { Task } from "../../runtime/index.ts";
import { aheadWorld } from "./ahead.test-support.ts";

const PAGE = 4096;
const LARGE = 2 ** 21;
const IOVA = 0x4000_0000;
const PAGES = 5;
const PHYSICAL = 0x800_0000;
const PASID = 3;

const operation = fc.oneof(
  fc.record({ do: fc.constant("attach" as const), device: fc.nat(1), to: fc.nat(4) }),
  fc.record({ do: fc.constant("pasid" as const), device: fc.nat(1), to: fc.option(fc.nat(1)) }),
  fc.record({ do: fc.constant("map" as const), domain: fc.nat(2), page: fc.nat(PAGES - 1), frame: fc.nat(7) }),
  fc.record({ do: fc.constant("unmap" as const), domain: fc.nat(2), page: fc.nat(PAGES - 1), count: fc.nat(2) }),
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

/** Two devices, two domains of stage 1 and one of stage 2. Frames hold their own number. */
class World {
  readonly world = aheadWorld({}, "identity");
  readonly devices = [this.world.probed(), this.world.probed()];
  readonly domains: readonly PagingDomain[] = [ALLOC_PASID, ALLOC_PASID, ALLOC_NEST_PARENT].map((flags) =>
    this.world.domain(this.devices[0].device, flags),
  );
  readonly mapped = this.domains.map(() => new Map<number, number>());
  private readonly own: Domain[] = this.devices.map(() => this.world.driver.identityDomain);
  private readonly pasids: (number | undefined)[] = [undefined, undefined];

  constructor() {
    for (let frame = 0; frame < 8; frame++) this.world.memory.writeWord(PHYSICAL + frame * PAGE, 0x1000 + frame);
  }

  perform(step: Operation): void {
    const { world } = this;
    if (step.do === "attach") {
      const to = [...this.domains, world.driver.identityDomain, world.driver.blockedDomain][step.to];
      if (step.to === 2 && this.pasids[step.device] !== undefined) return;
      const group = groupOf(this.devices[step.device].device);
      world.run(group.handle === undefined ? group.attach(to, to) : group.replace(to, to));
      this.own[step.device] = to;
    } else if (step.do === "pasid") {
      const group = groupOf(this.devices[step.device].device);
      if (this.pasids[step.device] !== undefined) world.run(detachPasid(group, PASID));
      this.pasids[step.device] = undefined;
      if (step.to === null || this.own[step.device] === this.domains[2]) return;
      const to = this.domains[step.to];
      world.run(attachPasid(group, to, PASID, to));
      this.pasids[step.device] = step.to;
    } else if (step.do === "map") {
      const mapped = this.mapped[step.domain];
      if (mapped.has(step.page)) return;
      const physical = PHYSICAL + step.frame * PAGE;
      const iova = BigInt(IOVA + step.page * PAGE);
      world.run(this.domains[step.domain].map(iova, physical, PAGE, PROT_READ | PROT_WRITE));
      mapped.set(step.page, step.frame);
    } else {
      const gather = newGather();
      const domain = this.domains[step.domain];
      for (let page = step.page; page <= step.page + step.count; page++) {
        if (!this.mapped[step.domain].delete(page)) continue;
        world.run(domain.unmap(BigInt(IOVA + page * PAGE), PAGE, gather));
      }
      world.run(domain.sync(gather));
    }
  }

  check(): void {
    for (const [index, { member }] of this.devices.entries()) {
      const own = this.domains.indexOf(this.own[index] as PagingDomain);
      for (let page = 0; page < PAGES; page++) {
        const address = IOVA + page * PAGE;
        // Identity has no memory at these addresses.
        expect(this.read(index, address), `device ${index}, page ${page}`).toBe(this.frameOf(own, page));
        expect(this.read(index, address, PASID), `device ${index}, PASID, page ${page}`).toBe(
          this.frameOf(this.pasids[index] ?? -1, page),
        );
      }
      const passes = this.own[index] === this.world.driver.identityDomain;
      expect(this.read(index, PHYSICAL)).toBe(passes ? 0x1000 : undefined);
      const isTranslated = own >= 0 || this.pasids[index] !== undefined;
      expect(member.translationCache!.isEnabled).toBe(isTranslated);
    }
    expect(this.world.errors).toEqual([]);
  }

  private frameOf(domain: number, page: number): number | undefined {
    const frame = domain < 0 ? undefined : this.mapped[domain].get(page);
    return frame === undefined ? undefined : 0x1000 + frame;
  }

  private read(index: number, address: number, pasid?: number): number | undefined {
    const { done, bytes } = this.world.dma(this.devices[index].member, address, { pasid });
    return done ? new DataView(bytes.buffer).getUint32(0, true) : undefined;
  }
}

describe("what devices translate ahead is what the objects say", () => {
  it("after every operation", () => {
    const steps = fc.array(operation, { minLength: 20, maxLength: 40, size: "max" });
    fc.assert(
      fc.property(steps, (steps) => {
        const world = new World();
        for (const step of steps) {
          world.perform(step);
          world.check();
        }
      }),
      { numRuns: 25 },
    );
  });

  it("while it changes: no write arrives at memory that an unmap has given back", () => {
    fc.assert(
      fc.property(fc.infiniteStream(fc.nat()), fc.boolean(), (choices, large) => {
        const world = aheadWorld();
        const { device, member } = world.probed();
        const domain = world.domain(device);
        const group = groupOf(device);
        world.run(group.attach(domain, domain));
        const size = large ? LARGE : 2 * PAGE;
        const { tasks } = world.system;
        let isFree = true;
        let isWrong = false;
        const access = world.memory.access.bind(world.memory);
        world.memory.access = (pa, bytes, write) => {
          if (pa >= PHYSICAL && pa < PHYSICAL + size && isFree) isWrong = true;
          return access(pa, bytes, write);
        };
        function* owner(): Task<void> {
          for (let round = 0; round < 4; round++) {
            isFree = false;
            yield* domain.map(BigInt(IOVA), PHYSICAL, size, PROT_READ | PROT_WRITE);
            for (let wait = 0; wait < 6; wait++) yield* tasks.point();
            const gather = newGather();
            yield* domain.unmap(BigInt(IOVA), size, gather);
            yield* domain.sync(gather);
            isFree = true;
            yield* tasks.point();
          }
        }
        function* user(): Task<void> {
          for (let round = 0; round < 12; round++) yield* member.dma.write(BigInt(IOVA + 0xffc), new Uint8Array(8));
        }
        tasks.exploring = true;
        tasks.choose = (ready) => choices.next().value! % ready.length;
        tasks.spawn("owner", owner());
        tasks.spawn("user", user());
        tasks.drain();
        expect([isWrong, world.errors]).toEqual([false, []]);
      }),
      { numRuns: 60 },
    );
  });
});
