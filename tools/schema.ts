/**
 * `tsx tools/schema.ts`: writes the JSON Schemas of machine files and of traces to docs/, for editors and for programs
 * that read them. `--check` writes nothing, and fails if a file is not what it would be.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { traceSchema } from "../src/inspect/trace.ts";
import { machineSchema } from "../src/machine/description.ts";

const schemas = { "machine.schema.json": machineSchema, "trace.schema.json": traceSchema };

for (const [name, schema] of Object.entries(schemas)) {
  const file = join(import.meta.dirname, "..", "docs", name);
  const text = `${JSON.stringify(schema, undefined, 2)}\n`;
  if (!process.argv.includes("--check")) {
    writeFileSync(file, text);
  } else if (readFileSync(file, "utf8") !== text) {
    console.error(`docs/${name} is out of date; run: npx tsx tools/schema.ts`);
    process.exitCode = 1;
  }
}
