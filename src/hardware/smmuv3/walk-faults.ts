// Runs in a browser.
/** What a walk found, as a fault with its words. */
import type { TranslationStage, Walker, WalkFault } from "../../pagetable/index.ts";
import { RIGHT_WRITE } from "../../pagetable/index.ts";
import { CLASS_TT, F_ACCESS, F_ADDR_SIZE, F_PERMISSION, F_TRANSLATION, F_WALK_EABT, type Fault } from "./faults.ts";
import { hex, hex64 } from "./fetch.ts";

function eventOf(fault: WalkFault): number {
  switch (fault) {
    case "translation":
      return F_TRANSLATION;
    case "address-size":
      return F_ADDR_SIZE;
    case "access-flag":
      return F_ACCESS;
    case "permission":
      return F_PERMISSION;
    case "external-abort":
    case "table":
      return F_WALK_EABT;
  }
}

/**
 * The fault that `walker` ended with, of its own stage. `input` is what it translated, in words; `prefix` says, if not
 * plain, what that was: `"stage 2 of the CD's address 0x1000: "`.
 */
export function walkFault(
  walker: Walker,
  stage: TranslationStage,
  input: () => string,
  needed: number,
  prefix = "",
): Fault {
  // The walker's fields are for the next walk: keep what the words need.
  const { level, descriptorAddress, descriptorPhysical, low, high } = walker;
  const fault = walker.fault!;
  return {
    event: eventOf(fault),
    // What failed is then the fetch of a table, not the input address (§7.3.12).
    ...(fault === "external-abort" ? { fetchAddress: descriptorPhysical, accessClass: CLASS_TT } : {}),
    why: () => {
      const { format } = stage;
      const content = `${prefix}level ${level} entry at ${hex(descriptorAddress)} = ${hex64(low, high)}`;
      if (descriptorAddress < 0) {
        return fault === "address-size"
          ? `${prefix}the root table ${hex(stage.root)} is beyond ${format.outputBits} bits`
          : `${prefix}${input()} is beyond the ${format.inputBits} bits of input (${format.stage === 1 ? "TxSZ" : "S2T0SZ"} ${format.t0sz})`;
      }
      switch (fault) {
        case "translation":
          return `${content}: ${invalidity(low, level)}`;
        case "address-size":
          return `${content}: its address is beyond the ${format.outputBits} bits of ${format.stage === 1 ? "IPS" : "S2PS"}`;
        case "access-flag":
          return `${content}: AF (bit 10) is 0`;
        case "permission":
          return `${content}: ${missingRight(low, needed, format.stage)}`;
        case "external-abort":
        case "table":
          return `${prefix}nothing answers at ${hex(descriptorPhysical)}, where the level ${level} entry should be`;
      }
    },
  };
}

function invalidity(low: number, level: number): string {
  if ((low & 1) === 0) return "invalid (bit 0 is 0)";
  return level === 3 ? "reserved (bit 1 is 0 at level 3)" : `a block (bit 1 is 0), which level ${level} cannot have`;
}

function missingRight(low: number, needed: number, stage: 1 | 2): string {
  const write = (needed & RIGHT_WRITE) !== 0;
  if (stage === 2) {
    // An update of a stage 1 table needs both.
    return write && (low & 0x80) === 0 ? "S2AP[1] (bit 7) is 0: no writes" : "S2AP[0] (bit 6) is 0: no reads";
  }
  if ((low & 0x40) === 0) return "AP[1] (bit 6) is 0: no unprivileged access";
  if (write && (low & 0x80) !== 0) return "AP[2] (bit 7) makes it read-only";
  return `APTable of a table above takes ${write ? "writes" : "unprivileged access"} away`;
}
