import tseslint from "typescript-eslint";
import noBigintShift from "./tools/no-bigint-shift.js";

export default tseslint.config(
  { ignores: ["dist/", "node_modules/", "docs/", "bin/", "tools/", "*.config.*"] },
  {
    files: ["**/*.ts"],
    languageOptions: {
      parser: tseslint.parser,
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
    plugins: { "@typescript-eslint": tseslint.plugin, uiommu: { rules: { "no-bigint-shift": noBigintShift } } },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "uiommu/no-bigint-shift": "error",
      "@typescript-eslint/no-floating-promises": "error",
      "@typescript-eslint/no-misused-promises": "error",
      "@typescript-eslint/await-thenable": "error",
      "@typescript-eslint/switch-exhaustiveness-check": "error",
    },
  },
);
