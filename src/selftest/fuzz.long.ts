import { test } from "vitest";
import { fuzz } from "./fuzz.test-support.ts";

test.each([2, 3, 4, 5, 6, 7, 8, 9, 10, 11])("100,000 random calls (seed %i)", (seed) => {
  fuzz(seed, 100_000);
});
