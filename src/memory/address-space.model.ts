import fc from "fast-check";
import { expect, test } from "vitest";
import { EFAULT, ENOMEM, Refusal, System } from "../runtime/index.ts";
import { type FrameRun, LibraryProcess, PAGE_SIZE, PhysicalMemory } from "./index.ts";

/** The pages that the random programs use. */
const PAGES = 12;
const FIRST = 0x1000;

/** A page as the literal model has it: nothing is ever shared; fork copies, a pin holds the object. */
interface Page {
  readonly bytes: Uint8Array;
  readonly writable: boolean;
}

type Model = Map<number, Page>;

interface Pin {
  readonly runs: FrameRun[];
  readonly pages: Page[];
}

const page = fc.nat(PAGES - 1);
const count = fc.integer({ min: 1, max: 6 });
const who = fc.nat();
const step = fc.oneof(
  fc.record({ kind: fc.constant("map" as const), who, page, count, writable: fc.boolean() }),
  fc.record({ kind: fc.constant("unmap" as const), who, page, count }),
  fc.record({
    kind: fc.constant("write" as const),
    who,
    page,
    offset: fc.nat(PAGE_SIZE - 1),
    length: fc.constantFrom(1, 8, 100, 5000, 9000),
    value: fc.nat(255),
  }),
  fc.record({ kind: fc.constant("pin" as const), who, page, count, writable: fc.boolean() }),
  fc.record({ kind: fc.constant("unpin" as const), which: fc.nat() }),
  fc.record({ kind: fc.constant("dma" as const), which: fc.nat(), page, value: fc.nat(255) }),
  fc.record({ kind: fc.constantFrom("fork" as const, "fork" as const, "exit" as const), who }),
);
/** Which of its allocations of frames fails: the nth, or none. */
const failing = fc.option(fc.integer({ min: 1, max: 4 }), { freq: 5, nil: 0 });

function errnoOf(action: () => void): number {
  try {
    action();
    return 0;
  } catch (error) {
    if (error instanceof Refusal) return error.errno;
    throw error;
  }
}

function range(model: Model, page: number, count: number): (Page | undefined)[] {
  return Array.from({ length: count }, (_, i) => model.get(page + i));
}

/** True if all pages are there, and writable if that matters. */
function usable(pages: (Page | undefined)[], write: boolean): pages is Page[] {
  return pages.every((page) => page !== undefined && (!write || page.writable));
}

