// Runs in a browser.
/**
 * The trace: one JSON object a line for each call, in the order of their ends. docs/trace.schema.json is the schema here,
 * written out.
 *
 * 64-bit values are strings, `"0x100000"`, since JSON numbers lose bits; structs' other fields are numbers.
 */
import type { XStatic } from "typebox/schema";
import { errnoName } from "../runtime/index.ts";
import { decodeRequest, requestName } from "../uapi/index.ts";
import { type ClientCall, placeOf } from "./call.ts";

export const traceSchema = {
  $schema: "http://json-schema.org/draft-07/schema#",
  title: "uiommu trace line",
  description:
    "One call of a client on a file of uiommu, as one line of the file that `uiommu run --trace FILE` writes.",
  type: "object",
  additionalProperties: false,
  required: ["time", "pid", "file", "call", "arguments", "result", "duration"],
  properties: {
    time: { description: "Seconds from the start of the machine to the call.", type: "number", minimum: 0 },
    pid: { description: "The calling process.", type: "integer" },
    file: { description: "The file that it was made on.", type: "string" },
    call: {
      description: "IOAS_MAP, VFIO_DEVICE_GET_INFO, read, …; ioctl for a number that is not known.",
      type: "string",
    },
    arguments: {
      description:
        "What was asked: the fields of the struct by their C names as the client gave them, or position and length. 64-bit values and addresses are strings in hexadecimal.",
      type: "object",
    },
    answer: {
      description: "The fields that the call changed, with what it put there.",
      type: "object",
    },
    result: { description: "What the call returned; -1 if it was refused.", type: "integer" },
    errno: { description: "If it was refused: the error, by its name.", type: "string" },
    reason: { description: "If it was refused: the rule and the object, in words.", type: "string" },
    duration: { description: "Microseconds from the call's arrival to its answer.", type: "number", minimum: 0 },
  },
} as const;

/** One line of a trace, as an object. */
export type TraceLine = XStatic<typeof traceSchema>;

/** One call as a line of JSON, without the newline. `origin`: when the machine began, on the clock of `call.start`. */
export function traceLine(call: ClientCall, origin: number): string {
  const { kind, request, refusal, result } = call;
  const { given, changed } = kind === "ioctl" ? decode(call) : { given: place(call), changed: {} };
  const line: TraceLine = {
    time: rounded((call.start - origin) / 1000, 6),
    pid: call.process.pid,
    file: call.file,
    call: kind === "ioctl" ? (requestName(request, placeOf(call), call.before) ?? kind) : kind,
    arguments: given,
    ...(Object.keys(changed).length > 0 && { answer: changed }),
    result,
    ...(refusal && { errno: errnoName(refusal.errno), reason: refusal.reason }),
    duration: rounded(call.duration * 1000, 1),
  };
  return JSON.stringify(line, exactly);
}

type Values = Readonly<Record<string, unknown>>;

/** The fields of an ioctl's struct as they were given, and those that the call changed. */
function decode(call: ClientCall): { given: Values; changed: Values } {
  const { request, before, after } = call;
  const given = decodeRequest(request, told(before), placeOf(call));
  if (!given) return { given: { request: `0x${request.toString(16)}` }, changed: {} };
  const answered = after.length === 0 ? given : (decodeRequest(request, told(after), placeOf(call)) ?? given);
  const changed = Object.entries(answered).filter(([name, value]) => value !== given[name]);
  return { given, changed: Object.fromEntries(changed) };
}

/** Every struct begins with its size as the client knows it: what lies behind is not part of the call. */
function told(struct: Uint8Array): Uint8Array {
  if (struct.length < 4) return struct;
  return struct.subarray(0, new DataView(struct.buffer, struct.byteOffset).getUint32(0, true));
}

function place({ position, length }: ClientCall): Values {
  return {
    ...(position !== undefined && { position: `0x${position.toString(16)}` }),
    ...(length !== undefined && { length }),
  };
}

function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}

/** JSON has no word for a bigint. */
function exactly(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? `0x${value.toString(16)}` : value;
}
