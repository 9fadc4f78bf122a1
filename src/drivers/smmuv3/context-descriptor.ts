// Runs in a browser.
/** The context descriptors that the driver makes (Arm IHI 0070 section 5.4; reference 6.3). */
import { type LpaeFormat, MAIR_LOW } from "../../pagetable/index.ts";
import { type Entry, newEntry } from "./entry-writer.ts";
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

/** What a CD says of the table below it. */
export interface Stage1Table {
  readonly asid: number;
  readonly root: number;
  readonly format: Pick<LpaeFormat, "granule" | "t0sz" | "outputBits">;
  /** Hardware marks what was written to. */
  readonly dirtyTracking: boolean;
}

/**
 * Of a process that is gone: valid, so that nothing is wrong with it, but no walk begins. What comes ends without a record,
 * unless the SMMU stalls whatever it can.
 */
export function releasedDescriptor({ asid, format }: Pick<Stage1Table, "asid" | "format">, mustStall: boolean): Entry {
  const entry = newEntry();
  entry[0] = EPD0 | EPD1 | VALID;
  entry[1] =
    addressSizeField(format.outputBits) | AA64 | (mustStall ? STALL | RECORD : 0) | ABORT | ASET_PRIVATE | (asid << 16);
  entry[6] = MAIR_LOW;
  return entry;
}

/** A stage 1 table of our own in the lower half of the address space; the upper half is off. */
export function stage1Descriptor(table: Stage1Table, canStall: boolean): Entry {
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
    ASET_PRIVATE |
    (table.asid << 16);
  entry[2] = table.root % 2 ** 32;
  entry[3] = Math.floor(table.root / 2 ** 32);
  entry[6] = MAIR_LOW;
  return entry;
}
