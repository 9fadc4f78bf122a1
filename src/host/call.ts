import { type Outcome, Refusal } from "../runtime/index.ts";
import type { ClientProcess } from "./client.ts";

/** One call of a client, as observers see it. Times are of `performance.now()`, in milliseconds. */
export interface Call {
  readonly process: ClientProcess;
  readonly kind: "open" | "close" | "ioctl" | "read" | "write";
  /** The label of the file; for an open its path. */
  readonly file: string;
  /** ioctl: its number, and its argument; 0 for all others. */
  readonly request: number;
  readonly argument: number;
  /** The first bytes at an ioctl's argument (at most 64, fewer at the end of a page), before and after the call. */
  readonly before: Uint8Array;
  readonly after: Uint8Array;
  /** read, write: where, if the call said so, and how many bytes were asked for. */
  readonly position?: number | undefined;
  readonly length?: number | undefined;
  /** What the call returns; -1 when refused. */
  readonly result: number;
  readonly refusal: Refusal | undefined;
  readonly start: number;
  readonly duration: number;
}

const none = new Uint8Array(0);

/** A call that has ended: what is known of it, and its outcome. */
export function endedCall(
  known: Pick<Call, "process" | "kind" | "file"> & Partial<Call>,
  outcome: Outcome<unknown>,
  start: number,
): Call {
  return {
    request: 0,
    argument: 0,
    before: none,
    after: none,
    ...known,
    result: outcome.ok ? (typeof outcome.value === "number" ? outcome.value : 0) : -1,
    refusal: !outcome.ok && outcome.error instanceof Refusal ? outcome.error : undefined,
    start,
    duration: performance.now() - start,
  };
}
