// Runs in a browser.
/**
 * Requests, bit for bit (virtio 1.2, §5.13.6), as 32-bit words; and what their statuses mean (reference 7.2).
 *
 * Each writer fills `into` from the first word on and returns the bytes that the request has. Requests that attach tables
 * of the driver's own (reference 7.5) would be further writers here.
 */
import { EFAULT, EINVAL, EIO, ENOENT, ENOMEM, ENOSYS, ERANGE, highWordOf, lowWordOf } from "../../runtime/index.ts";

const ATTACH = 1;
const DETACH = 2;
const MAP = 3;
const UNMAP = 4;
const PROBE = 5;

export const ATTACH_BYPASS = 1;
export const MAP_READ = 1;
export const MAP_WRITE = 2;
export const MAP_MMIO = 4;

/** What a request without a page of its own has at most. */
export const REQUEST_WORDS = 9;
export const PROBE_BYTES = 72;
export const TAIL_BYTES = 4;

export const STATUS_OK = 0;
/** What a status is before the device wrote one. */
export const STATUS_IOERR = 1;

const statuses: readonly (readonly [name: string, errno: number])[] = [
  ["OK", 0],
  ["IOERR", EIO],
  ["UNSUPP", ENOSYS],
  ["DEVERR", EIO],
  ["INVAL", EINVAL],
  ["RANGE", ERANGE],
  ["NOENT", ENOENT],
  ["FAULT", EFAULT],
  ["NOMEM", ENOMEM],
];

export function statusName(status: number): string {
  return statuses[status]?.[0] ?? `status ${status}`;
}

export function errnoOf(status: number): number {
  return statuses[status]?.[1] ?? EIO;
}

export function writeAttach(into: Uint32Array, domain: number, endpoint: number, flags: number): number {
  into[0] = ATTACH;
  into[1] = domain;
  into[2] = endpoint;
  into[3] = flags;
  into[4] = 0;
  return 20;
}

export function writeDetach(into: Uint32Array, domain: number, endpoint: number): number {
  into[0] = DETACH;
  into[1] = domain;
  into[2] = endpoint;
  into[3] = into[4] = 0;
  return 20;
}

export function writeMap(
  into: Uint32Array,
  domain: number,
  start: bigint,
  last: bigint,
  physical: number,
  flags: number,
): number {
  into[0] = MAP;
  into[1] = domain;
  into[2] = lowWordOf(start);
  into[3] = highWordOf(start);
  into[4] = lowWordOf(last);
  into[5] = highWordOf(last);
  into[6] = physical % 2 ** 32;
  into[7] = Math.floor(physical / 2 ** 32);
  into[8] = flags;
  return 36;
}

export function writeUnmap(into: Uint32Array, domain: number, start: bigint, last: bigint): number {
  into[0] = UNMAP;
  into[1] = domain;
  into[2] = lowWordOf(start);
  into[3] = highWordOf(start);
  into[4] = lowWordOf(last);
  into[5] = highWordOf(last);
  into[6] = 0;
  return 28;
}

/** The rest of the {@link PROBE_BYTES} is reserved, and 0. */
export function probeWords(endpoint: number): readonly number[] {
  return [PROBE, endpoint];
}
