// Runs in a browser.
/** Stream table entries: their fields and their validity (IHI 0070 §5.2; reference 6.2). */
import { type Granule, lpae, stage2StartIsLegal, TranslationStage } from "../../pagetable/index.ts";
import { addressSize, type Features, outputFormat, rootAlignment, supportsGranule } from "./features.ts";
import { addressField, hex } from "./fetch.ts";

export const STE_WORDS = 16;

/** STE.S1DSS: what becomes of transactions without a SubstreamID when there are substreams. */
export const S1DSS_TERMINATE = 0;
export const S1DSS_BYPASS = 1;
export const S1DSS_SUBSTREAM0 = 2;

/** STE.S1Fmt: how the CD table is laid out. */
export const CD_TABLE_LINEAR = 0;
/** Second level of 4 KiB (64 CDs), or of 64 KiB (1024 CDs). */
export const CD_TABLE_4K = 1;
export const CD_TABLE_64K = 2;

/** The translation regime of stage 1 (StreamWorld, §3.2.2.5). */
export const REGIME_EL1 = 0;
export const REGIME_EL2 = 1;
export const REGIME_EL2_E2H = 2;

/** Stage 2 as an STE sets it up. */
export interface Stage2Configuration {
  readonly stage: TranslationStage;
  /** S2S, S2R: stall or record faults. */
  readonly stalls: boolean;
  readonly records: boolean;
  /** S2PTW: stage 1 tables and CDs may not be in Device memory. */
  readonly protectedTableWalk: boolean;
  readonly forceWriteBack: boolean;
}

/** A decoded STE. Immutable; cached by StreamID. */
export class StreamTableEntry {
  readonly streamId: number;
  /** Physical address, for people. */
  readonly address: number;
  /** What makes it ILLEGAL (C_BAD_STE), in words. */
  readonly illegal: string | undefined = undefined;
  readonly abort: boolean;
  readonly stage1: boolean;
  readonly stage2: Stage2Configuration | undefined = undefined;
  readonly contextPointer: number;
  readonly contextFormat: number;
  /** S1CDMax: log2 of the number of CDs. */
  readonly contextBits: number;
  readonly defaultSubstream: number;
  /** S1STALLD: no CD of this stream may ask for stalls. */
  readonly stallsForbidden: boolean;
  readonly regime: number;
  readonly vmid: number;
  /** EATS: 1 full ATS, 2 split stage ATS, 0 none; what is reserved counts as none. */
  readonly eats: number;
  /** PPAR: automatic answers to page requests carry their PASID. */
  readonly responsesHavePasid: boolean;

  constructor(streamId: number, address: number, w: Uint32Array, features: Features, el2Host: boolean) {
    this.streamId = streamId;
    this.address = address;
    const configuration = (w[0] >>> 1) & 7;
    const format = (w[0] >>> 4) & 3;
    const substream = w[2] & 3;
    this.abort = configuration < 4;
    this.stage1 = !this.abort && (configuration & 1) !== 0;
    this.contextFormat = format === 3 ? CD_TABLE_LINEAR : format;
    this.contextPointer = addressField(w[0], w[1], 6);
    this.contextBits = w[1] >>> 27;
    this.defaultSubstream = substream === 3 ? S1DSS_TERMINATE : substream;
    this.stallsForbidden = features.stallModel === 0 && ((w[2] >>> 27) & 1) === 1;
    this.vmid = features.stage2 ? w[4] & 0xffff : 0;
    const eats = (w[2] >>> 28) & 3;
    this.eats = features.ats && eats !== 3 ? eats : 0;
    this.responsesHavePasid = ((w[2] >>> 18) & 1) === 1;
    const streamWorld = w[2] >>> 30;
    const withStage2 = !this.abort && (configuration & 2) !== 0;
    const hypervisor = usesStreamWorld(features, withStage2) && streamWorld === 2;
    this.regime = hypervisor ? (el2Host ? REGIME_EL2_E2H : REGIME_EL2) : REGIME_EL1;

    if ((w[0] & 1) === 0) this.illegal = "V (bit 0) is 0";
    else if (!this.abort) {
      this.illegal =
        (this.stage1 ? illegalStage1(this, streamWorld, w, features, withStage2) : undefined) ??
        (withStage2 ? illegalStage2(w, features) : undefined) ??
        (configuration === 4 ? undefined : (illegalVmid(this, features) ?? illegalAts(w, features, configuration)));
    }
    if (this.illegal === undefined && withStage2) this.stage2 = decodeStage2(w, features);
  }

