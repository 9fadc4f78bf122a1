/** Endpoints attached to tables in memory: docs/virtio-tables.md. */
import { describe, expect, it } from "vitest";
import { lpae, PageTable, PROT_READ } from "../../pagetable/index.ts";
import { attach, attachTable, detach, invalidate, map, probe, Workbench } from "./workbench.test-support.ts";

const [OK, UNSUPP, INVAL, RANGE, NOENT] = [0, 2, 4, 5, 6];
const FEATURES = 0x96;
const IOVA = 0x4000_0000n;

/** A context table of two contexts, of which the second maps IOVA; and the page table, to change. */
function setUp() {
  const bench = new Workbench({ attachTable: true, domainRange: { first: 0, last: 9 } }).start(FEATURES);
  const { memory, system } = bench;
  // What the bench uses without asking.
  memory.allocate(256);
  const format = lpae({ stage: 1, granule: 4096, inputBits: 48, outputBits: 48 });
  const pages = new PageTable(system, memory, format);
  pages.map(Number(IOVA), 0x5000, 4096, PROT_READ);
  const contexts = memory.allocate() * 4096;
  /** Valid, AArch64, ASID 5, faults abort; or, without a root, invalid. */
  const setContext = (pasid: number, root: number): void => {
    const at = contexts + pasid * 64;
    const valid = root > 0 ? 0x8000_0000 : 0;
    bench.words(at, (valid | 0x4000_0000 | 16) >>> 0, (5 << 16) | (1 << 14) | (1 << 9) | 5, root, 0);
  };
  setContext(1, pages.root);
  const physical = (pasid?: number): number | undefined => bench.device.translate(8, IOVA, false, pasid)?.physical;
  return { bench, contexts, pages, setContext, physical };
}

describe("ATTACH_TABLE", () => {
  it("lets an endpoint translate by its contexts, and what has none go by S1DSS", () => {
    const { bench, contexts, setContext, pages, physical } = setUp();
    expect(bench.statusOf(attachTable(3, 8, contexts, { s1cdmax: 1, s1dss: 1 }))).toBe(OK);
    expect([physical(), physical(1), physical(2)]).toEqual([Number(IOVA), 0x5000, undefined]);
    expect(bench.statusOf(attachTable(3, 8, contexts, { s1cdmax: 1, s1dss: 0 }))).toBe(OK);
    expect([physical(), physical(1)]).toEqual([undefined, 0x5000]);
    setContext(0, pages.root);
    expect(bench.statusOf(attachTable(3, 8, contexts, { s1cdmax: 1 }))).toBe(OK);
    expect([physical(), physical(1)]).toEqual([0x5000, 0x5000]);
    expect(bench.device.occupancy.domains).toBe(1);
    expect(bench.statusOf(detach(3, 8))).toBe(OK);
    expect([physical(), physical(1)]).toEqual([undefined, undefined]);
  });

  it("is refused where it makes no sense, and nothing has changed", () => {
    const { bench, contexts, physical } = setUp();
    bench.statusOf(attach(1, 8));
    bench.statusOf(map(1, IOVA, IOVA + 0xfffn, 0x9000n));
    for (const [request, status] of [
      [attachTable(3, 8, contexts, { format: 1 }), INVAL],
      [attachTable(3, 8, contexts, { reserved: 1 }), INVAL],
      [attachTable(3, 8, contexts, { s1fmt: 1 }), INVAL],
      [attachTable(3, 8, contexts, { s1cdmax: 1, s1dss: 3 }), INVAL],
      [attachTable(3, 8, contexts, { s1cdmax: 21 }), INVAL],
      [attachTable(1, 8, contexts), INVAL],
      [attachTable(3, 9, contexts), NOENT],
      [attachTable(10, 8, contexts), RANGE],
    ] as const) {
      expect([bench.statusOf(request), physical()]).toEqual([status, 0x9000]);
    }
    expect(bench.statusOf(attachTable(3, 8, contexts, { s1cdmax: 1 }))).toBe(OK);
    expect(bench.statusOf(attach(3, 16))).toBe(INVAL);
    expect(bench.statusOf(map(3, 0n, 0xfffn, 0n))).toBe(INVAL);
    expect(bench.statusOf(attach(1, 8))).toBe(OK);
    expect([physical(), physical(1)]).toEqual([undefined, undefined]);
  });

  it("needs its feature", () => {
    const { contexts } = setUp();
    const bench = new Workbench({ attachTable: true }).start(0x14);
    expect(bench.statusOf(attachTable(3, 8, contexts))).toBe(UNSUPP);
    expect(bench.statusOf(invalidate(3))).toBe(UNSUPP);
  });
});

describe("INVALIDATE", () => {
  it("makes it forget what is gone, which it remembers until then", () => {
    const { bench, contexts, pages, setContext, physical } = setUp();
    bench.statusOf(attachTable(3, 8, contexts, { s1cdmax: 1 }));
    expect(physical(1)).toBe(0x5000);
    const gather = { start: 1n, last: 0n, leafSize: 0, freedTables: [] };
    pages.unmap(Number(IOVA), 4096, gather);
    expect(physical(1)).toBe(0x5000);
    const range = { granularity: 2, flags: 2, asid: 5, address: Number(IOVA), pages: 1, log2: 12 };
    expect(bench.statusOf(invalidate(3, { ...range, asid: 6 }))).toBe(OK);
    expect(physical(1)).toBe(0x5000);
    expect(bench.statusOf(invalidate(3, range))).toBe(OK);
    expect(physical(1)).toBeUndefined();

    pages.map(Number(IOVA), 0x7000, 4096, PROT_READ);
    expect(physical(1)).toBe(0x7000);
    setContext(1, 0);
    expect(physical(1)).toBe(0x7000);
    expect(bench.statusOf(invalidate(3, { granularity: 1, caches: 4, flags: 1, pasid: 0 }))).toBe(OK);
    expect(physical(1)).toBe(0x7000);
    expect(bench.statusOf(invalidate(3, { granularity: 1, caches: 4, flags: 1, pasid: 1 }))).toBe(OK);
    expect(physical(1)).toBeUndefined();
  });

  it("is refused where it makes no sense", () => {
    const { bench, contexts } = setUp();
    bench.statusOf(attachTable(3, 8, contexts));
    bench.statusOf(attach(1, 16));
    for (const [request, status] of [
      [invalidate(2), NOENT],
      [invalidate(1), INVAL],
      [invalidate(3, { granularity: 3 }), INVAL],
      [invalidate(3, { caches: 2 }), INVAL],
      [invalidate(3, { flags: 8 }), INVAL],
      [invalidate(3, { granularity: 1 }), INVAL],
      [invalidate(3, { granularity: 2, flags: 2, log2: 3 }), INVAL],
      [invalidate(3), OK],
    ] as const) {
      expect(bench.statusOf(request)).toBe(status);
    }
  });
});

it("PROBE tells which tables there are", () => {
  const { bench } = setUp();
  const { answer } = bench.send(probe(8), 512 + 4);
  // prettier-ignore
  expect(answer.slice(-516, -516 + 28)).toEqual([
    6, 0, 8, 0, 1, 0, 48, 48, 16, 0, 0, 0, 7, 0, 8, 0, 2, 0, 20, 1, 0, 0, 0, 0, 0, 0, 0, 0,
  ]);
});
