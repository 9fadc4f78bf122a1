// Runs in a browser.
/** Event records, 32 bytes, as data and in words (Arm IHI 0070 section 7.3; reference 6.5). */

/** What an event record says. Addresses are bigint, since all 64 bits of an input address may be set. */
export interface EventRecord {
  /** Name of the SMMU that wrote it. */
  readonly instance: string;
  /** The record as the hardware wrote it: eight 32-bit words. */
  readonly words: Uint32Array;
  readonly id: number;
  /** `"F_TRANSLATION"`. */
  readonly name: string;
  readonly streamId: number;
  /** What the stream's STE, CDs and tables say does not allow the access; all else is the SMMU's own trouble. */
  readonly isStreamFault: boolean;
  readonly substreamId: number | undefined;
  /** Set if the transaction waits for an answer under this tag. */
  readonly stallTag: number | undefined;
  readonly write: boolean;
  readonly instruction: boolean;
  readonly privileged: boolean;
  /** The fault is of stage 2. */
  readonly stage2: boolean;
  /** What was accessed when it faulted: a CD, a translation table, the input address itself. */
  readonly class: "CD" | "TT" | "IN" | undefined;
  readonly address: bigint;
  readonly intermediate: bigint;
}

interface EventDescription {
  readonly name: string;
  readonly meaning: string;
  /** The record says how the access was and where it went. */
  readonly isTranslationFault?: boolean;
}

const descriptions: ReadonlyMap<number, EventDescription> = new Map<number, EventDescription>([
  [0x01, { name: "F_UUT", meaning: "a transaction of a kind that the SMMU does not support" }],
  [0x02, { name: "C_BAD_STREAMID", meaning: "the stream table has no place for this stream id" }],
  [0x03, { name: "F_STE_FETCH", meaning: "the stream table entry could not be read" }],
  [0x04, { name: "C_BAD_STE", meaning: "the stream table entry is invalid" }],
  [0x05, { name: "F_BAD_ATS_TREQ", meaning: "an ATS translation request where ATS is not allowed" }],
  [0x06, { name: "F_STREAM_DISABLED", meaning: "traffic without a PASID, which the stream table entry terminates" }],
  [0x07, { name: "F_TRANSL_FORBIDDEN", meaning: "translated traffic where ATS is not allowed" }],
  [0x08, { name: "C_BAD_SUBSTREAMID", meaning: "no context descriptor for this PASID" }],
  [0x09, { name: "F_CD_FETCH", meaning: "the context descriptor could not be read" }],
  [0x0a, { name: "C_BAD_CD", meaning: "the context descriptor is invalid" }],
  [0x0b, { name: "F_WALK_EABT", meaning: "a translation table could not be read" }],
  [0x10, { name: "F_TRANSLATION", meaning: "nothing is mapped there", isTranslationFault: true }],
  [0x11, { name: "F_ADDR_SIZE", meaning: "an address in the tables is too large", isTranslationFault: true }],
  [0x12, { name: "F_ACCESS", meaning: "the access flag is not set", isTranslationFault: true }],
  [0x13, { name: "F_PERMISSION", meaning: "the mapping does not allow it", isTranslationFault: true }],
  [0x20, { name: "F_TLB_CONFLICT", meaning: "two TLB entries for one address" }],
  [0x21, { name: "F_CFG_CONFLICT", meaning: "two cached configurations for one stream" }],
  [0x24, { name: "E_PAGE_REQUEST", meaning: "a page is likely to be needed" }],
  [0x25, { name: "F_VMS_FETCH", meaning: "the VM structure could not be read" }],
]);

/** C_BAD_STE, F_STREAM_DISABLED, C_BAD_SUBSTREAMID, C_BAD_CD, and the translation faults. */
const streamFaults: ReadonlySet<number> = new Set([0x04, 0x06, 0x08, 0x0a, 0x10, 0x11, 0x12, 0x13]);

export function decodeEvent(instance: string, words: Uint32Array): EventRecord {
  const id = words[0] & 0xff;
  const bit = (word: number, position: number): boolean => ((words[word] >>> position) & 1) === 1;
  const address = (low: number): bigint => BigInt(words[low + 1]) * 2n ** 32n + BigInt(words[low]);
  return {
    instance,
    words,
    id,
    name: descriptions.get(id)?.name ?? `event 0x${id.toString(16)}`,
    streamId: words[1],
    isStreamFault: streamFaults.has(id),
    substreamId: bit(0, 11) ? words[0] >>> 12 : undefined,
    stallTag: bit(2, 31) ? words[2] & 0xffff : undefined,
    privileged: bit(3, 1),
    instruction: bit(3, 2),
    write: !bit(3, 3),
    stage2: bit(3, 7),
    class: (["CD", "TT", "IN"] as const)[(words[3] >>> 8) & 3],
    address: address(4),
    intermediate: address(6) - BigInt(words[6] & 0xfff),
  };
}

/** One sentence for people. `device` is the device's name, if a device has the stream id. */
export function explainEvent(event: EventRecord, device: string | undefined): string {
  const description = descriptions.get(event.id);
  const who = device ?? `unknown stream 0x${event.streamId.toString(16)}`;
  const pasid = event.substreamId === undefined ? "" : ` with PASID ${event.substreamId}`;
  const meaning = description?.meaning ?? `words ${[...event.words].map((word) => hex(word)).join(" ")}`;
  if (description?.isTranslationFault !== true) return `${event.instance}: ${event.name} of ${who}${pasid}: ${meaning}`;
  const access = `${event.privileged ? "privileged " : ""}${event.instruction ? "instruction " : ""}${event.write ? "write" : "read"}`;
  const stage = event.stage2 ? "stage 2" : "stage 1";
  const during = event.class === "TT" ? ", on reading a table" : event.class === "CD" ? ", on reading the CD" : "";
  const stalled = event.stallTag === undefined ? "" : ", stalled";
  const where = event.stage2 ? ` (IPA ${hex(event.intermediate)})` : "";
  return `${event.instance}: ${event.name} of ${who}${pasid}: ${access} at ${hex(event.address)}${where}: ${meaning} (${stage}${during}${stalled})`;
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}
