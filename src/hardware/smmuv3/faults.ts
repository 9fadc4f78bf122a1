// Runs in a browser.
/** Faults and configuration errors, as they are found: their numbers, their records, their words (IHI 0070 §7.3). */
import { hex, hex64 } from "./fetch.ts";

/** An access that the model ends without an event: a stream or the whole SMMU is set to abort. */
export const SILENT_ABORT = 0;
export const F_UUT = 0x01;
export const C_BAD_STREAMID = 0x02;
export const F_STE_FETCH = 0x03;
export const C_BAD_STE = 0x04;
export const F_BAD_ATS_TREQ = 0x05;
export const F_STREAM_DISABLED = 0x06;
export const F_TRANSL_FORBIDDEN = 0x07;
export const C_BAD_SUBSTREAMID = 0x08;
export const F_CD_FETCH = 0x09;
export const C_BAD_CD = 0x0a;
export const F_WALK_EABT = 0x0b;
export const F_TRANSLATION = 0x10;
export const F_ADDR_SIZE = 0x11;
export const F_ACCESS = 0x12;
export const F_PERMISSION = 0x13;
export const F_TLB_CONFLICT = 0x20;
export const F_CFG_CONFLICT = 0x21;
export const E_PAGE_REQUEST = 0x24;
export const F_VMS_FETCH = 0x25;

const names: ReadonlyMap<number, string> = new Map(
  Object.entries({
    F_UUT,
    C_BAD_STREAMID,
    F_STE_FETCH,
    C_BAD_STE,
    F_BAD_ATS_TREQ,
    F_STREAM_DISABLED,
    F_TRANSL_FORBIDDEN,
    C_BAD_SUBSTREAMID,
    F_CD_FETCH,
    C_BAD_CD,
    F_WALK_EABT,
    F_TRANSLATION,
    F_ADDR_SIZE,
    F_ACCESS,
    F_PERMISSION,
    F_TLB_CONFLICT,
    F_CFG_CONFLICT,
    E_PAGE_REQUEST,
    F_VMS_FETCH,
  }).map(([name, value]) => [value, name]),
);

/** `eventName(0x10)` is `"F_TRANSLATION"`. */
export function eventName(event: number): string {
  return names.get(event) ?? (event === SILENT_ABORT ? "aborted" : `event ${hex(event)}`);
}

/** What was being translated when stage 2 failed (CLASS, §7.3.13): a CD's address, a stage 1 table's, or the input. */
export const CLASS_CD = 0;
export const CLASS_TT = 1;
export const CLASS_IN = 2;

/** One access by a device, as the SMMU sees it: data, unprivileged, Non-secure. */
export interface Transaction {
  readonly streamId: number;
  /** -1: none. */
  readonly substreamId: number;
  /** The input address, all 64 bits. */
  readonly high: number;
  readonly low: number;
  readonly write: boolean;
}

/** Why a transaction cannot go on. */
export interface Fault {
  /** F_* or C_*, or {@link SILENT_ABORT}. */
  readonly event: number;
  readonly stage2?: boolean;
  /** CLASS_*; CLASS_IN unless said. */
  readonly accessClass?: number;
  /** The intermediate physical address, for a fault of stage 2. */
  readonly ipa?: number;
  /** The access that failed at stage 2 was to write a stage 1 table (HTTU). */
  readonly writesTable?: boolean;
  /** Where the fetch was aborted, for F_STE_FETCH, F_CD_FETCH and F_WALK_EABT. */
  readonly fetchAddress?: number;
  /** What exactly is wrong, in words: which structure at which address, which bit. */
  readonly why: () => string;
}

/** A fault of a translation itself: F_TRANSLATION to F_PERMISSION. These can stall, and R and S2R can hide them. */
export function isTranslationFault(event: number): boolean {
  return event >= F_TRANSLATION && event <= F_PERMISSION;
}

function hasInputAddress(event: number): boolean {
  return event >= F_WALK_EABT || event === F_UUT || event === F_TRANSL_FORBIDDEN;
}

/** Bits of the fourth word of a record. */
const READ = 1 << 3;
const STAGE2 = 1 << 7;
const CLASS_SHIFT = 8;
const TABLE_READ = 1 << 12;

/**
 * The event record, 32 bytes as eight 32-bit words (§7.3; reference 6.5). `stallTag` -1: not stalled. All that the
 * architecture leaves to the implementation (Reason, ImpDef) is 0.
 */
export function eventRecord(transaction: Transaction, fault: Fault, stallTag: number): Uint32Array {
  const { event, stage2 = false, accessClass = CLASS_IN } = fault;
  const { streamId, substreamId, write } = transaction;
  const record = new Uint32Array(8);
  record[0] = event;
  // A SubstreamID that is the trouble is always valid: there is no SSV then (§7.3.9).
  if (substreamId >= 0) record[0] |= (substreamId << 12) | (event === C_BAD_SUBSTREAMID ? 0 : 1 << 11);
  record[1] = streamId;
  if (event === F_BAD_ATS_TREQ) {
    // What was requested: R always, W, and a Span of one unit (§7.3.6).
    record[2] = (write ? 0xc0000000 : 0x80000000) | 1;
    record[4] = transaction.low & 0xfffff000;
    record[5] = transaction.high;
    return record;
  }
  if (stallTag >= 0) record[2] = 0x80000000 | stallTag;
  if (hasInputAddress(event)) {
    if (!write) record[3] = READ;
    record[4] = transaction.low;
    record[5] = transaction.high;
  }
  if (event >= F_WALK_EABT && event <= F_PERMISSION) {
    record[3] |= (stage2 ? STAGE2 : 0) | (accessClass << CLASS_SHIFT);
  }
  if (event === F_PERMISSION && stage2 && accessClass === CLASS_TT && fault.writesTable !== true) {
    record[3] |= TABLE_READ;
  }
  if (isTranslationFault(event) && stage2) {
    const ipa = fault.ipa ?? 0;
    record[6] = (ipa & 0xfffff000) >>> 0;
    record[7] = (ipa / 2 ** 32) & 0xfffff;
  }
  if (fault.fetchAddress !== undefined) {
    record[6] = (fault.fetchAddress & 0xfffffff8) >>> 0;
    record[7] = (fault.fetchAddress / 2 ** 32) & 0xfffff;
  }
  return record;
}

/** A fault told to people: what was recorded, and, made only when asked for, why. */
export interface FaultExplanation {
  readonly transaction: Transaction;
  readonly event: number;
  /** The event record as eight 32-bit words; undefined for an abort that the architecture does not record. */
  readonly record: Uint32Array | undefined;
  /** False if software does not see it: R or S2R is 0, the event queue is off or full. */
  readonly recorded: boolean;
  /** One sentence: the access, the event, the structure, the bit. */
  text(): string;
}

export function explainFault(
  transaction: Transaction,
  fault: Fault,
  record: Uint32Array | undefined,
  recorded: boolean,
): FaultExplanation {
  return {
    transaction,
    event: fault.event,
    record,
    recorded,
    text: () => {
      const { write, high, low, streamId, substreamId } = transaction;
      const substream = substreamId < 0 ? "" : `, substream ${hex(substreamId)}`;
      const access = `${write ? "write to" : "read from"} ${hex64(low, high)} by stream ${hex(streamId)}${substream}`;
      return `${access}: ${eventName(fault.event)}: ${fault.why()}`;
    },
  };
}
