// Runs in a browser.
/** Numbers below 2^53 as pairs of 32-bit words, and back: what table entries are made of. */
const TWO_32 = 4294967296;

/** Bits 63:32. */
export function highWord(value: number): number {
  return (value / TWO_32) | 0;
}

/** Bits 31:0, unsigned. */
export function lowWord(value: number): number {
  return value >>> 0;
}

/** The number made of both words; `high` below 2^21. */
export function joinWords(high: number, low: number): number {
  return high * TWO_32 + (low >>> 0);
}

/** Bits from `shift` (1 to 63) upwards of a pair of words; what goes beyond 32 bits is lost. */
export function bitsFrom(high: number, low: number, shift: number): number {
  return shift < 32 ? (low >>> shift) | (high << (32 - shift)) : high >>> (shift - 32);
}

/** log2 of the largest power of two that divides `value`; 64 for 0. */
export function alignmentBits(value: number): number {
  const low = value | 0;
  if (low !== 0) return 31 - Math.clz32(low & -low);
  const high = highWord(value);
  return high === 0 ? 64 : 63 - Math.clz32(high & -high);
}

/** `0x…` of a table entry. */
export function hexEntry(low: number, high: number): string {
  const lower = (low >>> 0).toString(16);
  return high === 0 ? `0x${lower}` : `0x${(high >>> 0).toString(16)}${lower.padStart(8, "0")}`;
}

/** `0x…` of an address. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
