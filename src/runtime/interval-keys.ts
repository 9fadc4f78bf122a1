// Runs in a browser.
/** 64-bit keys and sizes as integers of 32 bits, in the same order: what `intervals.ts` compares. */

/** Below, doubles are exact. */
const EXACT = 2 ** 53;
const SIGN = 0x80000000;
/** The half of which all bits were 0. */
export const LOWEST_HALF: number = -SIGN;

/** The upper 32 bits of a key, moved down by 2^31 so that they fit a small integer and keep their order. */
export function highHalf(key: bigint, rounded: number): number {
  return (rounded < EXACT ? Math.floor(rounded / 2 ** 32) : Number(key / 0x100000000n)) ^ SIGN;
}

/** The lower 32 bits of a key, moved likewise. */
export function lowHalf(key: bigint, rounded: number): number {
  return (rounded < EXACT ? rounded >>> 0 : Number(key & 0xffffffffn)) ^ SIGN;
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
