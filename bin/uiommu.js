#!/usr/bin/env node
import { existsSync } from "node:fs";

const entry = new URL("../dist/command/main.js", import.meta.url);
if (!existsSync(entry)) {
  process.stderr.write("uiommu: not built yet; run: npm run build\n");
  process.exit(2);
}
try {
  const [{ main }, { processTerminal }] = await Promise.all([
    import(entry.href),
    import(new URL("../dist/command/terminal.js", import.meta.url).href),
  ]);
  process.exitCode = await main(process.argv.slice(2), processTerminal());
} catch (error) {
  if (error.code !== "EMFILE") throw error;
  process.stderr.write("uiommu: too few open files are allowed here; see: uiommu doctor\n");
  process.exit(1);
}
