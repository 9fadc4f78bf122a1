// Runs in a browser.
/**
 * Compares a value with a schema and says in words what is wrong and what would be right.
 *
 * It knows the JSON Schema keywords that schema.ts uses, no more. Its verdicts are those of any JSON Schema validator
 * (a test compares them); its sentences are for the person who wrote the file.
 */
import { nearest } from "./nearest.ts";

/** Where something stands: `["devices", 0, "model"]`. */
export type Path = readonly (string | number)[];

/** One mistake. `at` tells whether the key is wrong or what stands behind it. */
export interface Problem {
  readonly path: Path;
  readonly at: "key" | "value";
  /** One sentence: what is wrong; what would be right. */
  readonly message: string;
}

/** Takes a mistake down. */
export type Report = (path: Path, message: string, at?: "key" | "value") => void;

/** The part of JSON Schema that the machine's schema uses. */
export interface Schema {
  readonly type?: "object" | "array" | "string" | "integer" | "boolean";
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: false;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly minItems?: number;
  readonly uniqueItems?: boolean;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly pattern?: string;
  readonly enum?: readonly (string | number)[];
  readonly anyOf?: readonly Schema[];
  readonly description?: string;
  /** What would be right, as it follows "it must be". */
  readonly errorMessage?: string;
}

/** Everything in `value` that `schema` does not allow, in the order of the schema's keys. */
export function checkValue(schema: Schema, value: unknown, path: Path = []): Problem[] {
  const wrong = (): Problem[] => [
    { path, at: "value", message: `${nameOf(path)} is ${shown(value)}; it must be ${expected(schema, value)}` },
  ];
  if (schema.anyOf) {
    return schema.anyOf.some((branch) => checkValue(branch, value, path).length === 0) ? [] : wrong();
  }
  if (schema.enum) return schema.enum.some((allowed) => allowed === value) ? [] : wrong();
  switch (schema.type) {
    case "object":
      return isMapping(value) ? checkMapping(schema, value, path) : wrong();
    case "array": {
      if (!Array.isArray(value) || value.length < (schema.minItems ?? 0)) return wrong();
      if (schema.uniqueItems && new Set(value).size < value.length) return wrong();
      return value.flatMap((item, index) => checkValue(schema.items ?? {}, item, [...path, index]));
    }
    case "string":
      return typeof value === "string" && new RegExp(schema.pattern ?? "").test(value) ? [] : wrong();
    case "integer": {
      const { minimum = Number.NEGATIVE_INFINITY, maximum = Number.POSITIVE_INFINITY } = schema;
      return Number.isSafeInteger(value) && Number(value) >= minimum && Number(value) <= maximum ? [] : wrong();
    }
    case "boolean":
      return typeof value === "boolean" ? [] : wrong();
    case undefined:
      return [];
  }
}

function checkMapping(schema: Schema, value: Readonly<Record<string, unknown>>, path: Path): Problem[] {
  const properties = schema.properties ?? {};
  const problems: Problem[] = [];
  for (const key of Object.keys(value)) {
    if (Object.hasOwn(properties, key)) continue;
    const meant = nearest(key, Object.keys(properties));
    const advice =
      meant === undefined ? `known keys: ${Object.keys(properties).join(", ")}` : `did you mean "${meant}"?`;
    problems.push({ path: [...path, key], at: "key", message: `unknown key "${key}" in ${nameOf(path)}; ${advice}` });
  }
  for (const key of schema.required ?? []) {
    if (Object.hasOwn(value, key)) continue;
    const message = `${nameOf(path)} has no "${key}"; it must be ${expected(properties[key], undefined)}`;
    problems.push({ path, at: "value", message });
  }
  for (const [key, property] of Object.entries(properties)) {
    if (Object.hasOwn(value, key)) problems.push(...checkValue(property, value[key], [...path, key]));
  }
  return problems;
}

/** What would be right, as it follows "it must be". */
function expected(schema: Schema, value: unknown): string {
  if (schema.errorMessage) return schema.errorMessage;
  if (schema.enum) {
    const allowed = schema.enum.map(String);
    const meant = typeof value === "string" && !/^[0-9]/.test(value) ? nearest(value, allowed) : undefined;
    const list = allowed.length === 1 ? allowed[0] : `one of ${allowed.join(", ")}`;
    return meant === undefined || allowed.length === 1 ? list : `${list}; did you mean ${meant}?`;
  }
  switch (schema.type) {
    case "object":
      return `a mapping with keys such as ${Object.keys(schema.properties ?? {})
        .slice(0, 3)
        .join(", ")}`;
    case "integer":
      return `a whole number from ${schema.minimum} to ${schema.maximum}`;
    case "boolean":
      return "true or false";
    case "array":
      return "a list";
    case "string":
    case undefined:
      return "a text";
  }
}

function isMapping(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** `devices[0].model`; the whole is "the machine". */
export function nameOf(path: Path): string {
  if (path.length === 0) return "the machine";
  return path.map((step, index) => (typeof step === "number" ? `[${step}]` : index === 0 ? step : `.${step}`)).join("");
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return "empty";
  if (typeof value === "string") return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  if (Array.isArray(value))
    return value.length === 0 ? "an empty list" : value.every(isScalar) ? `[${value.join(", ")}]` : "a list";
  return typeof value === "object" ? "a mapping" : String(value);
}

function isScalar(value: unknown): boolean {
  return typeof value !== "object";
}
