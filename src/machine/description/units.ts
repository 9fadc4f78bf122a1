// Runs in a browser.
/** Sizes and addresses, as files write them and as people read them. */

export const KIB = 1024;
export const MIB = 1024 * KIB;
const UNITS: Readonly<Record<string, number>> = { B: 1, KiB: KIB, MiB: MIB, GiB: 1024 * MIB, TiB: 1024 * 1024 * MIB };
/** Physical addresses have at most 52 bits. */
export const PHYSICAL_END: number = 2 ** 52;

/** Bytes. Sizes in words have a unit: `"64KiB"`, `"1 GiB"`, `"0x1000"`. */
export function bytes(size: number | string): number {
  if (typeof size === "number") return size;
  const [, count, unit] = /^([0-9]+) ?([A-Za-z]+)$/.exec(size) ?? [];
  return count === undefined ? Number(size) : Number(count) * UNITS[unit];
}

export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