  /** For people: `"STE at 0x40000200"`. */
  get label(): string {
    return `STE at ${hex(this.address)}`;
  }
}

/** Whether STRW says what regime stage 1 is of; elsewhere it is IGNORED (§5.2.2 IgnoreSTESTRW). */
function usesStreamWorld(features: Features, withStage2: boolean): boolean {
  return features.hypervisor && !withStage2;
}

/** §5.2.2: fields of stage 1. */
function illegalStage1(
  ste: StreamTableEntry,
  streamWorld: number,
  w: Uint32Array,
  features: Features,
  withStage2: boolean,
): string | undefined {
  if (!features.stage1) return "Config (bits 3:1) asks for stage 1, which IDR0.S1P lacks";
  const { contextBits, contextFormat } = ste;
  if (contextBits > features.substreamIdBits) {
    return `S1CDMax (bits 63:59) is ${contextBits}, more than the ${features.substreamIdBits} bits of IDR1.SSIDSIZE`;
  }
  if (contextBits > 0 && contextFormat !== CD_TABLE_LINEAR && !features.twoLevelContextTable) {
    return "S1Fmt (bits 5:4) asks for two levels, which IDR0.CD2L lacks";
  }
  // Under stage 2 it is an intermediate address, and stage 2 says what is wrong with it (§3.4.3).
  if (!withStage2 && ste.contextPointer >= 2 ** features.outputBits) {
    return `S1ContextPtr (bits 55:6) is beyond the ${features.outputBits} bits of IDR5.OAS`;
  }
  if (usesStreamWorld(features, withStage2) && (streamWorld & 1) === 1) return "STRW (bits 95:94) is reserved";
  const stallDisable = (w[2] >>> 27) & 1;
  if (stallDisable === 1 && features.stallModel !== 0) {
    return `S1STALLD (bit 91) is 1, but IDR0.STALL_MODEL is ${features.stallModel}`;
  }
  return undefined;
}

/** §5.2.2: the VMID tags what regime EL1 translates, at whatever stage. */
function illegalVmid({ vmid, regime }: StreamTableEntry, features: Features): string | undefined {
  if (regime !== REGIME_EL1 || features.vmid16 || vmid < 256) return undefined;
  return `S2VMID (bits 143:128) is ${hex(vmid)}, more than 8 bits`;
}

/** EATS is IGNORED without ATS (§5.2). A stall at stage 2 cannot be told to a device that translates ahead. */
function illegalAts(w: Uint32Array, features: Features, configuration: number): string | undefined {
  const eats = (w[2] >>> 28) & 3;
  if (!features.ats || eats === 0 || eats === 3) return undefined;
  const stallsAtStage2 = (configuration & 2) !== 0 && ((w[5] >>> 25) & 1) === 1;
  if (stallsAtStage2) return "EATS (bits 93:92) enables ATS, and S2S (bit 185) is 1";
  if (eats === 1) return undefined;
  if (configuration !== 7) return "EATS (bits 93:92) is split stage ATS, without both stages";
  return features.splitStageAts ? undefined : "EATS (bits 93:92) is split stage ATS, and IDR0.NS1ATS is 1";
}

const STAGE2_GRANULE_LOG2 = [12, 16, 14];

function stage2Fields(w: Uint32Array): { inputBits: number; granuleLog2: number | undefined; startLevel: number } {
  const granuleLog2: number | undefined = STAGE2_GRANULE_LOG2[(w[5] >>> 14) & 3];
  const sl0 = (w[5] >>> 6) & 3;
  return { inputBits: 64 - (w[5] & 0x3f), granuleLog2, startLevel: (granuleLog2 === 12 ? 2 : 3) - sl0 };
}

function stage2OutputBits(w: Uint32Array, features: Features): number {
  return addressSize((w[5] >>> 16) & 7, features.outputBits);
}

