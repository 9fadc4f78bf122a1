import { defineConfig } from "vitest/config";

/** What takes too long for every change: a million random calls, eight programs with all that fits. */
export default defineConfig({
  test: {
    include: ["{src,test}/**/*.nightly.ts"],
    testTimeout: 3_600_000,
    fileParallelism: false,
  },
});
