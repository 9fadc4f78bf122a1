// Runs in a browser.
/**
 * Logs of drivers: what a driver wrote to registers and memory, and what DMA has to do then, in the order in which it
 * happened. A case file may hold one; lines with an `op` are its steps (the format of `conformance/smmuv3`).
 */
import { type Fields, isBytes, isObject } from "./json.ts";

/** Up to 64 bits: a JSON number, or a string, `"0x…"` or decimal. */
export type Number64 = number | string;

export type LogStep =
  | { readonly op: "reset"; readonly case?: string; readonly clear?: boolean }
  | { readonly op: "m"; readonly addr: Number64; readonly hex: string }
  | { readonly op: "mr"; readonly addr: Number64; readonly len: Number64 }
  | { readonly op: "w"; readonly off: Number64; readonly size?: 4 | 8; readonly val: Number64 }
  | LogRead
  | { readonly op: "c"; readonly lo: Number64; readonly hi?: Number64 }
  | { readonly op: "d" }
  | LogDma;

export interface LogRead {
  readonly op: "r";
  readonly off: Number64;
  readonly size?: 4 | 8;
  /** What the driver saw, in the bits of `mask`. */
  readonly val?: Number64;
  readonly mask?: Number64;
}

export interface LogDma {
  readonly op: "dma";
  readonly sid: Number64;
  readonly ssid?: Number64 | null;
  readonly iova: Number64;
  readonly len: Number64;
  readonly write?: boolean;
  readonly data?: string;
  readonly expect?: {
    readonly ok?: boolean;
    readonly data?: string;
    readonly events?: readonly (readonly Number64[])[];
  };
}

/** A step, and where it stands: `"unmap.jsonl:12"`. */
export interface PlacedStep {
  readonly place: string;
  readonly step: LogStep;
}

/** Whether a line is a step of a log, right or wrong. */
export function isLogStep(value: unknown): value is Fields {
  return isObject(value) && "op" in value;
}

/** What is wrong with a step, or undefined. */
export function stepProblem(step: Fields): string | undefined {
  const isNumber = (name: string): boolean => isNumber64(step[name]);
  const isOptional = (name: string): boolean => step[name] === undefined || isNumber(name);
  const isSize = step.size === undefined || step.size === 4 || step.size === 8;
  switch (step.op) {
    case "reset":
    case "d":
      return undefined;
    case "m":
      return isNumber("addr") && isBytes(step.hex) ? undefined : "m needs addr and hex";
    case "mr":
      return isNumber("addr") && isNumber("len") ? undefined : "mr needs addr and len";
    case "w":
      return isNumber("off") && isNumber("val") && isSize ? undefined : "w needs off and val, and size may be 4 or 8";
    case "r":
      return isNumber("off") && isOptional("val") && isOptional("mask") && isSize
        ? undefined
        : "r needs off, may have val and mask, and size may be 4 or 8";
    case "c":
      return isNumber("lo") && isOptional("hi") ? undefined : "c needs lo, and may have hi";
    case "dma":
      return dmaProblem(step);
    default:
      return `unknown op ${JSON.stringify(step.op)}`;
  }
}

function dmaProblem(step: Fields): string | undefined {
  if (!["sid", "iova", "len"].every((name) => isNumber64(step[name]))) return "dma needs sid, iova and len";
  if (step.write === true && !(isBytes(step.data) && step.data.length === 2 * Number(step.len))) {
    return "dma needs len bytes of data to write";
  }
  return step.expect === undefined || isObject(step.expect) ? undefined : "expect is no object";
}

function isNumber64(value: unknown): value is Number64 {
  return (
    (Number.isSafeInteger(value) && (value as number) >= 0) ||
    (typeof value === "string" && /^(0x[0-9a-f]{1,16}|\d{1,19})$/i.test(value))
  );
}
