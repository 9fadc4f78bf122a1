// Runs in a browser.
/**
 * A walk told in steps, for people. It is the walk itself, with somebody looking on: made when asked, never before.
 */
import type { PhysicalMemory } from "../memory/index.ts";
import { LEAF, TABLE } from "./formats/format.ts";
import { type Rights, rightsName } from "./rights.ts";
import { type TableTranslator, type TranslationStage, Walker } from "./walk.ts";
import { hex, hexEntry, joinWords } from "./words.ts";

/** One descriptor that the walk read. */
export interface WalkStep {
  readonly level: number;
  /** Base address of the table, and of the descriptor in it: IPAs where stage 2 is below. */
  readonly table: number;
  readonly index: number;
  readonly address: number;
  /** Where the descriptor is in physical memory. */
  readonly physical: number;
  /** The descriptor. */
  readonly low: number;
  readonly high: number;
  /** `"level 2 table at 0x40012000, entry 5 at 0x40012028: 0x0, bit 0 (valid) is 0"` */
  readonly text: string;
}

export interface WalkExplanation {
  readonly steps: readonly WalkStep[];
  /** How it ended, in one sentence. */
  readonly verdict: string;
}

/** Walks once more, and says what there was to see. Parameters as {@link Walker.walk}. */
export function explainWalk(
  memory: PhysicalMemory,
  stage: TranslationStage,
  input: number,
  needed: Rights,
  tables?: TableTranslator,
): WalkExplanation {
  const steps: WalkStep[] = [];
  const walker = new Walker(memory);
  walker.observer = { descriptor: (seen, index) => steps.push(stepOf(stage, seen, index)) };
  walker.updatesTables = false;
  const allowed = walker.walk(stage, input, needed, tables);
  return { steps, verdict: allowed ? translated(stage, walker, input) : refused(stage, walker, input, needed) };
}

function stepOf(stage: TranslationStage, walker: Walker, index: number): WalkStep {
  const { level, table, descriptorAddress, descriptorPhysical, low, high } = walker;
  const where = `level ${level} table at ${hex(table)}, entry ${index} at ${hex(descriptorAddress)}`;
  const really = descriptorPhysical === descriptorAddress ? "" : ` (physical ${hex(descriptorPhysical)})`;
  const text = `${where}${really}: ${hexEntry(low, high)}, ${meaning(stage, level, low, high)}`;
  return { level, table, index, address: descriptorAddress, physical: descriptorPhysical, low, high, text };
}

/** What an entry says. */
function meaning(stage: TranslationStage, level: number, low: number, high: number): string {
  const { format } = stage;
  const kind = format.kind(level, low);
  const address = hex(joinWords(format.addressHigh(low, high), format.addressLow(low)));
  if (kind === TABLE) return `table at ${address}`;
  if (kind === LEAF)
    return `${level === format.lastLevel ? "page" : "block"} of ${sizeName(format.shift(level))} at ${address}`;
  if ((low & 1) === 0) return "bit 0 (valid) is 0";
  if (level === format.lastLevel) return "bit 1 is 0, which is reserved at the last level";
  return `bit 1 is 0, but level ${level} has no blocks`;
}

function translated(stage: TranslationStage, walker: Walker, input: number): string {
  return `${spaceOf(stage)} ${hex(input)} translates to ${hex(walker.output)}, which may be used to ${rightsName(walker.rights)}`;
}

function refused(stage: TranslationStage, walker: Walker, input: number, needed: Rights): string {
  const { format } = stage;
  const what = `${spaceOf(stage)} ${hex(input)}`;
  const where = `the level ${walker.level} entry at ${hex(walker.descriptorAddress)}`;
  switch (walker.fault!) {
    case "translation":
      return walker.descriptorAddress < 0
        ? `${what} is beyond the ${format.inputBits} bits of input that stage ${format.stage} translates`
        : `${what} is not mapped: ${where} is invalid, ${meaning(stage, walker.level, walker.low, walker.high)}`;
    case "address-size":
      return walker.descriptorAddress < 0
        ? `the root table at ${hex(stage.root)} is beyond the ${format.outputBits} bits of output`
        : `${where} holds an address beyond the ${format.outputBits} bits of output`;
    case "access-flag":
      return `${what} has not been accessed before: AF (bit 10) is 0 in ${where}`;
    case "permission":
      return `${what} may not be used to ${rightsName(needed)}, only to ${rightsName(walker.rights)}: ${permissionText(stage, walker)}`;
    case "external-abort":
      return `nothing answers at ${hex(walker.descriptorPhysical)}, where ${where} should be`;
    case "table":
      return `stage 2 does not give ${where}, an IPA to stage 1`;
  }
}

function permissionText(stage: TranslationStage, walker: Walker): string {
  const { low, high } = walker;
  const bits = (word: number, shift: number): string => ((word >>> shift) & 3).toString(2).padStart(2, "0");
  const leaf = `the level ${walker.level} entry at ${hex(walker.descriptorAddress)}`;
  if (stage.format.stage === 2)
    return `S2AP (bits 7:6) is 0b${bits(low, 6)} and XN (bits 54:53) 0b${bits(high, 21)} in ${leaf}`;
  const above = stage.hierarchicalPermissions ? " and the tables above it" : "";
  return `AP[2:1] (bits 7:6) is 0b${bits(low, 6)} and UXN, PXN (bits 54:53) 0b${bits(high, 21)} in ${leaf}${above}`;
}

function spaceOf(stage: TranslationStage): string {
  return stage.format.stage === 1 ? "address" : "IPA";
}

function sizeName(shift: number): string {
  const units = ["", "K", "M", "G", "T"];
  return `${2 ** (shift % 10)}${units[Math.floor(shift / 10)]}`;
}
