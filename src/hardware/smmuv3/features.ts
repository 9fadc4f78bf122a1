// Runs in a browser.
import type { Granule } from "../../pagetable/index.ts";

/** The identification registers as they are read (IHI 0070 §6.3.1 to 6.3.8), and GBPA after reset. */
export interface IdRegisters {
  readonly idr0: number;
  readonly idr1: number;
  readonly idr2: number;
  readonly idr3: number;
  readonly idr4: number;
  readonly idr5: number;
  readonly iidr: number;
  readonly aidr: number;
  readonly gbpa: number;
}

/** What the identification registers say, decoded once. */
export interface Features {
  readonly stage1: boolean;
  readonly stage2: boolean;
  readonly twoLevelStreamTable: boolean;
  readonly twoLevelContextTable: boolean;
  readonly hypervisor: boolean;
  readonly ats: boolean;
  /** Translation requests may be answered with intermediate addresses (STE.EATS 2). */
  readonly splitStageAts: boolean;
  readonly pri: boolean;
  /** Automatic answers to page requests carry the PASID of the request, whatever STE.PPAR says. */
  readonly responsesHavePasid: boolean;
  readonly msi: boolean;
  readonly asid16: boolean;
  readonly vmid16: boolean;
  /** Hardware update of access flag (1) and dirty state (2). */
  readonly httu: number;
  /** 0: stalling and terminating, 1: terminating only, 2: stalling only. */
  readonly stallModel: number;
  /** True: a terminated transaction is always aborted, never read as zero and ignored on writes. */
  readonly abortsOnly: boolean;
  /** 0: both, 2: little endian only, 3: big endian only. */
  readonly tableEndianness: number;
  readonly streamIdBits: number;
  readonly substreamIdBits: number;
  readonly commandQueueLog2: number;
  readonly eventQueueLog2: number;
  readonly pageRequestQueueLog2: number;
  readonly hierarchicalAttributeDisable: boolean;
  readonly stage2ForceWriteBack: boolean;
  readonly rangeInvalidation: boolean;
  /** TLB maintenance that CPUs broadcast reaches the SMMU (BTM). */
  readonly broadcastTlb: boolean;
  /** Bits of an output (physical) address. */
  readonly outputBits: number;
  readonly granule4K: boolean;
  readonly granule16K: boolean;
  readonly granule64K: boolean;
  /** Bits of a stage 1 input address: 48, or 52 with the 64 KiB granule. */
  readonly largeVirtualAddresses: boolean;
  /** Transactions that may be stalled at a time. */
  readonly maximumStalls: number;
}

/** Address sizes of IDR5.OAS, CD.IPS and STE.S2PS, in bits; 7 is reserved (§6.3.6). */
const ADDRESS_SIZES = [32, 36, 40, 42, 44, 48, 52];

/** Decodes an address size field. Values that are reserved, or larger than `limit`, count as `limit` (§5.2, §5.4). */
export function addressSize(field: number, limit: number): number {
  return Math.min(ADDRESS_SIZES[field] ?? limit, limit);
}

/** Whether a granule, as log2 of its bytes, is implemented (§6.3.6). */
export function supportsGranule(features: Features, granuleLog2: number): boolean {
  if (granuleLog2 === 12) return features.granule4K;
  return granuleLog2 === 14 ? features.granule16K : features.granule64K;
}

/** The granule and output size of a table format; only the 64 KiB granule has entries with room for 52 bits (§3.4). */
export function outputFormat(
  features: Features,
  granuleLog2: number,
  outputBits: number,
): { granule: Granule; outputBits: number; address52: boolean } {
  const address52 = features.outputBits === 52 && granuleLog2 === 16;
  const granule = (2 ** granuleLog2) as Granule;
  return { granule, outputBits: address52 ? outputBits : Math.min(outputBits, 48), address52 };
}

/** log2 of what a root table is aligned to at least: 64 bytes where addresses have 52 bits (§5.2 S2TTB, §5.4 TTB0). */
export function rootAlignment(outputBits: number): number {
  return outputBits === 52 ? 6 : 4;
}

function bit(word: number, index: number): boolean {
  return ((word >>> index) & 1) === 1;
}

function field(word: number, low: number, width: number): number {
  return (word >>> low) & ((1 << width) - 1);
}

export function decodeFeatures({ idr0, idr1, idr3, idr5 }: IdRegisters): Features {
  return {
    stage2: bit(idr0, 0),
    stage1: bit(idr0, 1),
    httu: field(idr0, 6, 2),
    hypervisor: bit(idr0, 9),
    ats: bit(idr0, 10),
    splitStageAts: !bit(idr0, 11),
    asid16: bit(idr0, 12),
    msi: bit(idr0, 13),
    pri: bit(idr0, 16),
    vmid16: bit(idr0, 18),
    twoLevelContextTable: bit(idr0, 19),
    tableEndianness: field(idr0, 21, 2),
    stallModel: field(idr0, 24, 2),
    abortsOnly: bit(idr0, 26),
    twoLevelStreamTable: field(idr0, 27, 2) === 1,
    streamIdBits: field(idr1, 0, 6),
    substreamIdBits: field(idr1, 6, 5),
    pageRequestQueueLog2: field(idr1, 11, 5),
    eventQueueLog2: field(idr1, 16, 5),
    commandQueueLog2: field(idr1, 21, 5),
    hierarchicalAttributeDisable: bit(idr3, 2),
    stage2ForceWriteBack: bit(idr3, 8),
    responsesHavePasid: bit(idr3, 3),
    rangeInvalidation: bit(idr3, 10),
    broadcastTlb: bit(idr0, 5),
    outputBits: ADDRESS_SIZES[field(idr5, 0, 3)] ?? 48,
    granule4K: bit(idr5, 4),
    granule16K: bit(idr5, 5),
    granule64K: bit(idr5, 6),
    largeVirtualAddresses: field(idr5, 10, 2) === 1,
    maximumStalls: field(idr5, 16, 16),
  };
}

