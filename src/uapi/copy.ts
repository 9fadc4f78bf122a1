// Runs in a browser.
/**
 * How an extensible struct travels between a client and a handler (reference 3.1, steps 2 to 6): its first u32 says how
 * much of it the client knows. A shorter struct is extended with zeros, a longer one must be zero behind the known part.
 */
import { type AddressSpace, PAGE_SIZE } from "../memory/index.ts";
import { E2BIG, EFAULT, EINVAL, ENOTTY, Refusal, refuse } from "../runtime/index.ts";
import type { CommandRow } from "./iommufd.ts";

function u32At(bytes: Uint8Array): number {
  return (bytes[0] | (bytes[1] << 8) | (bytes[2] << 16) | (bytes[3] << 24)) >>> 0;
}

/**
 * Fills `known`, as long as the row's struct, from the client's struct at `argument`; returns the size that the client
 * gave. Refusals in this order: EFAULT (no size), ENOTTY (`request` is not the row's number), EINVAL (size below the
 * minimum), E2BIG (a byte behind the known part is not zero), EFAULT.
 */
export function copyIn(
  memory: AddressSpace,
  argument: number,
  request: number,
  row: Pick<CommandRow, "number" | "minimum" | "name">,
  known: Uint8Array,
): number {
  // One read serves the usual client; where it fails, the struct may still be shorter than what is known here.
  const whole = tryRead(memory, argument, known);
  const given = u32At(whole ? known : readSize(memory, argument));
  if (request !== row.number) refuse(ENOTTY, () => `0x${request.toString(16)} is not the number of ${row.name}`);
  if (given < row.minimum) refuse(EINVAL, () => `size ${given} is below ${row.minimum}, the least for ${row.name}`);
  if (given > known.length) {
    checkZero(memory, argument + known.length, given - known.length, row.name);
    if (!whole) memory.read(argument, known);
  } else if (given < known.length) {
    if (!whole) memory.read(argument, known.subarray(0, given));
    known.fill(0, given);
  } else if (!whole) {
    memory.read(argument, known);
  }
  return given;
}

/** Writes the struct back, as far as the client knows it. Refusal EFAULT. */
export function copyOut(memory: AddressSpace, argument: number, known: Uint8Array, given: number): void {
  memory.write(argument, given < known.length ? known.subarray(0, given) : known);
}

function readSize(memory: AddressSpace, argument: number): Uint8Array {
  const size = new Uint8Array(4);
  memory.read(argument, size);
  return size;
}

function tryRead(memory: AddressSpace, address: number, into: Uint8Array): boolean {
  try {
    memory.read(address, into);
    return true;
  } catch (error) {
    if (error instanceof Refusal && error.errno === EFAULT) return false;
    throw error;
  }
}

/** E2BIG if one of `count` bytes from `address` on is not zero; EFAULT if one before it cannot be read. */
function checkZero(memory: AddressSpace, address: number, count: number, name: string): void {
  const chunk = new Uint8Array(PAGE_SIZE);
  for (let at = address, left = count; left > 0; ) {
    const part = chunk.subarray(0, Math.min(left, PAGE_SIZE - (at % PAGE_SIZE)));
    memory.read(at, part);
    const index = part.findIndex((byte) => byte !== 0);
    if (index >= 0) {
      const offset = at - address + index;
      refuse(E2BIG, () => `the byte ${offset} behind the known part of ${name} is ${part[index]}, not zero`);
    }
    at += part.length;
    left -= part.length;
  }
}
