// Runs in a browser.
/**
 * Requests, bit for bit (virtio 1.2, §5.13.6), as 32-bit words; and what their statuses mean (reference 7.2).
 *
 * Each writer fills `into` from the first word on and returns the bytes that the request has. Those that attach tables of the
 * driver's own are a proposal (reference 7.5; docs/virtio-tables.md).
 */
import { EFAULT, EINVAL, EIO, ENOENT, ENOMEM, ENOSYS, ERANGE, highWordOf, lowWordOf } from "../../runtime/index.ts";

const ATTACH = 1;
const DETACH = 2;
const MAP = 3;
const UNMAP = 4;
const PROBE = 5;
const ATTACH_TABLE = 6;
const INVALIDATE = 7;

export const ATTACH_BYPASS = 1;
export const MAP_READ = 1;
export const MAP_WRITE = 2;
export const MAP_MMIO = 4;

/** What a request without a page of its own has at most. */
export const REQUEST_WORDS = 19;
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

/** Context descriptors of the SMMUv3, and how they are laid out (S1Fmt). */
const FORMAT_ARM_CONTEXTS = 2;
const S1FMT_LINEAR = 0;
const S1FMT_64K_LEAVES = 2;

/** `s1dss`: what becomes of traffic without PASID. */
export function writeAttachTable(
  into: Uint32Array,
  domain: number,
  endpoint: number,
  table: { readonly address: number; readonly log2Entries: number; readonly isTwoLevel: boolean },
  s1dss: number,
): number {
  into.fill(0);
  into[0] = ATTACH_TABLE;
  into[1] = domain;
  into[2] = endpoint;
  into[3] = FORMAT_ARM_CONTEXTS | ((table.isTwoLevel ? S1FMT_64K_LEAVES : S1FMT_LINEAR) << 16) | (s1dss << 24);
  into[4] = table.address % 2 ** 32;
  into[5] = Math.floor(table.address / 2 ** 32);
  into[6] = table.log2Entries;
  return 76;
}

const GRANULARITY_PASID = 1;
const GRANULARITY_ADDRESS = 2;
const TYPE_TRANSLATIONS = 1;
const TYPE_CONTEXTS = 4;
const FLAG_PASID = 1;
const FLAG_ASID = 2;

/** What a domain's endpoints know of the context of one PASID is forgotten, and of the way there. */
export function writeInvalidateContext(into: Uint32Array, domain: number, pasid: number): number {
  return writeInvalidate(into, domain, GRANULARITY_PASID, TYPE_CONTEXTS, FLAG_PASID, pasid, 0);
}

/** All translations under an ASID are forgotten. */
export function writeInvalidateAsid(into: Uint32Array, domain: number, asid: number): number {
  return writeInvalidate(into, domain, GRANULARITY_PASID, TYPE_TRANSLATIONS, FLAG_ASID, 0, asid);
}

/** Those of a range are: `count` pages of 2^`granuleLog2` bytes. */
export function writeInvalidateRange(
  into: Uint32Array,
  domain: number,
  asid: number,
  start: number,
  count: number,
  granuleLog2: number,
): number {
  const bytes = writeInvalidate(into, domain, GRANULARITY_ADDRESS, TYPE_TRANSLATIONS, FLAG_ASID, 0, asid);
  into[7] = start % 2 ** 32;
  into[8] = Math.floor(start / 2 ** 32);
  into[9] = count % 2 ** 32;
  into[10] = Math.floor(count / 2 ** 32);
  into[11] = granuleLog2;
  return bytes;
}

function writeInvalidate(
  into: Uint32Array,
  domain: number,
  granularity: number,
  type: number,
  flags: number,
  pasid: number,
  asid: number,
): number {
  into.fill(0);
  into[0] = INVALIDATE;
  into[1] = granularity | (type << 16);
  into[2] = flags;
  into[3] = domain;
  into[4] = pasid;
  into[5] = asid;
  return 56;
}

/** The rest of the {@link PROBE_BYTES} is reserved, and 0. */
export function probeWords(endpoint: number): readonly number[] {
  return [PROBE, endpoint];
}