/** §5.2.2: fields of stage 2; the start level also DDI 0487 D8.2.2. */
function illegalStage2(w: Uint32Array, features: Features): string | undefined {
  if (!features.stage2) return "Config (bits 3:1) asks for stage 2, which IDR0.S2P lacks";
  const high = w[5];
  if (((high >>> 19) & 1) === 0) return "S2AA64 (bit 179) is 0: AArch32 tables, which IDR0.TTF lacks";
  const { inputBits, granuleLog2, startLevel } = stage2Fields(w);
  if (granuleLog2 === undefined) return "S2TG (bits 175:174) is reserved";
  if (!supportsGranule(features, granuleLog2))
    return `S2TG (bits 175:174): IDR5 lacks the granule of ${2 ** granuleLog2}`;
  const t0sz = 64 - inputBits;
  // Only tables of the 64 KiB granule have room for more than 48 bits, in and out.
  const mostBits = granuleLog2 === 16 ? 52 : 48;
  if (inputBits > Math.min(features.outputBits, mostBits)) {
    return `S2T0SZ (bits 165:160) is ${t0sz}: ${inputBits} bits of input, more than the ${features.outputBits} of IDR5.OAS or the ${mostBits} of its granule`;
  }
  if (t0sz > 39) return `S2T0SZ (bits 165:160) is ${t0sz}, more than 39`;
  const sl0 = (high >>> 6) & 3;
  if (sl0 === 3) return "S2SL0 (bits 167:166) is reserved";
  // What a start level high up asks of the physical address size.
  const needed = sl0 < 2 ? 0 : granuleLog2 === 14 ? 42 : 44;
  if (features.outputBits < needed) return `S2SL0 (bits 167:166) is 2, which needs ${needed} bits of IDR5.OAS`;
  if (!stage2StartIsLegal((2 ** granuleLog2) as Granule, inputBits, startLevel)) {
    return `S2SL0 (bits 167:166) begins at level ${startLevel}, which does not fit ${inputBits} bits of input (S2T0SZ)`;
  }
  if (((high >>> 20) & 1) === 1 && features.tableEndianness === 2)
    return "S2ENDI (bit 180): IDR0.TTENDIAN is little endian only";
  const hd = (high >>> 23) & 1;
  const ha = (high >>> 24) & 1;
  if ((ha === 1 && features.httu < 1) || (hd === 1 && features.httu < 2)) {
    return `S2H${ha === 1 ? "A (bit 184)" : "D (bit 183)"} is 1, but IDR0.HTTU is ${features.httu}`;
  }
  const stalls = (high >>> 25) & 1;
  if (stalls === 1 && features.stallModel === 1) return "S2S (bit 185) is 1, but IDR0.STALL_MODEL has no stalls";
  if (stalls === 0 && features.stallModel === 2) return "S2S (bit 185) is 0, but IDR0.STALL_MODEL forces stalls";
  const outputBits = Math.min(stage2OutputBits(w, features), mostBits);
  return addressField(w[6], w[7], 4) >= 2 ** outputBits
    ? `S2TTB (bits 243:196) is beyond the ${outputBits} bits of S2PS`
    : undefined;
}

function decodeStage2(w: Uint32Array, features: Features): Stage2Configuration {
  const { inputBits, granuleLog2, startLevel } = stage2Fields(w);
  const high = w[5];
  const outputBits = stage2OutputBits(w, features);
  const setAccessFlag = ((high >>> 24) & 1) === 1;
  return {
    stage: new TranslationStage({
      format: lpae({ stage: 2, inputBits, startLevel, ...outputFormat(features, granuleLog2!, outputBits) }),
      root: addressField(w[6], w[7], rootAlignment(outputBits)),
      accessFlagFaults: ((high >>> 21) & 1) === 0,
      setAccessFlag,
      // S2HD without S2HA is as neither.
      setDirty: setAccessFlag && ((high >>> 23) & 1) === 1,
    }),
    stalls: ((high >>> 25) & 1) === 1,
    records: ((high >>> 26) & 1) === 1,
    protectedTableWalk: ((high >>> 22) & 1) === 1,
    forceWriteBack: features.stage2ForceWriteBack && ((w[2] >>> 25) & 1) === 1,
  };
}
