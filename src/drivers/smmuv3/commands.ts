// Runs in a browser.
/**
 * Commands, 16 bytes as four words each (Arm IHI 0070 section 4; reference 6.4). Each function here puts one command
 * into a sink, which is the command queue, or a list in a test.
 */
export interface CommandSink {
  push(word0: number, word1: number, word2: number, word3: number): void;
}

export const PREFETCH_CONFIG = 0x01;
export const CFGI_STE = 0x03;
export const CFGI_STE_RANGE = 0x04;
export const CFGI_CD = 0x05;
export const CFGI_CD_ALL = 0x06;
export const TLBI_NH_ASID = 0x11;
export const TLBI_NH_VA = 0x12;
export const TLBI_NH_VAA = 0x13;
export const TLBI_EL2_ALL = 0x20;
export const TLBI_S12_VMALL = 0x28;
export const TLBI_S2_IPA = 0x2a;
export const TLBI_NH_ALL = 0x10;
export const TLBI_NSNH_ALL = 0x30;
export const ATC_INV = 0x40;
export const PRI_RESP = 0x41;
export const RESUME = 0x44;
export const SYNC = 0x46;

const LEAF = 1;
const SSV = 1 << 11;
const ATC_INV_ALL = 52;

export const RESUME_RETRY = 1;
export const RESUME_ABORT = 2;

export function prefetchConfig(sink: CommandSink, streamId: number): void {
  sink.push(PREFETCH_CONFIG, streamId, 0, 0);
}

/** Forgets the STE of one stream; what was above it in the table too, unless `leaf`. */
export function invalidateStreamEntry(sink: CommandSink, streamId: number, leaf: boolean): void {
  sink.push(CFGI_STE, streamId, leaf ? LEAF : 0, 0);
}

/** Forgets all STEs and CDs (CFGI_ALL). */
export function invalidateAllConfiguration(sink: CommandSink): void {
  sink.push(CFGI_STE_RANGE, 0, 31, 0);
}

/** Forgets one CD of a stream; what was above it in the table too, unless `leaf`. */
export function invalidateContext(sink: CommandSink, streamId: number, substreamId: number, leaf: boolean): void {
  sink.push((CFGI_CD | (substreamId << 12)) >>> 0, streamId, leaf ? LEAF : 0, 0);
}

export function invalidateAllHypervisor(sink: CommandSink): void {
  sink.push(TLBI_EL2_ALL, 0, 0, 0);
}

export function invalidateAllGuests(sink: CommandSink): void {
  sink.push(TLBI_NSNH_ALL, 0, 0, 0);
}

/** Everything of one ASID in VMID 0. */
export function invalidateAsid(sink: CommandSink, asid: number): void {
  sink.push(TLBI_NH_ASID, asid * 2 ** 16, 0, 0);
}

/** Everything of one VMID, of both stages. */
export function invalidateVmid(sink: CommandSink, vmid: number): void {
  sink.push(TLBI_S12_VMALL, vmid, 0, 0);
}

/** Everything that stage 1 put in under one VMID. */
export function invalidateStage1OfVmid(sink: CommandSink, vmid: number): void {
  sink.push(TLBI_NH_ALL, vmid, 0, 0);
}

/** How much one address invalidation covers; without a `range` one entry of whatever size holds the address. */
export interface InvalidationRange {
  /** TG: 1 for 4 KiB, 2 for 16 KiB, 3 for 64 KiB; 0: no range. */
  readonly granule: number;
  /** Covers (num + 1) * 2^scale granules. */
  readonly num: number;
  readonly scale: number;
  /** Level of the leaves, 0 if not said. */
  readonly level: number;
}

/** One address, or a range from it on: `tag` is an ASID for TLBI_NH_VA, a VMID for TLBI_S2_IPA. */
export function invalidateAddress(
  sink: CommandSink,
  opcode: typeof TLBI_NH_VA | typeof TLBI_S2_IPA,
  tag: number,
  address: number,
  leaf: boolean,
  range?: InvalidationRange,
): void {
  const low = address & -4096;
  const hints = range === undefined ? 0 : (range.level << 8) | (range.granule << 10);
  sink.push(
    range === undefined ? opcode : opcode | (range.num << 12) | (range.scale << 20),
    opcode === TLBI_NH_VA ? tag * 2 ** 16 : tag,
    (low | (leaf ? LEAF : 0) | hints) >>> 0,
    Math.floor(address / 2 ** 32),
  );
}

/** Lets a device forget what it translated ahead, of one PASID or of traffic without; of everything, unless `span`. */
export function invalidateDeviceCache(
  sink: CommandSink,
  streamId: number,
  pasid: number | undefined,
  span?: { readonly start: number; readonly size: number },
): void {
  const substream = pasid === undefined ? 0 : SSV | (pasid << 12);
  const { address, log2Pages } = span === undefined ? { address: 0, log2Pages: ATC_INV_ALL } : alignedSpan(span);
  const low = (address % 2 ** 32) + log2Pages;
  sink.push((ATC_INV | substream) >>> 0, streamId, low, Math.floor(address / 2 ** 32));
}

/** The smallest 2^n pages, aligned to their size, that hold a range. */
function alignedSpan({ start, size }: { readonly start: number; readonly size: number }): {
  readonly address: number;
  readonly log2Pages: number;
} {
  let first = Math.floor(start / 4096);
  let last = Math.floor((start + size - 1) / 4096);
  let log2Pages = 0;
  for (; first !== last; log2Pages++) {
    first = Math.floor(first / 2);
    last = Math.floor(last / 2);
  }
  return { address: first * 2 ** log2Pages * 4096, log2Pages };
}

/** Answers a stalled transaction. */
export function resume(sink: CommandSink, streamId: number, stallTag: number, response: number): void {
  sink.push(RESUME | (response << 12), streamId, stallTag, 0);
}

/** Answers the last request of a page request group. */
export function respondToPageRequest(
  sink: CommandSink,
  streamId: number,
  substreamId: number | undefined,
  group: number,
  response: number,
): void {
  const substream = substreamId === undefined ? 0 : SSV | (substreamId << 12);
  sink.push((PRI_RESP | substream) >>> 0, streamId, group | (response << 12), 0);
}

/** The name of an operation code, for people. */
export function commandName(opcode: number): string {
  return names.get(opcode) ?? `unknown command 0x${opcode.toString(16)}`;
}

const names: ReadonlyMap<number, string> = new Map([
  [PREFETCH_CONFIG, "PREFETCH_CONFIG"],
  [CFGI_STE, "CFGI_STE"],
  [CFGI_STE_RANGE, "CFGI_STE_RANGE"],
  [CFGI_CD, "CFGI_CD"],
  [CFGI_CD_ALL, "CFGI_CD_ALL"],
  [TLBI_NH_ALL, "TLBI_NH_ALL"],
  [TLBI_NH_ASID, "TLBI_NH_ASID"],
  [TLBI_NH_VA, "TLBI_NH_VA"],
  [TLBI_EL2_ALL, "TLBI_EL2_ALL"],
  [TLBI_S12_VMALL, "TLBI_S12_VMALL"],
  [TLBI_S2_IPA, "TLBI_S2_IPA"],
  [TLBI_NSNH_ALL, "TLBI_NSNH_ALL"],
  [ATC_INV, "ATC_INV"],
  [PRI_RESP, "PRI_RESP"],
  [RESUME, "RESUME"],
  [SYNC, "SYNC"],
]);
