/**
 * Random programs of map, unmap and split on every granule, stage and many input sizes, beside a reference that knows
 * nothing of tables: a list of leaves, and the rule for choosing them as one says it in English.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PhysicalMemory } from "../memory/index.ts";
import { EADDRINUSE, EINVAL, ENOENT, ERANGE, Refusal, System } from "../runtime/index.ts";
import { type LpaeOptions, lpae } from "./formats/lpae.ts";
import { PROT_CACHE, PROT_MMIO, PROT_NOEXEC, PROT_PRIV, PROT_READ, PROT_WRITE } from "./prot.ts";
import { privileged, RIGHT_EXECUTE } from "./rights.ts";
import { type Leaf, PageTable, type UnmapResult } from "./table.ts";
import { TranslationStage, Walker } from "./walk.ts";

const configurations: readonly LpaeOptions[] = [
  ...[48, 47, 39, 31, 30, 25].map((inputBits) => ({ stage: 1, granule: 4096, inputBits, outputBits: 48 }) as const),
  ...[48, 44, 43, 40, 34, 33, 25].map((inputBits) => ({ stage: 2, granule: 4096, inputBits, outputBits: 44 }) as const),
  { stage: 2, granule: 4096, inputBits: 40, outputBits: 40, startLevel: 0 },
  ...[48, 47, 37, 36, 25].map((inputBits) => ({ stage: 1, granule: 16384, inputBits, outputBits: 48 }) as const),
  ...[48, 47, 40, 36, 29].map((inputBits) => ({ stage: 2, granule: 16384, inputBits, outputBits: 42 }) as const),
  ...[52, 48, 43, 42, 30].map((inputBits) => ({ stage: 1, granule: 65536, inputBits, outputBits: 52 }) as const),
  ...[48, 46, 42, 33, 30].map((inputBits) => ({ stage: 2, granule: 65536, inputBits, outputBits: 48 }) as const),
  { stage: 1, granule: 65536, inputBits: 42, outputBits: 36 },
];

const RAM = 2 ** 27;

/** What a table should hold, kept without a thought about speed. */
class Reference {
  leaves: Leaf[] = [];
  private readonly options: LpaeOptions;
  private readonly sizes: readonly number[];

  constructor(options: LpaeOptions, sizes: readonly number[]) {
    this.options = options;
    this.sizes = sizes;
  }

  /** "With the largest page that both addresses are aligned to and that is not larger than what is left." */
  map(iova: number, physical: number, size: number, prot: number): number {
    if ((prot & (PROT_READ | PROT_WRITE)) === 0) return EINVAL;
    if (iova + size > 2 ** this.options.inputBits || physical + size > 2 ** this.options.outputBits) return ERANGE;
    if (this.leaves.some((leaf) => leaf.iova < iova + size && iova < leaf.iova + leaf.size)) return EADDRINUSE;
    for (let done = 0; done < size; ) {
      const fits = (page: number): boolean =>
        (iova + done) % page === 0 && (physical + done) % page === 0 && size - done >= page;
      const page = Math.max(...this.sizes.filter(fits));
      this.leaves.push({ iova: iova + done, physical: physical + done, size: page, prot: this.meant(prot) });
      done += page;
    }
    this.leaves.sort((a, b) => a.iova - b.iova);
    return 0;
  }

  /** Stage 1 knows no write-only, stage 2 no privilege, and device memory is not cached. */
  private meant(prot: number): number {
    const type = (prot & PROT_MMIO) !== 0 ? prot & ~PROT_CACHE : prot;
    return this.options.stage === 1 ? type | PROT_READ : type & ~PROT_PRIV;
  }

  /** "A leaf goes whole; a hole ends it." Returns the leaves that went. */
  unmap(iova: number, size: number): { bytes: number; sizes: Set<number> } {
    const sizes = new Set<number>();
    let at = iova;
    while (at < iova + size) {
      const leaf = this.at(at);
      if (leaf === undefined) break;
      this.leaves.splice(this.leaves.indexOf(leaf), 1);
      sizes.add(leaf.size);
      at = leaf.iova + leaf.size;
    }
    return { bytes: at - iova, sizes };
  }

