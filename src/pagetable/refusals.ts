// Runs in a browser.
/**
 * What the mapper refuses. Made here and thrown there: a closure costs the function around it an allocation per call,
 * also where nothing is refused.
 */
import { EADDRINUSE, EINVAL, ERANGE, Refusal } from "../runtime/index.ts";
import type { Format } from "./formats/format.ts";
import { hex } from "./words.ts";

export function uselessProt(iova: number): Refusal {
  return new Refusal(EINVAL, () => `a mapping at ${hex(iova)} that may be neither read nor written`);
}

export function unaligned(format: Format, iova: number, physical: number, size: number): Refusal {
  return new Refusal(
    EINVAL,
    () => `${hex(size)} bytes from ${hex(iova)} to ${hex(physical)} are not whole pages of ${hex(format.granule)}`,
  );
}

export function beyondInput(format: Format, iova: number, size: number): Refusal {
  return new Refusal(ERANGE, () => `${range(iova, size)} is beyond the ${format.inputBits} bits of input`);
}

export function beyondOutput(format: Format, physical: number, size: number): Refusal {
  return new Refusal(ERANGE, () => `${range(physical, size)} is beyond the ${format.outputBits} bits of output`);
}

export function occupied(iova: number, span: number): Refusal {
  return new Refusal(EADDRINUSE, () => `something is mapped in ${range(iova, span)} already`);
}

function range(start: number, size: number): string {
  return `${hex(start)}-${hex(start + size - 1)}`;
}
