import fc from "fast-check";
import { expect, test } from "vitest";
import { LibraryProcess, PAGE_READ, PAGE_SIZE, PAGE_WRITE, PhysicalMemory } from "../memory/index.ts";
import { type Leaf, PROT_WRITE } from "../pagetable/index.ts";
import { Refusal, System } from "../runtime/index.ts";
import { Cpu } from "./cpu.ts";
import type { Mm, MmInvalidation } from "./mm.ts";

const PAGES = 8;
const FIRST = 0x1fc;
const addressOf = (page: number): number => (FIRST + page) * PAGE_SIZE;

const page = fc.nat(PAGES - 1);
const count = fc.integer({ min: 1, max: 4 });
const who = fc.nat();
const step = fc.oneof(
  fc.record({ kind: fc.constantFrom("map" as const, "protect" as const), who, page, count, writable: fc.boolean() }),
  fc.record({ kind: fc.constantFrom("unmap" as const, "discard" as const), who, page, count }),
  fc.record({ kind: fc.constant("move" as const), who, page, count, to: page }),
  fc.record({ kind: fc.constant("write" as const), who, page, value: fc.nat(255) }),
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("device" as const), who, page, value: fc.nat(255) }) },
  fc.record({ kind: fc.constantFrom("fork" as const, "exit" as const), who }),
);

/** Pages of a process as they would be if nothing were shared: one byte each, and whether it may be written. */
type Pages = Map<number, { value: number; writable: boolean }>;

interface Living {
  readonly process: LibraryProcess;
  readonly mm: Mm;
  readonly pages: Pages;
  /** What hardware has walked and was not told to forget, by address. */
  readonly remembered: Map<number, Leaf>;
}

test("what devices find in the table of a process is what the process itself would, at any moment", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60, size: "max" }), (steps) => {
      const system = new System();
      const memory = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 21 }] });
      const cpu = new Cpu(system, memory);
      const living: Living[] = [];
      const add = (process: LibraryProcess, pages: Pages): void => {
        const mm = cpu.mmOf(process.memory);
        const remembered = new Map<number, Leaf>();
        const invalidate = ({ start, end }: MmInvalidation): void => {
          for (const address of remembered.keys()) if (address >= start && address < end) remembered.delete(address);
        };
        mm.use({ invalidate, release: () => remembered.clear() });
        living.push({ process, mm, pages, remembered });
      };
      const allowed = (action: () => void): boolean => {
        try {
          action();
          return true;
        } catch (error) {
          if (error instanceof Refusal) return false;
          throw error;
        }
      };
      const range = (pages: Pages, from: number, count: number) =>
        Array.from({ length: count }, (_, i) => pages.get(from + i));

      for (const step of steps) {
        if (living.length === 0) add(new LibraryProcess(system, memory), new Map());
        const index = step.who % living.length;
        const { process, mm, pages } = living[index];
        const space = process.memory;
        switch (step.kind) {
          case "map":
            if (range(pages, step.page, step.count).some((one) => one !== undefined)) break;
            space.map(step.count, { writable: step.writable, address: addressOf(step.page) });
            for (let i = 0; i < step.count; i++) pages.set(step.page + i, { value: 0, writable: step.writable });
            break;
          case "protect":
            if (!allowed(() => space.protect(addressOf(step.page), step.count, step))) break;
            for (const one of range(pages, step.page, step.count)) one!.writable = step.writable;
            break;
          case "unmap":
            space.unmap(addressOf(step.page), step.count);
            for (let i = 0; i < step.count; i++) pages.delete(step.page + i);
            break;
          case "discard":
            if (!allowed(() => space.discard(addressOf(step.page), step.count))) break;
            for (const one of range(pages, step.page, step.count)) one!.value = 0;
            break;
          case "move": {
            const moved = range(pages, step.page, step.count);
            if (!allowed(() => space.move(addressOf(step.page), step.count, addressOf(step.to)))) break;
            for (let i = 0; i < step.count; i++) pages.delete(step.page + i);
            for (const [i, one] of moved.entries()) pages.set(step.to + i, one!);
            break;
          }
          case "write": {
            const one = pages.get(step.page);
            const written = allowed(() => space.write(addressOf(step.page), new Uint8Array([step.value])));
            expect(written).toBe(one?.writable ?? false);
            if (written) one!.value = step.value;
            break;
          }
          case "device": {
            const one = pages.get(step.page);
            const rights = step.value % 2 === 0 ? PAGE_WRITE : PAGE_READ;
            const address = addressOf(step.page);
            const entered = allowed(() => system.run("fault", mm.handleFault(BigInt(address), rights)));
            expect(entered).toBe(one !== undefined && (one.writable || rights === PAGE_READ));
            if (!entered || rights === PAGE_READ) break;
            memory.write(mm.table.translate(address)!.physical, new Uint8Array([step.value]));
            one!.value = step.value;
            break;
          }
          case "fork":
            if (living.length === 3) break;
            add(process.fork(), new Map([...pages].map(([at, one]) => [at, { ...one }])));
            break;
          case "exit":
            process.exit();
            living.splice(index, 1);
            break;
        }
        for (const one of living) check(memory, one);
      }
      for (const { process } of living) process.exit();
      expect(memory.usedFrames).toBe(0);
    }),
    { numRuns: 300 },
  );
});

/** Every page of the process has its content; whatever hardware has walked, now or before, shows it and allows no more. */
function check(memory: PhysicalMemory, { process, mm, pages, remembered }: Living): void {
  const byte = new Uint8Array(1);
  for (const [page, { value }] of pages) {
    process.memory.read(addressOf(page), byte);
    expect(byte[0]).toBe(value);
  }
  for (const leaf of mm.table.leaves()) remembered.set(leaf.iova, leaf);
  for (const { iova, physical, prot } of remembered.values()) {
    const one = pages.get(iova / PAGE_SIZE - FIRST);
    memory.read(physical, byte);
    expect(byte[0]).toBe(one?.value);
    if ((prot & PROT_WRITE) !== 0) expect(one?.writable).toBe(true);
  }
}
