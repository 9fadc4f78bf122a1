import fc from "fast-check";
import { expect, test } from "vitest";
import { contextTag, type InvalidationRange, type Selection, Tlb } from "./tlb.ts";

/** An entry as the words of IHI 0070 §3.17 have it. */
interface Entry {
  readonly regime: number;
  readonly vmid: number;
  readonly asid: number;
  readonly global: boolean;
  readonly stage2: boolean;
  readonly privateAsid: boolean;
  readonly page: number;
  readonly shift: number;
  readonly leafShift: number;
  readonly output: number;
}

const PAGE = 4096;
/** Entries of one set: so many are never in each other's way. */
const WAYS = 4;
const sizes = [12, 14, 16, 21] as const;
/** Few of everything, so that they meet; addresses in both halves of the input range, and around 4 GiB. */
const small = {
  regime: fc.constantFrom(0, 0, 0, 1),
  vmid: fc.constantFrom(0, 0, 1),
  asid: fc.constantFrom(0, 1, 1),
};
const page = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 0, max: 20 }) },
  { weight: 3, arbitrary: fc.integer({ min: 2 ** 20 - 4, max: 2 ** 20 + 4 }) },
  { weight: 1, arbitrary: fc.integer({ min: -20, max: -1 }) },
);

const operation = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("insert" as const),
      ...small,
      global: fc.boolean(),
      stage2: fc.boolean(),
      privateAsid: fc.boolean(),
      page,
      shift: fc.constantFrom(...sizes),
      leafShift: fc.constantFrom(...sizes),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("all" as const),
      regime: small.regime,
      vmid: fc.option(small.vmid),
      asid: fc.option(small.asid),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("range" as const),
      ...small,
      anyAsid: fc.boolean(),
      page,
      count: fc.constantFrom(1, 1, 1, 2, 3, 40, 100),
      granuleLog2: fc.constantFrom(12, 12, 14, 16),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("find" as const),
      ...small,
      stage2: fc.boolean(),
      privateAsid: fc.boolean(),
      page,
    }),
  },
);

function words(pageNumber: number): { high: number; low: number } {
  const address = pageNumber * PAGE;
  return { high: Math.floor(address / 2 ** 32) | 0, low: address | 0 };
}

/** What {@link Tlb.find} is asked with. */
function lookup(at: {
  regime: number;
  vmid: number;
  asid: number;
  stage2: boolean;
  privateAsid: boolean;
  page: number;
}): [number, number, number, number] {
  const { high, low } = words(at.page);
  return [high, low, at.asid | (at.vmid << 16), contextTag(at.regime, at.stage2, at.privateAsid)];
}

function covers(
  entry: Entry,
  at: { regime: number; vmid: number; asid: number; stage2: boolean; privateAsid: boolean; page: number },
): boolean {
  const pages = 2 ** (entry.shift - 12);
  return (
    entry.regime === at.regime &&
    entry.vmid === at.vmid &&
    entry.stage2 === at.stage2 &&
    (entry.global ? entry.privateAsid === at.privateAsid : entry.asid === at.asid) &&
    Math.floor(entry.page / pages) === Math.floor(at.page / pages)
  );
}

function selects(selection: Selection, entry: Entry, byAddress: boolean): boolean {
  if (entry.regime !== selection.regime) return false;
  if (selection.vmid !== undefined && selection.vmid !== entry.vmid) return false;
  if (selection.asid === undefined) return true;
  return entry.global ? byAddress : selection.asid === entry.asid;
}

function meets(range: { page: number; count: number; granuleLog2: number }, entry: Entry): boolean {
  const pages = 2 ** (entry.leafShift - 12);
  const first = Math.floor(entry.page / pages) * pages;
  const end = range.page + range.count * 2 ** (range.granuleLog2 - 12);
  return first < end && first + pages > range.page;
}

test("a hit is always an entry that was inserted and not invalidated; nothing is lost but by eviction from a full set", () => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 60, size: "max" }), (operations) => {
      const tlb = new Tlb();
      let reference: Entry[] = [];
      for (const op of operations) {
        if (op.kind === "insert") {
          const leafShift = Math.max(op.shift, op.leafShift);
          const output = 2 ** 40 + reference.length * 2 ** 30 + (((op.page % 512) + 512) % 512) * PAGE;
          // An entry over another one never happens: what is there is found, or dropped, first.
          const overlaps = (other: Entry): boolean => {
            const privateAsid = other.global && op.global ? other.privateAsid : op.privateAsid;
            const shift = Math.max(other.shift, op.shift);
            return covers({ ...other, shift, global: other.global || op.global, privateAsid }, op);
          };
          if (reference.some(overlaps)) continue;
          const { high, low } = words(op.page);
          const tag = contextTag(op.regime, op.stage2, op.privateAsid);
          tlb.insert(high, low, op.asid | (op.vmid << 16), tag, op.shift, leafShift, output, 3, op.global);
          reference.push({ ...op, leafShift, output });
          if (tlb.size < reference.length) {
            // A full set makes room, for one entry at a time: never in a TLB of few entries, never by the new one's loss.
            expect(reference.length).toBeGreaterThan(WAYS);
            const kept = reference.filter((entry) => tlb.find(...lookup(entry)) >= 0);
            expect(kept.length).toBe(reference.length - 1);
            expect(kept).toContain(reference.at(-1));
            reference = kept;
          }
        } else if (op.kind === "all") {
          const selection: Selection = {
            regime: op.regime,
            ...(op.vmid === null ? {} : { vmid: op.vmid }),
            ...(op.asid === null ? {} : { asid: op.asid }),
          };
          tlb.invalidate(selection);
          reference = reference.filter((entry) => !selects(selection, entry, false));
        } else if (op.kind === "range") {
          const { regime, vmid, asid } = op;
          const selection: Selection = op.anyAsid ? { regime, vmid } : { regime, vmid, asid };
          const range: InvalidationRange = { ...words(op.page), count: op.count, granuleLog2: op.granuleLog2 };
          tlb.invalidateRange(selection, range);
          reference = reference.filter((entry) => !(selects(selection, entry, true) && meets(op, entry)));
        } else {
          const { high, low } = words(op.page);
          const slot = tlb.find(...lookup(op));
          const wanted = reference.find((entry) => covers(entry, op));
          if (wanted === undefined) {
            expect(slot).toBe(-1);
          } else {
            expect(slot).toBeGreaterThanOrEqual(0);
            const delta = (op.page - wanted.page) * PAGE;
            expect(tlb.output(slot, tlb.offset(slot, high, low))).toBe(wanted.output + delta);
          }
        }
        expect(tlb.size).toBe(reference.length);
      }
    }),
    { numRuns: 400 },
  );
});

test("evictions make room and lose nothing but the evicted", () => {
  const tlb = new Tlb();
  const tag = contextTag(0, false);
  for (let i = 0; i < 20_000; i++) {
    const { high, low } = words(i * 7);
    tlb.insert(high, low, 1, tag, 12, 12, i * PAGE, 3, false);
  }
  let hits = 0;
  for (let i = 0; i < 20_000; i++) {
    const { high, low } = words(i * 7);
    const slot = tlb.find(high, low, 1, tag);
    if (slot < 0) continue;
    hits++;
    expect(tlb.output(slot, tlb.offset(slot, high, low))).toBe(i * PAGE);
  }
  expect(hits).toBe(tlb.size);
  expect(hits).toBeGreaterThan(2000);
});
