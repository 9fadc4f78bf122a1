// Runs in a browser.
/** Context descriptors: what is in them, and which of it the hardware looks at (Arm IHI 0070 section 5.4; reference 6.3). */
import { MAIR_LOW } from "../../../pagetable/index.ts";
import type { ArmContext } from "./context.ts";
import { type Entry, type EntryKind, newEntry } from "./entry-writer.ts";
import { addressSizeField, granuleField, INNER_SHAREABLE, WRITE_BACK } from "./fields.ts";

/** In the lower half of word 0. */
const EPD0 = 1 << 14;
const EPD1 = 2 ** 30;
const VALID = 2 ** 31;
/** In the upper half of word 0. */
const AA64 = 1 << 9;
const HARDWARE_DIRTY = 1 << 10;
const HARDWARE_ACCESS = 1 << 11;
const STALL = 1 << 12;
const RECORD = 1 << 13;
const ABORT = 1 << 14;
const ASET_PRIVATE = 1 << 15;
/** T0SZ, TG0, IR0, OR0, SH0, in the lower half of word 0. */
const WALK0_FIELDS = 0x3fff;

type Content = Pick<ArmContext, "asid" | "isShared" | "table">;

/**
 * Of a process that is gone: valid, so that nothing is wrong with it, but no walk begins. What comes ends without a record,
 * unless the SMMU stalls whatever it can.
 */
export function quietDescriptor({ asid, isShared, table }: Content, mustStall: boolean): Entry {
  const entry = newEntry();
  entry[0] = EPD0 | EPD1 | VALID;
  entry[1] =
    addressSizeField(table.format.outputBits) |
    AA64 |
    (mustStall ? STALL | RECORD : 0) |
    ABORT |
    (isShared ? 0 : ASET_PRIVATE) |
    (asid << 16);
  entry[6] = MAIR_LOW;
  return entry;
}

/** A stage 1 table in the lower half of the address space; the upper half is off. */
export function stage1Descriptor({ asid, isShared, table }: Content, canStall: boolean): Entry {
  const { format } = table;
  const entry = newEntry();
  entry[0] =
    format.t0sz |
    (granuleField(format.granule) << 6) |
    (WRITE_BACK << 8) |
    (WRITE_BACK << 10) |
    (INNER_SHAREABLE << 12) |
    EPD1 |
    VALID;
  entry[1] =
    addressSizeField(format.outputBits) |
    AA64 |
    (table.dirtyTracking ? HARDWARE_ACCESS | HARDWARE_DIRTY : 0) |
    (canStall ? STALL : 0) |
    RECORD |
    ABORT |
    (isShared ? 0 : ASET_PRIVATE) |
    (asid << 16);
  entry[2] = table.root % 2 ** 32;
  entry[3] = Math.floor(table.root / 2 ** 32);
  entry[6] = MAIR_LOW;
  return entry;
}

export const contextDescriptorKind: EntryKind = {
  validBit: VALID,

  used(entry) {
    const used = newEntry();
    used[0] = VALID;
    if ((entry[0] & VALID) === 0) return used;
    used.fill(0xffff_ffff);
    // With walks of TTB0 off nothing of TTB0 is looked at.
    if ((entry[0] & EPD0) !== 0) {
      used[0] &= ~WALK0_FIELDS;
      used[2] = used[3] = 0;
    }
    return used;
  },

  harmless() {
    return newEntry();
  },
};
