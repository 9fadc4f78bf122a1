import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["{src,test,bench,tools}/**/*.{test,model}.ts"],
    setupFiles: ["test/seed.ts"],
    exclude: ["**/*.long.*", "node_modules/**"],
    maxWorkers: "100%",
    // A test that hangs ends; one that waits for a busy computer does not.
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
