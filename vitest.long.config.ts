import { defineConfig } from "vitest/config";

/** What takes longer: whole programs under `uiommu run`, kill storms, long random runs. */
export default defineConfig({
  test: {
    include: ["{src,test}/**/*.e2e.ts", "{src,test}/**/*.long.ts"],
    testTimeout: 600_000,
    hookTimeout: 120_000,
    fileParallelism: false,
  },
});
