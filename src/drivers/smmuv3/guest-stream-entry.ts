// Runs in a browser.
/** What a guest may say of a stream in an STE of its own (reference 6.2, "Nested user STE"). */
import { EIO, refuse } from "../../runtime/index.ts";
import { CONFIG_ABORT, CONFIG_BYPASS, CONFIG_STAGE1, STE_CONFIG, STE_EATS, STE_VALID } from "./stream-table-entry.ts";

/** Words 0 and 1, each as two of 32 bits: V, Config, S1Fmt, S1ContextPtr, S1CDMax; S1DSS to S1CSH, S1STALLD, EATS. */
const ALLOWED: readonly number[] = [0xffff_ffff, 0xf80f_ffff, 0x3800_00ff, 0];

const EATS_TERMINATES = 0;
const EATS_FULL = 1;

/** A guest's STE, checked. */
export interface GuestStreamEntry {
  /** Absent V counts as abort. */
  readonly config: typeof CONFIG_ABORT | typeof CONFIG_BYPASS | typeof CONFIG_STAGE1;
  /** The guest has said something of the stream at all. */
  readonly valid: boolean;
  /** Words 0 and 1 as four of 32 bits, without EATS; 0 if not valid. */
  readonly words: Uint32Array;
  /** The guest wants ATS for what it translates. */
  readonly ats: boolean;
}

/** Refusal EIO for what a guest may not say. */
export function checkGuestStreamEntry(given: Uint32Array): GuestStreamEntry {
  if ((given[0] & STE_VALID) === 0) {
    return { config: CONFIG_ABORT, valid: false, words: new Uint32Array(4), ats: false };
  }
  for (const [index, allowed] of ALLOWED.entries()) {
    const others = (given[index] & ~allowed) >>> 0;
    if (others !== 0) {
      const bits = `0x${others.toString(16)} of the ${index % 2 === 0 ? "lower" : "upper"} half`;
      refuse(EIO, () => `word ${Math.floor(index / 2)} of the guest's STE sets bits ${bits}, which are not a guest's`);
    }
  }
  const config = (given[0] & STE_CONFIG) >>> 1;
  if (config !== CONFIG_ABORT && config !== CONFIG_BYPASS && config !== CONFIG_STAGE1) {
    return refuse(EIO, () => `Config ${config} in the guest's STE: a guest has abort (0), bypass (4) and stage 1 (5)`);
  }
  const eats = (given[2] & STE_EATS) >>> 28;
  if (eats !== EATS_TERMINATES && eats !== EATS_FULL) {
    refuse(EIO, () => `EATS ${eats} in the guest's STE: a guest has no ATS (0) or all of it (1)`);
  }
  const words = given.slice();
  words[2] &= ~STE_EATS;
  return { config, valid: true, words, ats: config === CONFIG_STAGE1 && eats === EATS_FULL };
}
