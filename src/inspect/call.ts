// Runs in a browser.
import type { RequestPlace } from "../uapi/index.ts";

/**
 * One call of a client on one of our files, from its arrival to its answer: what `--explain` and `--trace` tell of. The
 * host's calls have this shape.
 */
export interface ClientCall {
  readonly process: { readonly pid: number };
  readonly kind: "open" | "close" | "ioctl" | "read" | "write";
  /** What it was made on: `"/dev/iommu"`, or the label of an open file. */
  readonly file: string;
  /** ioctl: its number; 0 for all others. */
  readonly request: number;
  /** The beginning of an ioctl's struct before and after the call, as far as it could be read. */
  readonly before: Uint8Array;
  readonly after: Uint8Array;
  /** read, write: where, if the call said so, and how many bytes. */
  readonly position?: number | undefined;
  readonly length?: number | undefined;
  /** What the call returned; -1 if it was refused. */
  readonly result: number;
  readonly refusal: { readonly errno: number; readonly reason: string } | undefined;
  /** When it arrived, and how long it took until its answer, in milliseconds. */
  readonly start: number;
  readonly duration: number;
}

/** On what kind of file it was made: those of VFIO devices are labelled `vfio0 (0000:00:01.0)`. */
export function placeOf({ file }: ClientCall): RequestPlace {
  return /^vfio\d/.test(file) ? "device" : "container";
}
