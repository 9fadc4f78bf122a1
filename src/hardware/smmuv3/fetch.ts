// Runs in a browser.
import { BusError, type PhysicalMemory, wordIndex } from "../../memory/index.ts";

/**
 * Reads `count` 32-bit words at physical `address` into `into`: a structure that is aligned to its size, so that it lies
 * in one chunk of memory. False if the bus aborts: nobody is there.
 */
export function fetchWords(memory: PhysicalMemory, address: number, into: Uint32Array, count: number): boolean {
  const words = memory.words(address);
  if (words !== undefined) {
    const first = wordIndex(address);
    for (let i = 0; i < count; i++) into[i] = words[first + i];
    return true;
  }
  try {
    for (let i = 0; i < count; i++) into[i] = memory.readWord(address + 4 * i);
    return true;
  } catch (error) {
    if (error instanceof BusError) return false;
    throw error;
  }
}

/** Writes words. False if the bus aborts; then some may be written. */
export function storeWords(memory: PhysicalMemory, address: number, words: ArrayLike<number>): boolean {
  try {
    for (let i = 0; i < words.length; i++) memory.writeWord(address + 4 * i, words[i]);
    return true;
  } catch (error) {
    if (error instanceof BusError) return false;
    throw error;
  }
}

/** The address in bits 51:`lowBit` of a 64-bit word. */
export function addressField(low: number, high: number, lowBit: number): number {
  return (high & 0xfffff) * 2 ** 32 + ((low & (-1 << lowBit)) >>> 0);
}

export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** A 64-bit word of two halves, for people. */
export function hex64(low: number, high: number): string {
  return high === 0 ? hex(low >>> 0) : `0x${(high >>> 0).toString(16)}${(low >>> 0).toString(16).padStart(8, "0")}`;
}
