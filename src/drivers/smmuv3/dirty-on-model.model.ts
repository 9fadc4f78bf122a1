/** Dirty tracking, by the driver and the model of the hardware together: what is told is what was written to since. */
import fc from "fast-check";
import { expect, it } from "vitest";
import { SmmuV3, smmuFeatures, TRANSLATED } from "../../hardware/smmuv3/index.ts";
import { ALLOC_DIRTY_TRACKING, Device, IommuCore, newGather, PROT_READ, PROT_WRITE } from "../../iommu/index.ts";
import { PhysicalMemory } from "../../memory/index.ts";
import { System, type Task } from "../../runtime/index.ts";
import { SmmuV3Driver } from "./driver.ts";

const PAGE = 4096;
const PAGES = 6;
const FIRST = 0x4000_0000;

function setUp() {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 28 }] });
  const driver = new SmmuV3Driver(system, memory);
  const hardware = new SmmuV3(system, memory, {
    ...smmuFeatures({ dirtyTracking: true }),
    interrupt: (line) => driver.handleInterrupt(instance, line),
  });
  const core = new IommuCore(system, { defaultDomain: "identity" });
  const run = <T>(code: Task<T>): T => system.run("test", code);
  const instance = run(driver.probe(hardware, { name: "smmu" }));
  run(core.register(instance));
  const device = new Device({ name: "a", firmware: { instance: "smmu", streamIds: [8] } });
  run(core.probe(device));
  const domain = run(driver.allocatePaging(device, ALLOC_DIRTY_TRACKING, undefined));
  run(device.group!.attach(domain, {}));
  run(domain.map(BigInt(FIRST), 0x80_0000, PAGES * PAGE, PROT_READ | PROT_WRITE));
  const access = (page: number, write: boolean): void =>
    expect(hardware.translate(8, -1, 0, FIRST + page * PAGE + 8, write)).toBe(TRANSLATED);
  const read = (first: number, count: number, clear: boolean): number[] => {
    const told: number[] = [];
    const report = (iova: bigint): void => void told.push((Number(iova) - FIRST) / PAGE);
    const gather = newGather();
    run(domain.readDirty!(BigInt(FIRST + first * PAGE), count * PAGE, { clear, gather, report }));
    run(domain.sync(gather));
    return told;
  };
  return { access, read };
}

const step = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constantFrom("read" as const, "write" as const), page: fc.nat(PAGES - 1) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constantFrom("look" as const, "clear" as const), page: fc.nat(PAGES - 1) }),
  },
);

it("every write since a page was read as dirty is told, and nothing else", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const { access, read } = setUp();
      // Everything that may be written counts as written at first.
      expect(read(0, PAGES, true).length).toBe(PAGES);
      const dirty = new Set<number>();
      for (const { do: what, page } of steps) {
        if (what === "read" || what === "write") {
          access(page, what === "write");
          if (what === "write") dirty.add(page);
        } else {
          const pages = [...dirty].filter((each) => each >= page).sort((a, b) => a - b);
          expect(read(page, PAGES - page, what === "clear")).toEqual(pages);
          if (what === "clear") for (const each of pages) dirty.delete(each);
        }
      }
    }),
    { numRuns: 60 },
  );
});
