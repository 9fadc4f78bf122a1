/**
 * A million calls of {@link fuzz}. UIOMMU_FUZZ_SEED chooses them (else the day does), UIOMMU_FUZZ_CALLS how many; what fails
 * names its seed.
 */
import { expect, test } from "vitest";
import { fuzz } from "./fuzz.ts";
import { fuzzMachines } from "./fuzz-machines.ts";

const DAY = 86_400_000;
const seed = Number(process.env.UIOMMU_FUZZ_SEED ?? Math.floor(Date.now() / DAY));
const calls = Number(process.env.UIOMMU_FUZZ_CALLS ?? 1_000_000);
const machines = Object.entries(fuzzMachines);

test.each(machines)(`no call of seed ${seed} breaks a machine with %s`, (_name, machine) => {
  const share = Math.ceil(calls / machines.length);
  const { done, refused } = fuzz(machine, { seed, calls: share });
  console.log(`seed ${seed}: ${done} calls done, ${refused} refused`);
  expect(done).toBeGreaterThan(share / 10);
});
