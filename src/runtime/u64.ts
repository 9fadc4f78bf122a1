// Runs in a browser.
/**
 * Bigints of 64 bits as numbers and back, by way of memory: a store and two loads. `Number(bigint)` and `BigInt(number)`
 * are calls into the engine that cost ten times as much, and hot paths are full of them.
 */
const value = new BigUint64Array(1);
const halves = new Uint32Array(value.buffer);
/** Every engine is little endian. */
const LOW = 0;
const HIGH = 1;

/** `Number(bigint)`, for 0 … 2^64-1. */
export function numberOf(bigint: bigint): number {
  value[0] = bigint;
  return halves[HIGH] * 2 ** 32 + halves[LOW];
}

/** `BigInt(number)`, for whole numbers from 0 to 2^53. */
export function bigintOf(number: number): bigint {
  halves[HIGH] = number / 2 ** 32;
  halves[LOW] = number;
  return value[0];
}

/** Bits 63:32. */
export function highWordOf(bigint: bigint): number {
  value[0] = bigint;
  return halves[HIGH];
}

/** Bits 31:0. */
export function lowWordOf(bigint: bigint): number {
  value[0] = bigint;
  return halves[LOW];
}
