import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["{src,test,bench,tools}/**/*.{test,model}.ts"],
    exclude: ["**/*.long.*", "node_modules/**"],
    testTimeout: 30_000,
  },
});
