// Runs in a browser.
import type { Schema } from "./check.ts";
import { type MachineInput, machineSchema } from "./schema.ts";

/** Editors with a YAML language server complete and check a file that begins so. */
const COMPLETION = "# yaml-language-server: $schema=./node_modules/uiommu/docs/machine.schema.json";
const COLUMNS = 100;

/** A machine file that says what `input` says, each key explained in a comment where it is first used. */
export function writeMachine(input: MachineInput): string {
  const explained = new Set<Schema>();
  return `${[COMPLETION, ...mappingLines(machineSchema, input, explained)].join("\n")}\n`;
}

function mappingLines(schema: Schema, value: object, explained: Set<Schema>): string[] {
  return Object.entries(value).flatMap(([key, entry]) => {
    const property = schema.properties?.[key] ?? {};
    const inner = valueLines(property, entry, explained);
    const lines =
      inner.length === 1 && !isNested(entry)
        ? [`${key}: ${inner[0]}`]
        : [`${key}:`, ...inner.map((line) => `  ${line}`)];
    if (explained.has(property) || !property.description) return lines;
    explained.add(property);
    const remark = `${lines[0]}  # ${property.description}`;
    return remark.length <= COLUMNS ? [remark, ...lines.slice(1)] : [`# ${property.description}`, ...lines];
  });
}

function valueLines(schema: Schema, value: unknown, explained: Set<Schema>): string[] {
  if (!isNested(value)) return [scalar(value)];
  if (!Array.isArray(value)) return mappingLines(schema, value, explained);
  return value.flatMap((item) => {
    const lines = valueLines(schema.items ?? {}, item, explained);
    return lines.map((line, index) => `${index === firstContent(lines) ? "- " : "  "}${line}`);
  });
}

/** A hyphen stands before an item's first line that is no comment. */
function firstContent(lines: readonly string[]): number {
  return lines.findIndex((line) => !line.startsWith("#"));
}

function isNested(value: unknown): value is object {
  return typeof value === "object" && value !== null && Object.keys(value).length > 0;
}

/** Words stand for themselves unless YAML would take them for something else. */
function scalar(value: unknown): string {
  return typeof value === "string" && /^[A-Za-z][^:#]*$|^[0-9]{2}:/.test(value) ? value : JSON.stringify(value);
}
