// Runs in a browser.
/**
 * Machines, described.
 *
 * A machine file is YAML; schema.ts says what may stand in it. Reading goes one way: text → value with places
 * (source.ts) → checked against the schema (check.ts) → defaults, units and cross references (resolve.ts) → a
 * {@link MachineDescription}, which is complete, correct and plain data. All mistakes of a file are found at once, each
 * with its line and column. Nothing here knows how a machine is built: that is machine.ts.
 */
import { describeSource } from "./description/define.ts";
import { readSource } from "./description/source.ts";
import type { MachineDescription } from "./description/types.ts";

export { defineMachine } from "./description/define.ts";
export { MachineError, type MachineProblem } from "./description/error.ts";
export { nearest } from "./description/nearest.ts";
export { presetInputs, presets } from "./description/presets.ts";
export { type MachineInput, machineSchema } from "./description/schema.ts";
export type * from "./description/types.ts";
export { isBridgeModel, pciAddress } from "./description/types.ts";
export { writeMachine } from "./description/write.ts";

/** Reads a machine file. Throws {@link MachineError}, which names every mistake as `file:line:column: …`. */
export async function parseMachine(text: string, fileName: string): Promise<MachineDescription> {
  return describeSource(await readSource(text, fileName), fileName);
}
