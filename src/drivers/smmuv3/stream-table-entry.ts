// Runs in a browser.
/** The stream table entries that the driver makes (Arm IHI 0070 section 5.2; reference 6.2). */
import type { LpaeFormat } from "../../pagetable/index.ts";
import {
  addressSizeField,
  type Entry,
  granuleField,
  INNER_SHAREABLE,
  newEntry,
  WRITE_BACK,
} from "../../pasidtable/index.ts";
import type { Features } from "./features.ts";

/** In word 0: V, Config. */
export const STE_VALID = 1;
export const STE_CONFIG = 0xe;
export const CONFIG_ABORT = 0;
export const CONFIG_BYPASS = 4;
export const CONFIG_STAGE1 = 5;
const CONFIG_STAGE2 = 6;
const CONFIG_NESTED = 7;

/** S1Fmt: how the context descriptors are laid out. */
const S1FMT_LINEAR = 0;
const S1FMT_64K_LEAVES = 2;

/** What happens to traffic without a substream id where there are context descriptors: S1DSS. */
export const S1DSS_TERMINATE = 0;
export const S1DSS_BYPASS = 1;
export const S1DSS_SUBSTREAM_0 = 2;

/** SHCFG: shareability as the transaction says. */
const SHCFG_INCOMING = 1;

const S1STALLD = 2 ** 27;
const STRW_NS_EL1 = 0;
/** In word 1: EATS. */
export const STE_EATS = 0x3000_0000;
/** Equal events may be merged: a guest cannot flood the event queue. */
const MEV = 2 ** 19;
const S2FWB = 2 ** 25;
/** In the upper half of word 2. */
const S2AA64 = 1 << 19;
const S2PTW = 1 << 22;
const S2S = 1 << 25;
const S2R = 1 << 26;

/** Every transaction is aborted, without an event. */
export function abortEntry(): Entry {
  const entry = newEntry();
  entry[0] = STE_VALID | (CONFIG_ABORT << 1);
  return entry;
}

/** Addresses pass as they are. */
export function bypassEntry(features: Features): Entry {
  const entry = newEntry();
  entry[0] = STE_VALID | (CONFIG_BYPASS << 1);
  entry[3] = shareability(features);
  return entry;
}

/** Stage 1, by the context descriptors of the stream's own table. */
export function contextTableEntry(
  features: Features,
  table: { readonly address: number; readonly log2Entries: number; readonly isTwoLevel: boolean },
  options: { readonly s1dss: number; readonly canStall: boolean },
): Entry {
  const entry = newEntry();
  const format = table.isTwoLevel ? S1FMT_64K_LEAVES : S1FMT_LINEAR;
  entry[0] = STE_VALID | (CONFIG_STAGE1 << 1) | (format << 4) | (table.address % 2 ** 32);
  entry[1] = Math.floor(table.address / 2 ** 32) | (table.log2Entries << 27);
  entry[2] = options.s1dss | (WRITE_BACK << 2) | (WRITE_BACK << 4) | (INNER_SHAREABLE << 6) | (STRW_NS_EL1 << 30);
  if (features.stalls !== "never" && !options.canStall) entry[2] |= S1STALLD;
  if (options.s1dss === S1DSS_BYPASS) entry[3] = shareability(features);
  return entry;
}

/** What a stage 2 STE says of the table below it. */
export interface Stage2Table {
  readonly vmid: number;
  readonly root: number;
  readonly format: Pick<LpaeFormat, "granule" | "t0sz" | "sl0" | "outputBits">;
  /** A guest's stage 1 may be put above it. */
  readonly nestingParent: boolean;
}

/** Stage 2 alone. */
export function stage2Entry(features: Features, table: Stage2Table, canStall: boolean): Entry {
  const entry = newEntry();
  const { format } = table;
  entry[0] = STE_VALID | (CONFIG_STAGE2 << 1);
  entry[2] = table.nestingParent && features.forcedWriteBack ? S2FWB : 0;
  entry[3] = shareability(features);
  entry[4] = table.vmid;
  entry[5] =
    format.t0sz |
    (format.sl0 << 6) |
    (WRITE_BACK << 8) |
    (WRITE_BACK << 10) |
    (INNER_SHAREABLE << 12) |
    (granuleField(format.granule) << 14) |
    (addressSizeField(format.outputBits) << 16) |
    S2AA64 |
    S2PTW |
    S2R |
    (canStall ? S2S : 0);
  entry[6] = table.root % 2 ** 32;
  entry[7] = Math.floor(table.root / 2 ** 32);
  return entry;
}

/** A guest's stage 1, by words 0 and 1 of its own STE (four of 32 bits), above the stage 2 of `parent`. */
export function nestedEntry(parent: Entry, guest: Uint32Array): Entry {
  const entry = parent.slice();
  entry[0] = STE_VALID | (CONFIG_NESTED << 1) | (guest[0] & ~STE_CONFIG);
  entry[1] |= guest[1];
  entry[2] |= guest[2] | MEV;
  entry[3] |= guest[3];
  return entry;
}

function shareability(features: Features): number {
  return features.attributesOverride ? SHCFG_INCOMING << 12 : 0;
}