test("address spaces map, fork, write, pin and exit as if no frame were ever shared, and lose none", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(step, failing), { maxLength: 60, size: "max" }), (steps) => {
      const system = new System();
      const physical = new PhysicalMemory(system, { ram: [{ base: 0, size: 2 ** 21 }] });
      let countdown = 0;
      system.failures.inject((name) => name === "memory.frames.allocate" && --countdown === 0);
      const living: { process: LibraryProcess; model: Model }[] = [];
      const pins: Pin[] = [];

      /** Runs an action; true if it succeeded, false if it was refused for the right reason. */
      const happens = (allowed: boolean, action: () => void): boolean => {
        const errno = errnoOf(action);
        if (errno === ENOMEM) expect(countdown).toBeLessThanOrEqual(0);
        else expect(errno === 0).toBe(allowed);
        return errno === 0;
      };

      for (const [step, nth] of steps) {
        countdown = nth;
        if ("which" in step) {
          if (pins.length === 0) continue;
          const index = step.which % pins.length;
          const pin = pins[index];
          if (step.kind === "unpin") {
            physical.unpin(pin.runs);
            pins.splice(index, 1);
          } else {
            const frames = pin.runs.flatMap(({ pfn, count }) => Array.from({ length: count }, (_, i) => pfn + i));
            const at = step.page % frames.length;
            const bytes = new Uint8Array(64).fill(step.value);
            physical.write(frames[at] * PAGE_SIZE + 100, bytes);
            pin.pages[at].bytes.set(bytes, 100);
          }
          continue;
        }
        if (living.length === 0) living.push({ process: new LibraryProcess(system, physical), model: new Map() });
        const index = step.who % living.length;
        const { process, model } = living[index];
        const { memory } = process;
        switch (step.kind) {
          case "map": {
            const free = range(model, step.page, step.count).every((page) => page === undefined);
            const { writable } = step;
            const mapped = happens(free, () => {
              memory.map(step.count, { writable, address: (FIRST + step.page) * PAGE_SIZE });
            });
            if (!mapped) break;
            for (let i = 0; i < step.count; i++) {
              model.set(step.page + i, { bytes: new Uint8Array(PAGE_SIZE), writable });
            }
            break;
          }
          case "unmap":
            memory.unmap((FIRST + step.page) * PAGE_SIZE, step.count);
            for (let i = 0; i < step.count; i++) model.delete(step.page + i);
            break;
          case "write": {
            const { offset, length, value } = step;
            const pages = range(model, step.page, Math.ceil((offset + length) / PAGE_SIZE));
            const ok = usable(pages, true);
            const written = happens(ok, () => {
              memory.write((FIRST + step.page) * PAGE_SIZE + offset, new Uint8Array(length).fill(value));
            });
            if (!written || !ok) break;
            for (let i = offset; i < offset + length; i++) {
              pages[Math.floor(i / PAGE_SIZE)].bytes[i % PAGE_SIZE] = value;
            }
            break;
          }
          case "pin": {
            const pages = range(model, step.page, step.count);
            const ok = usable(pages, step.writable);
            let runs: FrameRun[] = [];
            const pinned = happens(ok, () => {
              runs = memory.pin(FIRST + step.page, step.count, step.writable);
            });
            if (pinned && ok) pins.push({ runs, pages });
            break;
          }
          case "fork": {
            if (living.length === 4) break;
            let child: LibraryProcess | undefined;
            happens(true, () => {
              child = process.fork();
            });
            if (child === undefined) break;
            const copy = [...model].map(([at, page]): [number, Page] => [at, { ...page, bytes: page.bytes.slice() }]);
            living.push({ process: child, model: new Map(copy) });
            break;
          }
          case "exit":
            process.exit();
            living.splice(index, 1);
            expect(errnoOf(() => memory.pin(FIRST, 1, false))).toBe(EFAULT);
            break;
        }
      }

      countdown = 0;
      const bytes = new Uint8Array(PAGE_SIZE);
      for (const { process, model } of living) {
        for (let at = 0; at < PAGES + 6; at++) {
          const page = model.get(at);
          const errno = errnoOf(() => process.memory.read((FIRST + at) * PAGE_SIZE, bytes));
          expect(errno).toBe(page === undefined ? EFAULT : 0);
          if (page !== undefined) expect(Buffer.compare(bytes, page.bytes)).toBe(0);
        }
      }
      const held = new Map<number, number>();
      for (const { runs, pages } of pins) {
        const frames = runs.flatMap(({ pfn, count }) => Array.from({ length: count }, (_, i) => pfn + i));
        expect(frames.length).toBe(pages.length);
        for (const [i, pfn] of frames.entries()) {
          physical.read(pfn * PAGE_SIZE, bytes);
          expect(Buffer.compare(bytes, pages[i].bytes)).toBe(0);
          held.set(pfn, (held.get(pfn) ?? 0) + 1);
        }
      }
      expect(physical.pinnedFrames).toBe(held.size);
      for (const [pfn, pins] of held) expect(physical.pinCount(pfn)).toBe(pins);
      expect(physical.usedFrames).toBeLessThanOrEqual(
        held.size + living.reduce((sum, { model }) => sum + model.size, 0),
      );

      for (const { process } of living) process.exit();
      expect(physical.usedFrames).toBe(held.size);
      for (const { runs } of pins) physical.unpin(runs);
      expect(physical.usedFrames).toBe(0);
      expect(physical.pinnedFrames).toBe(0);
    }),
    { numRuns: 300 },
  );
});
