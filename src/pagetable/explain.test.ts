import { expect, test } from "vitest";
import { PhysicalMemory } from "../memory/index.ts";
import { System } from "../runtime/index.ts";
import { explainWalk } from "./explain.ts";
import { lpae } from "./formats/lpae.ts";
import { PROT_CACHE, PROT_READ } from "./prot.ts";
import { RIGHT_READ, RIGHT_WRITE } from "./rights.ts";
import { PageTable } from "./table.ts";
import { type StageOptions, TranslationStage } from "./walk.ts";

const IOVA = 0xa0_5000;

function mapped(options: Partial<StageOptions> = {}) {
  const system = new System();
  const memory = new PhysicalMemory(system, { ram: [{ base: 0x4000_0000, size: 2 ** 24 }] });
  const format = lpae({ stage: 1, granule: 4096, inputBits: 39, outputBits: 40 });
  const table = new PageTable(system, memory, format);
  table.map(IOVA, 0x8000_0000, 4096, PROT_READ | PROT_CACHE);
  return { memory, stage: new TranslationStage({ format, root: table.root, ...options }) };
}

test("tells each descriptor of a walk that succeeds, and where it leads", () => {
  const { memory, stage } = mapped();
  const { steps, verdict } = explainWalk(memory, stage, IOVA + 0x10, RIGHT_READ);
  expect(steps.map((step) => step.text)).toEqual([
    "level 1 table at 0x40000000, entry 0 at 0x40000000: 0x40001003, table at 0x40001000",
    "level 2 table at 0x40001000, entry 5 at 0x40001028: 0x40002003, table at 0x40002000",
    "level 3 table at 0x40002000, entry 5 at 0x40002028: 0x80000fc7, page of 4K at 0x80000000",
  ]);
  expect(steps[2]).toMatchObject({ level: 3, table: 0x4000_2000, index: 5, address: 0x4000_2028 });
  expect(verdict).toBe(
    "address 0xa05010 translates to 0x80000010, which may be used to read, execute, privileged read, privileged execute",
  );
});

test("says which bit of which entry ended it", () => {
  const { memory, stage } = mapped();
  const { steps, verdict } = explainWalk(memory, stage, IOVA + 0x20_0000, RIGHT_READ);
  expect(steps.at(-1)!.text).toBe("level 2 table at 0x40001000, entry 6 at 0x40001030: 0x0, bit 0 (valid) is 0");
  expect(verdict).toBe(
    "address 0xc05000 is not mapped: the level 2 entry at 0x40001030 is invalid, bit 0 (valid) is 0",
  );
});

test("tells every other end", () => {
  const { memory, stage } = mapped();
  const leaf = 0x4000_2028;
  const verdict = (rights = RIGHT_READ, how = stage, input = IOVA): string =>
    explainWalk(memory, how, input, rights).verdict;

  expect(verdict(RIGHT_WRITE)).toBe(
    "address 0xa05000 may not be used to write, only to read, execute, privileged read, privileged execute: AP[2:1] (bits 7:6) is 0b11 and UXN, PXN (bits 54:53) 0b00 in the level 3 entry at 0x40002028 and the tables above it",
  );
  expect(verdict(RIGHT_READ, stage, 2 ** 39)).toBe(
    "address 0x8000000000 is beyond the 39 bits of input that stage 1 translates",
  );
  expect(verdict(RIGHT_READ, mapped({ root: 2 ** 40 }).stage)).toBe(
    "the root table at 0x10000000000 is beyond the 40 bits of output",
  );
  expect(verdict(RIGHT_READ, mapped({ root: 0x1000 }).stage)).toBe(
    "nothing answers at 0x1000, where the level 1 entry at 0x1000 should be",
  );

  memory.writeWord(leaf, 0x8000_0bc7);
  expect(verdict()).toBe(
    "address 0xa05000 has not been accessed before: AF (bit 10) is 0 in the level 3 entry at 0x40002028",
  );
  memory.writeWord(leaf + 4, 0x100);
  expect(verdict()).toBe("the level 3 entry at 0x40002028 holds an address beyond the 40 bits of output");
  memory.writeWord(leaf, 0x8000_0fc5);
  expect(verdict()).toMatch(/bit 1 is 0, which is reserved at the last level$/);
  const refused = explainWalk(memory, stage, IOVA, RIGHT_READ, { translateTable: () => -1 });
  expect(refused.verdict).toBe("stage 2 does not give the level 1 entry at 0x40000000, an IPA to stage 1");
  expect(refused.steps).toEqual([]);
});

test("changes nothing, where the walk itself would", () => {
  const { memory, stage } = mapped({ setAccessFlag: true });
  memory.writeWord(0x4000_2028, 0x8000_0bc7);
  expect(explainWalk(memory, stage, IOVA, RIGHT_READ).verdict).toMatch(/translates to 0x80000000/);
  expect(memory.readWord(0x4000_2028)).toBe(0x8000_0bc7);
});
