/** Whatever a client does: an answer or a refusal, nothing changed by what was refused, nothing left when it is gone. */
import { expect, test } from "vitest";
import { fuzz } from "./fuzz.ts";
import { fuzzMachines } from "./fuzz-machines.ts";

test.each(Object.entries(fuzzMachines))("no call breaks a machine with %s", (_name, machine) => {
  const { done, refused } = fuzz(machine, { seed: 1, calls: 6_000 });
  // A good part of the calls gets through the checks.
  expect(done).toBeGreaterThan(1_000);
  expect(refused).toBeGreaterThan(1_000);
});