  split(iova: number, size: number): number {
    for (;;) {
      const leaf = this.at(iova);
      if (leaf === undefined) return ENOENT;
      if (leaf.size <= size) return 0;
      const smaller = Math.max(...this.sizes.filter((page) => page < leaf.size));
      const parts = Array.from({ length: leaf.size / smaller }, (_, part) => ({
        iova: leaf.iova + part * smaller,
        physical: leaf.physical + part * smaller,
        size: smaller,
        prot: leaf.prot,
      }));
      this.leaves.splice(this.leaves.indexOf(leaf), 1, ...parts);
    }
  }

  at(iova: number): Leaf | undefined {
    return this.leaves.find((leaf) => leaf.iova <= iova && iova < leaf.iova + leaf.size);
  }

  /** Tables that these leaves need: one for each stretch of addresses that some leaf is smaller than. */
  tables(format: ReturnType<typeof lpae>): number {
    const stretches = new Set<string>();
    for (const leaf of this.leaves) {
      for (let level = format.startLevel; format.span(level) > leaf.size; level++) {
        stretches.add(`${level} ${Math.floor(leaf.iova / format.span(level))}`);
      }
    }
    return stretches.size;
  }
}

/** Rights that a mapping gives, from what PROT_* say. */
function rightsOf(stage: 1 | 2, prot: number): number {
  const executable = (prot & PROT_NOEXEC) === 0 ? RIGHT_EXECUTE : 0;
  const data = prot & (PROT_READ | PROT_WRITE);
  if (stage === 2) return data | executable | privileged(data | executable);
  const user = (prot & PROT_PRIV) === 0;
  // Privileged code does not run from what users may write.
  const kernelExecutable = user && (prot & PROT_WRITE) !== 0 ? 0 : executable;
  return (user ? data : 0) | executable | privileged(data | kernelExecutable);
}

interface Place {
  /** Which page size is the unit, counted from the smallest. */
  readonly unit: number;
  readonly slot: number;
  /** Counted from the end of the input instead. */
  readonly top: boolean;
  /** Smallest pages added before and after. */
  readonly before: number;
  readonly after: number;
  readonly count: number;
}

type Command =
  | { readonly kind: "map"; readonly place: Place; readonly physical: Place; readonly prot: number }
  | { readonly kind: "unmap"; readonly place: Place }
  | { readonly kind: "split"; readonly place: Place; readonly to: number };

const place: fc.Arbitrary<Place> = fc.record({
  unit: fc.integer({ min: 0, max: 2 }),
  slot: fc.integer({ min: 0, max: 5 }),
  top: fc.boolean(),
  before: fc.constantFrom(0, 0, 0, 1, 3),
  after: fc.constantFrom(0, 0, 0, 1, 2),
  count: fc.integer({ min: 1, max: 2 }),
});

const prot = fc
  .tuple(fc.constantFrom(1, 2, 3, 3, 3, 0), fc.subarray([PROT_CACHE, PROT_NOEXEC, PROT_MMIO, PROT_PRIV]))
  .map(([access, others]) => others.reduce((sum, bit) => sum | bit, access));

const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ kind: fc.constant("map" as const), place, physical: place, prot }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("unmap" as const), place }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("split" as const), place, to: fc.integer({ min: 0, max: 2 }) }),
  },
);

function errnoOf(action: () => void): number {
  try {
    action();
    return 0;
  } catch (error) {
    if (error instanceof Refusal) return error.errno;
    throw error;
  }
}

/** One program, on the table and on the reference. */
class Run {
  private readonly memory: PhysicalMemory;
  private readonly format: ReturnType<typeof lpae>;
  private readonly table: PageTable;
  private readonly reference: Reference;
  private readonly walker: Walker;
  private readonly stage: TranslationStage;

  constructor(options: LpaeOptions, memory: PhysicalMemory) {
    this.memory = memory;
    this.format = lpae(options);
    this.table = new PageTable(new System(), this.memory, this.format);
    this.reference = new Reference(options, this.format.pageSizes);
    this.walker = new Walker(this.memory);
    this.stage = new TranslationStage({ format: lpae(options), root: this.table.root });
  }

  private range(place: Place, end: number): { start: number; size: number } {
    const { granule, pageSizes } = this.format;
    const unit = pageSizes[Math.min(place.unit, pageSizes.length - 1)];
    const first = place.top ? end - (place.slot + 1) * unit : place.slot * unit;
    const start = Math.max(0, first - place.before * granule);
    return { start, size: place.count * unit + (place.before + place.after) * granule };
  }

