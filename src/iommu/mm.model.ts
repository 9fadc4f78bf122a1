import fc from "fast-check";
import { expect, test } from "vitest";
import { LibraryProcess, PAGE_READ, PAGE_SIZE, PAGE_WRITE, PhysicalMemory } from "../memory/index.ts";
import { type Leaf, PROT_WRITE } from "../pagetable/index.ts";
import { System } from "../runtime/index.ts";
import { Cpu } from "./cpu.ts";
import type { Mm, MmInvalidation } from "./mm.ts";
import {
  changeSpace,
  checkPerson,
  forkPerson,
  isAllowed,
  type Person,
  spaceChange,
} from "./space-changes.test-support.ts";

const PAGES = 8;
const FIRST = 0x1fc;
const addressOf = (page: number): number => (FIRST + page) * PAGE_SIZE;

const who = fc.nat();
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("change" as const), who, change: spaceChange(PAGES) }) },
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant("device" as const), who, page: fc.nat(PAGES - 1), value: fc.nat(255) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom("fork" as const, "exit" as const), who }) },
);

interface Living extends Person {
  readonly mm: Mm;
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
      const add = ({ process, pages }: Person): void => {
        const mm = cpu.mmOf(process.memory);
        const remembered = new Map<number, Leaf>();
        const invalidate = ({ start, end }: MmInvalidation): void => {
          for (const address of remembered.keys()) if (address >= start && address < end) remembered.delete(address);
        };
        mm.use({ invalidate, release: () => remembered.clear() });
        living.push({ process, mm, pages, remembered });
      };

      for (const step of steps) {
        if (living.length === 0) add({ process: new LibraryProcess(system, memory), pages: new Map() });
        const index = step.who % living.length;
        const person = living[index];
        const { process, mm, pages } = person;
        switch (step.kind) {
          case "change":
            changeSpace(person, step.change, addressOf);
            break;
          case "device": {
            const one = pages.get(step.page);
            const rights = step.value % 2 === 0 ? PAGE_WRITE : PAGE_READ;
            const address = addressOf(step.page);
            const entered = isAllowed(() => system.run("fault", mm.handleFault(BigInt(address), rights)));
            expect(entered).toBe(one !== undefined && (one.writable || rights === PAGE_READ));
            if (!entered || rights === PAGE_READ) break;
            memory.write(mm.table.translate(address)!.physical, new Uint8Array([step.value]));
            one!.value = step.value;
            break;
          }
          case "fork":
            if (living.length < 3) add(forkPerson(person));
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
function check(memory: PhysicalMemory, living: Living): void {
  checkPerson(living, addressOf);
  const { mm, pages, remembered } = living;
  const byte = new Uint8Array(1);
  for (const leaf of mm.table.leaves()) remembered.set(leaf.iova, leaf);
  for (const { iova, physical, prot } of remembered.values()) {
    const one = pages.get(iova / PAGE_SIZE - FIRST);
    memory.read(physical, byte);
    expect(byte[0]).toBe(one?.value);
    if ((prot & PROT_WRITE) !== 0) expect(one?.writable).toBe(true);
  }
}
