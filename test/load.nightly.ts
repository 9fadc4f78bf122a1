/**
 * Eight programs at once, each with all that fits: what they get back is all that they gave, and the host is as it was
 * before. That is told by what the machine counts, and by the heap that is left when all garbage is collected: what the host
 * takes of the computer's memory goes down when V8 wants it to, not when nobody needs it.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import { run } from "../src/host/index.ts";
import { buildMachine, type Machine, presets } from "../src/machine/index.ts";

const PROCESSES = 8;
const DEVICES = 1000;
const AREAS = Number(process.env.UIOMMU_LOAD_AREAS ?? 100_000);
const ROUNDS = 3;
/** Megabytes by which the heap may grow: what the first round leaves is code, and tables that grew with their use. */
const FIRST_ROUND = 10;
const LATER_ROUND = 1;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/** Megabytes that are still needed, without the machine's RAM: what was written to once stays, for the next one. */
async function heap(machine: Machine): Promise<number> {
  // What was closed is forgotten some turns of the event loop later; what a first collection finalizes goes with a second.
  for (let time = 0; time < 2; time++) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    collect();
  }
  const { used_heap_size, external_memory } = getHeapStatistics();
  return (used_heap_size + external_memory - machine.memory.residentBytes) / 1e6;
}

/** What a machine would keep of a client that it did not forget. */
function counts({ memory, core, mockBus }: Machine): Record<string, number> {
  return {
    usedFrames: memory.usedFrames,
    pinnedFrames: memory.pinnedFrames,
    adoptedFrames: memory.adoptedFrames,
    groups: core.groups.size,
    mockDevices: mockBus!.devices.length,
  };
}

test(`${PROCESSES} programs with ${DEVICES} devices and ${AREAS} areas each lose nothing, and leave nothing`, async () => {
  const folder = mkdtempSync(join(tmpdir(), "uiommu-load-"));
  try {
    const program = join(folder, "load");
    const source = join(import.meta.dirname, "load.c");
    execFileSync("cc", ["-O2", "-Wall", "-Wextra", "-o", program, source, "-lpthread"]);
    const machine = buildMachine(presets.empty, { mock: true });
    const atFirst = counts(machine);
    const heaps = [await heap(machine)];
    for (let round = 0; round < ROUNDS; round++) {
      const { code } = await run(machine, program, [PROCESSES, DEVICES, AREAS, 1].map(String));
      expect(code).toBe(0);
      expect(counts(machine)).toEqual(atFirst);
      heaps.push(await heap(machine));
    }
    console.log(`heap in MB, at first and after each round: ${heaps.map((size) => size.toFixed(1)).join(", ")}`);
    expect(heaps[1]).toBeLessThan(heaps[0] + FIRST_ROUND);
    for (let round = 2; round <= ROUNDS; round++) expect(heaps[round]).toBeLessThan(heaps[round - 1] + LATER_ROUND);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
