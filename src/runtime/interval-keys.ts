// Runs in a browser.
/** 64-bit keys and sizes as integers of 32 bits, in the same order: what `intervals.ts` compares. */
import { highWordOf, lowWordOf } from "./u64.ts";

const SIGN = 0x80000000;
/** The half of which all bits were 0. */
export const LOWEST_HALF: number = -SIGN;

/** The upper 32 bits of a key, moved down by 2^31 so that they fit a small integer and keep their order. */
export function highHalf(key: bigint): number {
  return highWordOf(key) ^ SIGN;
}

/** The lower 32 bits of a key, moved likewise. */
export function lowHalf(key: bigint): number {
  return lowWordOf(key) ^ SIGN;
}

const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

/**
 * A size as the bits of the float that it is rounded up to: integers in the order of the sizes. No size looks smaller
 * than another that it is not smaller than; one that looks large enough may be too small and is checked exactly.
 */
export function sizeBits(size: number): number {
  float[0] = size;
  return float[0] < size ? bits[0] + 1 : bits[0];
}