  /** As many leaves as this would make; large ones are left out, or a run takes for ever. */
  private isLarge(start: number, physical: number, size: number): boolean {
    const { pageSizes } = this.format;
    const aligned = pageSizes.filter((page) => (start - physical) % page === 0).at(-1)!;
    return size / aligned > 1100;
  }

  step(command: Command): void {
    const { start, size } = this.range(command.place, this.format.inputEnd);
    if (start >= this.format.inputEnd && command.kind !== "map") return;
    switch (command.kind) {
      case "map": {
        const physical = this.range(command.physical, this.format.outputEnd).start;
        if (this.isLarge(start, physical, size)) return;
        const expected = this.reference.map(start, physical, size, command.prot);
        expect(errnoOf(() => this.table.map(start, physical, size, command.prot))).toBe(expected);
        break;
      }
      case "unmap": {
        const fits = Math.min(size, this.format.inputEnd - start);
        const gather: UnmapResult = { start: 1n, last: 0n, leafSize: 0, freedTables: [] };
        const expected = this.reference.unmap(start, fits);
        expect(this.table.unmap(start, fits, gather)).toBe(expected.bytes);
        expect(gather.leafSize).toBe(expected.sizes.size === 1 ? [...expected.sizes][0] : 0);
        for (const pfn of gather.freedTables) this.memory.free(pfn);
        break;
      }
      case "split": {
        const { pageSizes } = this.format;
        const to = pageSizes[Math.min(command.to, pageSizes.length - 1)];
        const leaf = this.reference.at(start);
        if (leaf !== undefined && leaf.size / to > 9000) return;
        expect(errnoOf(() => this.table.split(start, to))).toBe(this.reference.split(start, to));
        break;
      }
    }
    for (const at of [start - 1, start, start + size / 2, start + size - 1, start + size]) this.probe(at);
    this.checkFrames();
  }

  /** Software and hardware say what the reference says. */
  private probe(iova: number): void {
    if (iova < 0 || iova >= this.format.inputEnd) return;
    const leaf = this.reference.at(iova);
    const physical = leaf === undefined ? undefined : leaf.physical + (iova - leaf.iova);
    const translation = leaf === undefined ? undefined : { physical, prot: leaf.prot, size: leaf.size };
    expect(this.table.translate(iova)).toEqual(translation);
    const granted = leaf === undefined ? 0 : rightsOf(this.format.stage, leaf.prot);
    for (let right = 1; right <= 32; right *= 2) {
      const allowed = this.walker.walk(this.stage, iova, right);
      expect(allowed).toBe((granted & right) !== 0);
      if (leaf === undefined) expect(this.walker.fault).toBe("translation");
      else if (!allowed) expect(this.walker.fault).toBe("permission");
      else expect([this.walker.output, this.walker.size]).toEqual([physical, leaf.size]);
      if (leaf !== undefined) expect(this.walker.rights).toBe(granted);
    }
  }

  private checkFrames(): void {
    const { format, reference, table, memory } = this;
    const perTable = format.granule / 4096;
    const root = Math.ceil((format.rootEntries * 8) / 4096);
    expect(table.tableFrames).toBe(root + perTable * reference.tables(format));
    expect(memory.usedFrames).toBe(table.tableFrames);
  }

  finish(): void {
    expect([...this.table.leaves()]).toEqual(this.reference.leaves);
    this.table.free();
    expect(this.memory.usedFrames).toBe(0);
  }
}

describe("random programs agree with the reference, in software and through the hardware's walk", () => {
  test.each(configurations.map((options) => [lpae(options).label, options] as const))("%s", (_, options) => {
    // RAM as high as the output allows: every bit of a table's address counts.
    const memory = new PhysicalMemory(new System(), { ram: [{ base: 2 ** options.outputBits - RAM, size: RAM }] });
    fc.assert(
      fc.property(fc.array(command, { maxLength: 14 }), (commands) => {
        const run = new Run(options, memory);
        for (const command of commands) run.step(command);
        run.finish();
      }),
      { numRuns: 20 },
    );
  });
});