/** What may be chosen about a model; the rest is always there. */
export interface FeatureChoices {
  readonly stage1?: boolean;
  readonly stage2?: boolean;
  /** 8 or 16. */
  readonly asidBits?: 8 | 16;
  readonly vmidBits?: 8 | 16;
  /** Width of a StreamID, 0 to 32. */
  readonly streamIdBits?: number;
  /** Width of a SubstreamID (PASID), 0 to 20; 0 for none. */
  readonly substreamIdBits?: number;
  readonly twoLevelStreamTable?: boolean;
  readonly twoLevelContextTable?: boolean;
  /** `"both"`: a context chooses; `"terminate"`: faults never stall; `"stall"`: they always do. */
  readonly stalls?: "both" | "terminate" | "stall";
  readonly msi?: boolean;
  /** The SMMU's own accesses are coherent with the caches of CPUs. */
  readonly coherent?: boolean;
  readonly hypervisor?: boolean;
  readonly rangeInvalidation?: boolean;
  /** The SMMU hears the TLB maintenance that CPUs broadcast (BTM); not unless asked for. */
  readonly broadcastTlb?: boolean;
  /** The SMMU keeps access flags and dirty states of leaves itself (HTTU); not unless asked for. */
  readonly dirtyTracking?: boolean;
  readonly stage2ForceWriteBack?: boolean;
  /** Address translation services: devices may translate ahead. Not unless asked for. */
  readonly ats?: boolean;
  /** Page requests of devices; with ATS only. Not unless asked for. */
  readonly pri?: boolean;
  /** Bits of a physical address: 32, 36, 40, 42, 44, 48 or 52; with 52 also of an input address (64 KiB granule alone). */
  readonly outputBits?: number;
  readonly granules?: readonly (4096 | 16384 | 65536)[];
  /** log2 of the entries of the command queue and the event queue at most, 0 to 19. */
  readonly commandQueueLog2?: number;
  readonly eventQueueLog2?: number;
  /** The same of the page request queue. */
  readonly pageRequestQueueLog2?: number;
}

function flag(condition: boolean, index: number): number {
  return condition ? 2 ** index : 0;
}

/**
 * Identification registers of a full-featured SMMUv3.2: both stages, both kinds of tables, SubstreamIDs, stalls, MSIs,
 * range invalidation, and ATS and PRI if asked for; without MPAM and VATOS.
 */
export function smmuFeatures(choices: FeatureChoices = {}): IdRegisters {
  const stalls = choices.stalls ?? "both";
  const substreamIdBits = choices.substreamIdBits ?? 20;
  const granules = choices.granules ?? [4096, 16384, 65536];
  const ats = choices.ats ?? false;
  const pri = ats && (choices.pri ?? false);
  const idr0 =
    flag(choices.stage2 ?? true, 0) +
    flag(choices.stage1 ?? true, 1) +
    flag(true, 3) + // AArch64 tables
    flag(choices.coherent ?? true, 4) +
    flag(choices.broadcastTlb ?? false, 5) +
    flag(choices.dirtyTracking ?? false, 7) +
    flag(choices.hypervisor ?? true, 9) +
    flag(ats, 10) +
    flag((choices.asidBits ?? 16) === 16, 12) +
    flag(choices.msi ?? true, 13) +
    flag(pri, 16) +
    flag((choices.vmidBits ?? 16) === 16, 18) +
    flag((choices.twoLevelContextTable ?? true) && substreamIdBits > 0, 19) +
    flag(true, 22) + // little endian
    (stalls === "both" ? 0 : flag(stalls === "terminate", 24) + flag(stalls === "stall", 25)) +
    flag(choices.twoLevelStreamTable ?? true, 27);
  const idr1 =
    (choices.streamIdBits ?? 16) +
    substreamIdBits * 2 ** 6 +
    (pri ? (choices.pageRequestQueueLog2 ?? 19) * 2 ** 11 : 0) +
    (choices.eventQueueLog2 ?? 19) * 2 ** 16 +
    (choices.commandQueueLog2 ?? 19) * 2 ** 21;
  const idr3 =
    flag(true, 2) + // hierarchical attributes can be disabled
    flag(pri, 3) + // automatic answers to page requests carry the PASID
    flag(true, 4) + // stage 2 execute-never for EL0 and EL1
    flag(choices.stage2ForceWriteBack ?? true, 8) +
    flag(choices.rangeInvalidation ?? true, 10) +
    2 * 2 ** 11; // block-to-table changes, level 2
  const idr5 =
    ADDRESS_SIZES.indexOf(choices.outputBits ?? 48) +
    flag(granules.includes(4096), 4) +
    flag(granules.includes(16384), 5) +
    flag(granules.includes(65536), 6) +
    flag(choices.outputBits === 52, 10) +
    (stalls === "terminate" ? 0 : 256) * 2 ** 16;
  return { idr0, idr1, idr2: 0, idr3, idr4: 0, idr5, iidr: 0, aidr: 2, gbpa: 0x1000 };
}
