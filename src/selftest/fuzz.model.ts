import { expect, test } from "vitest";
import { fuzz } from "./fuzz.test-support.ts";

test("20,000 random calls: errnos only, nothing changed by a refused one, nothing left behind", () => {
  const tally = fuzz(1, 20_000);
  const succeeded = [...tally.values()].filter(({ succeeded }) => succeeded > 0).length;
  // Some want several objects in the right order, which chance rarely makes.
  expect(tally.size - succeeded).toBeLessThan(10);
}, 120_000);
