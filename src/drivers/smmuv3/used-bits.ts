// Runs in a browser.
/** Which bits of an entry the hardware looks at, given the entry itself: what {@link writeEntry} stands on. */
import { type Entry, type EntryKind, newEntry } from "../../pasidtable/index.ts";
import { STE_CONFIG, STE_EATS, STE_VALID } from "./stream-table-entry.ts";

const ALL = 0xffff_ffff;

// Word 0 of an STE.
const CONFIG_HAS_STAGE1 = 1;
const CONFIG_HAS_STAGE2 = 2;
const CONFIG_TRANSLATES = 4;
const STE_S1FMT_AND_POINTER_LOW = 0xffff_fff0;
const STE_POINTER_HIGH_AND_S1CDMAX = 0xf80f_ffff;
// Word 1.
const STE_S1_FIELDS = 0xc800_00ff; // S1DSS, S1CIR, S1COR, S1CSH, S1STALLD, STRW
const STE_S1DSS = 0x3;
const S1DSS_BYPASS = 1;
const STE_MEV = 1 << 19;
const STE_S2FWB = 1 << 25;
const EATS_SPLIT = 0x2000_0000;
const STE_INCOMING_LOW = 0x0001_e000; // CONT
const STE_INCOMING_HIGH = 0x000f_f1ff; // MemAttr, MTCFG, ALLOCCFG, SHCFG, NSCFG, PRIVCFG, INSTCFG
const STE_SHCFG_HIGH = 0x0000_3000;
// Word 2.
const STE_VMID = 0xffff;
const STE_S2_FIELDS = 0x07ff_ffff; // T0SZ to S2R
const STE_S2S = 1 << 25;

export const streamTableEntryKind: EntryKind = {
  validBit: STE_VALID,

  used(entry) {
    const used = newEntry();
    used[0] = STE_VALID;
    if ((entry[0] & STE_VALID) === 0) return used;
    used[0] |= STE_CONFIG;
    const config = (entry[0] & STE_CONFIG) >>> 1;
    if ((config & CONFIG_TRANSLATES) === 0) return used;

    const stage1 = (config & CONFIG_HAS_STAGE1) !== 0;
    const stage2 = (config & CONFIG_HAS_STAGE2) !== 0;
    if (stage1 || stage2) used[2] |= STE_MEV | STE_EATS;
    // The overrides of incoming attributes apply to what no stage 1 describes.
    if (!stage1 || (entry[2] & STE_S1DSS) === S1DSS_BYPASS) {
      used[2] |= STE_INCOMING_LOW;
      used[3] |= STE_INCOMING_HIGH;
    }
    if (stage1) {
      used[0] |= STE_S1FMT_AND_POINTER_LOW;
      used[1] |= STE_POINTER_HIGH_AND_S1CDMAX;
      used[2] |= STE_S1_FIELDS;
      used[4] |= STE_VMID;
    }
    if (stage2) {
      used[2] |= STE_S2FWB;
      used[3] |= STE_SHCFG_HIGH;
      used[4] |= STE_VMID;
      used[5] |= STE_S2_FIELDS;
      used[6] = ALL;
      used[7] = ALL;
    }
    return used;
  },

  harmless(from, to) {
    const harmless = newEntry();
    harmless[2] = STE_MEV;
    const splitOrStalls = (entry: Entry): boolean => (entry[2] & STE_EATS) === EATS_SPLIT || (entry[5] & STE_S2S) !== 0;
    if (!splitOrStalls(from) && !splitOrStalls(to)) harmless[2] |= STE_EATS;
    return harmless;
  },
};
