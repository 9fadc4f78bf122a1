// Runs in a browser.
/** Context descriptors: their fields and their validity (IHI 0070 §5.4; reference 6.3). */
import { lpae, TranslationStage } from "../../pagetable/index.ts";
import { addressSize, type Features, outputFormat, rootAlignment, supportsGranule } from "./features.ts";
import { addressField, hex } from "./fetch.ts";
import { REGIME_EL1, REGIME_EL2, type StreamTableEntry } from "./ste.ts";

export const CD_WORDS = 16;

const GRANULE_LOG2_OF_TG0 = [12, 16, 14];
const GRANULE_LOG2_OF_TG1 = [undefined, 14, 12, 16];
/** TxSZ without small translation tables: 25 to 48 bits of input; 52 with the 64 KiB granule and IDR5.VAX. */
const SMALLEST_INPUT_BITS = 25;

/** One half of the input range, by its sign (DDI 0487 D8.1.2). */
export interface Half {
  readonly stage: TranslationStage;
  /** Top byte ignored (TBI). */
  readonly topByteIgnored: boolean;
}

/** A decoded CD. Immutable; cached by StreamID and SubstreamID. */
export class ContextDescriptor {
  /** As the walk that fetched it knew it: an IPA if stage 2 is below. For people. */
  readonly address: number;
  /** What makes it ILLEGAL (C_BAD_CD), in words. */
  readonly illegal: string | undefined;
  readonly asid: number;
  /** ASET: the ASID is not one of the CPUs'. */
  readonly privateAsid: boolean;
  /** The lower half (TTB0) and the upper half (TTB1); undefined if disabled (EPD0, EPD1). */
  readonly lower: Half | undefined = undefined;
  readonly upper: Half | undefined = undefined;
  /** TBI of both halves, also of disabled ones: bit 0 lower, bit 1 upper. */
  readonly topByteIgnored: number;
  /** S, R, A: stall, record, and abort (or read as zero) faults of stage 1 (§5.5). */
  readonly stalls: boolean;
  readonly records: boolean;
  readonly aborts: boolean;

  constructor(address: number, w: Uint32Array, ste: StreamTableEntry, features: Features) {
    this.address = address;
    this.asid = w[1] >>> 16;
    this.privateAsid = ((w[1] >>> 15) & 1) === 1;
    this.topByteIgnored = (w[1] >>> 6) & 3;
    this.stalls = ((w[1] >>> 12) & 1) === 1;
    this.records = ((w[1] >>> 13) & 1) === 1;
    this.aborts = ((w[1] >>> 14) & 1) === 1;
    this.illegal = illegalDescriptor(w, ste, features);
    if (this.illegal !== undefined) return;
    this.lower = decodeHalf(w, false, ste.regime, features);
    this.upper = decodeHalf(w, true, ste.regime, features);
  }

  /** For people: `"CD at 0x40001000"`. */
  get label(): string {
    return `CD at ${hex(this.address)}`;
  }
}

interface HalfFields {
  readonly disabled: boolean;
  readonly inputBits: number;
  readonly granuleLog2: number | undefined;
  readonly root: number;
}

/** EL2 has one half, which cannot be disabled (§5.4, EPD0). */
function halfFields(w: Uint32Array, upper: boolean, regime: number): HalfFields {
  const low = upper ? w[0] >>> 16 : w[0];
  const tg = (low >>> 6) & 3;
  return {
    disabled: regime === REGIME_EL2 ? upper : ((low >>> 14) & 1) === 1,
    inputBits: 64 - (low & 0x3f),
    granuleLog2: upper ? GRANULE_LOG2_OF_TG1[tg] : GRANULE_LOG2_OF_TG0[tg],
    root: upper ? addressField(w[4], w[5], 4) : addressField(w[2], w[3], 4),
  };
}

function outputBits(w: Uint32Array, features: Features): number {
  return addressSize(w[1] & 7, features.outputBits);
}

