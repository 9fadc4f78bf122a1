/**
 * The kernel's DMA API on the hardware model, against a list: what is mapped is reached, at addresses of its own; what is
 * not is not reached, but for memory whose unmap is in the queue of a lazy domain. Looking fills the TLB.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import { TRANSLATED } from "../../hardware/smmuv3/index.ts";
import { mapDma, PROT_READ, PROT_WRITE, unmapDma, useDefaultDomain } from "../../iommu/index.ts";
import { Refusal, type SimulatedClock } from "../../runtime/index.ts";
import { modelWorld } from "./on-model.test-support.ts";

const PAGE = 4096;
const STREAM = 8;
const LARGE = 2 ** 21;
const RESERVED = { start: 0xfff0_0000n, last: 0xfffe_ffffn, type: "reserved" } as const;
/** Milliseconds. The queue never gets full here, so only time flushes it, or a mapping that needs it. */
const FLUSH_TIME = 10;

const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("map" as const),
      frame: fc.nat(255),
      size: fc.constantFrom(1, 100, PAGE, 3 * PAGE, 17 * PAGE, LARGE, LARGE + PAGE),
      offset: fc.constantFrom(0, 0, 8, PAGE - 1),
      fails: fc.boolean(),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("unmap" as const), which: fc.nat() }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("pass" as const), milliseconds: fc.integer({ min: 1, max: 12 }) }),
  },
  { weight: 1, arbitrary: fc.constant({ do: "become lazy" as const }) },
);

interface Mapping {
  readonly iova: number;
  readonly physical: number;
  readonly size: number;
  /** When it was unmapped, in a lazy domain. */
  since?: number;
}

const pageOf = (address: number): number => Math.floor(address / PAGE);
const overlap = (a: Mapping, b: Mapping): boolean =>
  pageOf(a.iova) <= pageOf(b.iova + b.size - 1) && pageOf(b.iova) <= pageOf(a.iova + a.size - 1);

test.each(["dma", "dma-fq"] as const)("a %s domain is what a list says", (type) => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 20, maxLength: 60, size: "max" }), (steps) => {
      const { core, run, probed, system, hardware, memory } = modelWorld();
      const device = probed("a", { streamIds: [STREAM], reserved: [RESERVED] });
      const group = device.group!;
      run(core.setDefaultDomainType(group, type));
      run(useDefaultDomain(device));
      let isLazy = type === "dma-fq";
      let now = 0;
      const mapped: Mapping[] = [];
      let remembered: Mapping[] = [];
      let seen: Mapping[] = [];
      let failsNext = false;
      system.failures.inject(() => failsNext);
      const reached = (address: number): number | undefined => {
        const outcome = hardware.translate(STREAM, -1, 0, address, false);
        system.tasks.drain();
        return outcome === TRANSLATED ? hardware.physical : undefined;
      };
      for (const each of steps) {
        if (each.do === "map") {
          const physical = each.frame * PAGE + each.offset;
          failsNext = each.fails;
          try {
            const iova = Number(run(mapDma(device, physical, each.size, PROT_READ | PROT_WRITE)));
            const made = { iova, physical, size: each.size };
            expect(each.fails).toBe(false);
            expect(iova % PAGE).toBe(physical % PAGE);
            expect(mapped.some((other) => overlap(other, made))).toBe(false);
            expect(BigInt(iova + each.size - 1) < RESERVED.start || BigInt(iova) > RESERVED.last).toBe(true);
            // An address is handed out again only after a flush, which is of all that was unmapped before.
            remembered = remembered.slice(remembered.findLastIndex((other) => overlap(other, made)) + 1);
            mapped.push(made);
            seen = [...seen.slice(-8), made];
          } catch (error) {
            if (!(error instanceof Refusal)) throw error;
            expect(each.fails).toBe(true);
          }
          failsNext = false;
        } else if (each.do === "unmap" && mapped.length > 0) {
          const [gone] = mapped.splice(each.which % mapped.length, 1);
          run(unmapDma(device, BigInt(gone.iova), gone.size));
          if (isLazy) remembered.push({ ...gone, since: now });
        } else if (each.do === "pass") {
          now += each.milliseconds;
          (system.clock as SimulatedClock).advance(each.milliseconds * 1e6);
          system.tasks.drain();
          remembered = remembered.filter(({ since }) => now - since! < FLUSH_TIME);
        } else if (each.do === "become lazy" && !isLazy) {
          run(core.setDefaultDomainType(group, "dma-fq"));
          isLazy = true;
        }
        for (const place of [...mapped, ...seen]) {
          for (const offset of new Set([0, place.size - 1])) {
            const address = place.iova + offset;
            const at = ({ iova, size }: Mapping): boolean =>
              pageOf(address) >= pageOf(iova) && pageOf(address) <= pageOf(iova + size - 1);
            const got = reached(address);
            const live = mapped.find(at);
            const shown = [live, ...remembered.filter(at)].filter((mapping) => mapping !== undefined);
            const allowed: (number | undefined)[] = shown.map(({ iova, physical }) => address - iova + physical);
            if (live === undefined) allowed.push(undefined);
            expect(live === undefined ? allowed : [allowed[0]]).toContain(got);
          }
        }
      }
      system.failures.inject(undefined);
      for (const { iova, size } of mapped) run(unmapDma(device, BigInt(iova), size));
      run(core.release(device));
      const frames = memory.usedFrames;
      run(core.probe(device));
      run(core.release(device));
      expect(memory.usedFrames).toBe(frames);
    }),
    { numRuns: 25 },
  );
});
