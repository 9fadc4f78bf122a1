// Runs in a browser.
/** The format of recorded hardware cases (format 1): a header line, then one case, or one step of a log, a line, all JSON. */
import { isBytes, isObject } from "./json.ts";
import { isLogStep, type LogStep, type PlacedStep, stepProblem } from "./log.ts";

/** Numbers as hex strings, `"0x…"`. */
export type Hex = string;

export interface Header {
  readonly header: true;
  readonly format: 1;
  readonly recorded_with?: string;
  readonly regs: Readonly<Record<"IDR0" | "IDR1" | "IDR2" | "IDR3" | "IDR4" | "IDR5" | "IIDR" | "AIDR" | "GBPA", Hex>>;
  /** `[base, size]`. */
  readonly ram: readonly (readonly [Hex, Hex])[];
}

/** `["w", offset, size, value]`: register write. `["c", lo, hi]`: enqueue a command. `["d"]`: write CMDQ_PROD. */
export type Operation = readonly ["w", Hex, 4 | 8, Hex] | readonly ["c", Hex, Hex] | readonly ["d"];

export interface Dma {
  readonly sid: number;
  readonly ssid: number | null;
  readonly iova: Hex;
  readonly len: number;
  readonly write: boolean;
  /** Bytes in hex, for a write. */
  readonly data?: string;
  readonly stale_ok?: boolean;
}

export interface DmaResult {
  readonly ok: boolean;
  readonly pa: readonly Hex[];
  readonly data?: string;
  readonly found?: readonly (readonly [Hex, string])[];
  readonly events: readonly (readonly Hex[])[];
}

export const END_REGISTERS = [
  "GERROR",
  "GERRORN",
  "CR0ACK",
  "CMDQ_PROD",
  "CMDQ_CONS",
  "EVENTQ_PROD",
  "EVENTQ_CONS",
] as const;

export interface Phase {
  readonly mem: readonly (readonly [Hex, string])[];
  readonly setup: readonly Operation[];
  readonly dma: readonly Dma[];
  readonly expect: { readonly dma: readonly DmaResult[] } & Readonly<Record<(typeof END_REGISTERS)[number], Hex>>;
}

export interface ReplayCase extends Phase {
  readonly name: string;
  readonly group: string;
  readonly then?: readonly Phase[];
  readonly qemu_quirk?: string;
  readonly quirk_ids?: readonly string[];
}

/** A file that is no case file: one line for a person, with the line number. */
export class CaseFileError {
  readonly message: string;

  constructor(message: string) {
    this.message = message;
  }
}

export interface CaseFile {
  readonly header: Header;
  readonly cases: readonly ReplayCase[];
  readonly log: readonly PlacedStep[];
}

/** Reads the text of a case file; `name` names it in messages. Throws {@link CaseFileError}. */
export function parseCaseFile(name: string, text: string): CaseFile {
  const lines = text
    .split("\n")
    .map((line, index) => ({ line: line.trim(), place: `${name}:${index + 1}` }))
    .filter(({ line }) => line !== "");
  if (lines.length === 0) throw new CaseFileError(`${name}: empty, where a header line was expected`);
  const [first, ...rest] = lines.map(({ line, place }) => ({ place, value: parseLine(line, place) }));
  if (!isHeader(first.value)) {
    throw new CaseFileError(
      `${first.place}: not a case file: the first line must be a header ({"header": true, "format": 1, "regs": …, "ram": …})`,
    );
  }
  const cases: ReplayCase[] = [];
  const log: PlacedStep[] = [];
  for (const { place, value } of rest) {
    const isStep = isLogStep(value);
    const problem = isStep ? stepProblem(value) : caseProblem(value);
    if (problem !== undefined) throw new CaseFileError(`${place}: not a ${isStep ? "step" : "case"}: ${problem}`);
    if (isStep) log.push({ place, step: value as unknown as LogStep });
    else cases.push(value as ReplayCase);
  }
  return { header: first.value, cases, log };
}

function parseLine(line: string, place: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new CaseFileError(`${place}: not JSON`);
  }
}

function isHex(value: unknown): value is Hex {
  return typeof value === "string" && /^0x[0-9a-f]{1,16}$/i.test(value);
}

const RAM_UNIT = 2 ** 21;

function isHeader(value: unknown): value is Header {
  if (!isObject(value) || value.header !== true || value.format !== 1 || !isObject(value.regs)) return false;
  const { regs, ram } = value;
  return (
    ["IDR0", "IDR1", "IDR2", "IDR3", "IDR4", "IDR5", "IIDR", "AIDR", "GBPA"].every((name) => isHex(regs[name])) &&
    Array.isArray(ram) &&
    ram.length > 0 &&
    ram.every((range) => Array.isArray(range) && range.length === 2 && range.every(isHex)) &&
    ram.flat().every((number) => Number(number) % RAM_UNIT === 0 && Number(number) < 2 ** 52)
  );
}

/** What is wrong with a case, or undefined. */
function caseProblem(value: unknown): string | undefined {
  if (!isObject(value) || typeof value.name !== "string") return "it has no name";
  const phases = [value, ...(Array.isArray(value.then) ? value.then : [])] as unknown[];
  for (const [index, phase] of phases.entries()) {
    const problem = phaseProblem(phase);
    if (problem !== undefined) return `phase ${index + 1} of ${value.name}: ${problem}`;
  }
  return undefined;
}

function phaseProblem(phase: unknown): string | undefined {
  if (!isObject(phase)) return "not an object";
  const { mem, setup, dma, expect } = phase;
  if (!Array.isArray(mem) || !mem.every((m) => Array.isArray(m) && isHex(m[0]) && isBytes(m[1]))) {
    return 'mem must be [["0x…", bytes], …]';
  }
  if (!Array.isArray(setup) || !setup.every(isOperation)) return "setup has an unknown operation";
  if (!Array.isArray(dma) || !dma.every(isDma)) return "dma must be [{sid, iova, len, write, …}, …]";
  if (!isObject(expect) || !Array.isArray(expect.dma) || expect.dma.length !== dma.length) {
    return "expect.dma must have one result for each DMA";
  }
  if (!expect.dma.every(isResult)) return "expect.dma must be [{ok, pa, events}, …]";
  const missing = END_REGISTERS.find((name) => !isHex(expect[name]));
  return missing === undefined ? undefined : `expect.${missing} is missing`;
}

function isOperation(value: unknown): boolean {
  if (!Array.isArray(value)) return false;
  if (value[0] === "w") return isHex(value[1]) && (value[2] === 4 || value[2] === 8) && isHex(value[3]);
  return value[0] === "d" || (value[0] === "c" && isHex(value[1]) && isHex(value[2]));
}

function isDma(value: unknown): boolean {
  return (
    isObject(value) &&
    Number.isInteger(value.sid) &&
    isHex(value.iova) &&
    Number.isInteger(value.len) &&
    (value.len as number) > 0 &&
    typeof value.write === "boolean" &&
    (!value.write || (isBytes(value.data) && value.data.length === 2 * (value.len as number)))
  );
}

function isResult(value: unknown): boolean {
  return (
    isObject(value) &&
    typeof value.ok === "boolean" &&
    Array.isArray(value.pa) &&
    value.pa.every(isHex) &&
    Array.isArray(value.events) &&
    value.events.every((event) => Array.isArray(event) && event.length === 4 && event.every(isHex))
  );
}