/** §5.4.2: the checks that make a CD ILLEGAL. */
function illegalDescriptor(w: Uint32Array, ste: StreamTableEntry, features: Features): string | undefined {
  const high = w[1];
  if (w[0] >>> 31 === 0) return "V (bit 31) is 0";
  if (((high >>> 9) & 1) === 0) return "AA64 (bit 41) is 0: AArch32 tables, which IDR0.TTF lacks";
  const isUsed = !halfFields(w, false, ste.regime).disabled || !halfFields(w, true, ste.regime).disabled;
  if (isUsed && ((w[0] >>> 15) & 1) === 1 && features.tableEndianness === 2)
    return "ENDI (bit 15): IDR0.TTENDIAN is little endian only";
  const hd = (high >>> 10) & 1;
  const ha = (high >>> 11) & 1;
  if (ha === 1 && features.httu < 1) return `HA (bit 43) is 1, but IDR0.HTTU is ${features.httu}`;
  if (hd === 1 && features.httu < 2) return `HD (bit 42) is 1, but IDR0.HTTU is ${features.httu}`;
  const stalls = (high >>> 12) & 1;
  if (stalls === 1 && features.stallModel === 1) return "S (bit 44) is 1, but IDR0.STALL_MODEL has no stalls";
  if (stalls === 1 && ste.stallsForbidden) return "S (bit 44) is 1, but STE.S1STALLD forbids stalls";
  if (stalls === 0 && features.stallModel === 2) return "S (bit 44) is 0, but IDR0.STALL_MODEL forces stalls";
  if (((high >>> 14) & 1) === 0 && features.abortsOnly) return "A (bit 46) is 0, but IDR0.TERM_MODEL only aborts";
  if (hasAsid(ste.regime) && !features.asid16 && high >>> 24 !== 0)
    return `ASID (bits 63:48) is ${hex(high >>> 16)}, more than 8 bits`;
  return illegalHalf(w, false, ste.regime, features) ?? illegalHalf(w, true, ste.regime, features);
}

function illegalHalf(w: Uint32Array, upper: boolean, regime: number, features: Features): string | undefined {
  const { disabled, inputBits, granuleLog2, root } = halfFields(w, upper, regime);
  if (disabled) return undefined;
  const half = upper ? 1 : 0;
  const granuleBits = upper ? "bits 23:22" : "bits 7:6";
  if (granuleLog2 === undefined) return `TG${half} (${granuleBits}) is reserved`;
  if (!supportsGranule(features, granuleLog2))
    return `TG${half} (${granuleBits}): IDR5 lacks the granule of ${2 ** granuleLog2}`;
  const mostBits = granuleLog2 === 16 && features.largeVirtualAddresses ? 52 : 48;
  if (inputBits < SMALLEST_INPUT_BITS || inputBits > mostBits) {
    return `T${half}SZ (${upper ? "bits 21:16" : "bits 5:0"}) is ${64 - inputBits}, outside ${64 - mostBits} … 39`;
  }
  // Only tables of the 64 KiB granule have room for more than 48 bits.
  const bits = Math.min(outputBits(w, features), granuleLog2 === 16 ? 52 : 48);
  return root >= 2 ** bits ? `TTB${half} ${hex(root)} is beyond the ${bits} bits of IPS (bits 34:32)` : undefined;
}

function decodeHalf(w: Uint32Array, upper: boolean, regime: number, features: Features): Half | undefined {
  const { disabled, inputBits, granuleLog2, root } = halfFields(w, upper, regime);
  if (disabled) return undefined;
  const high = w[1];
  const setAccessFlag = ((high >>> 11) & 1) === 1;
  const attributesDisabled = features.hierarchicalAttributeDisable && (((upper ? w[4] : w[2]) >>> 1) & 1) === 1;
  return {
    stage: new TranslationStage({
      format: lpae({ stage: 1, inputBits, ...outputFormat(features, granuleLog2!, outputBits(w, features)) }),
      root: root - (root % 2 ** rootAlignment(outputBits(w, features))),
      accessFlagFaults: ((high >>> 3) & 1) === 0,
      setAccessFlag,
      // HD without HA is as neither.
      setDirty: setAccessFlag && ((high >>> 10) & 1) === 1,
      hierarchicalPermissions: !attributesDisabled,
      writeImpliesNoExecute: ((high >>> 4) & 1) === 1,
      privilegedAccessNever: ((high >>> 8) & 1) === 1,
      onePrivilege: regime === REGIME_EL2,
    }),
    topByteIgnored: ((high >>> (upper ? 7 : 6)) & 1) === 1,
  };
}

/** Whether translations of this regime carry an ASID (§3.17). */
export function hasAsid(regime: number): boolean {
  return regime !== REGIME_EL2;
}

/** Whether translations of this regime carry a VMID (§3.17). */
export function hasVmid(regime: number): boolean {
  return regime === REGIME_EL1;
}
