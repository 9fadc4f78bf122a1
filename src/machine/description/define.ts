// Runs in a browser.
import { checkValue, type Problem } from "./check.ts";
import { MachineError, type MachineProblem, type MachineSource } from "./error.ts";
import { resolveMachine } from "./resolve.ts";
import { type MachineInput, machineSchema } from "./schema.ts";
import type { MachineDescription } from "./types.ts";

/** A machine made in code: the same input as a file's, the same checks. Throws {@link MachineError}. */
export function defineMachine(input: MachineInput): MachineDescription {
  return describeSource({ value: input, locate: () => undefined }, input.name ?? "machine");
}

/** What a source describes. Throws {@link MachineError} with every mistake. */
export function describeSource(source: MachineSource, fileName: string): MachineDescription {
  const mistakes = checkValue(machineSchema, source.value);
  if (mistakes.length > 0) throw new MachineError(fileName, placed(mistakes, source));
  const { description, problems } = resolveMachine(source.value as MachineInput, stem(fileName));
  if (problems.length > 0) throw new MachineError(fileName, placed(problems, source));
  return description;
}

function placed(problems: readonly Problem[], source: MachineSource): MachineProblem[] {
  return problems
    .map(({ path, at, message }) => ({ place: source.locate(path, at), message }))
    .sort((a, b) => (a.place?.line ?? 0) - (b.place?.line ?? 0) || (a.place?.column ?? 0) - (b.place?.column ?? 0));
}

/** `lab` for `machines/lab.yaml`. */
function stem(fileName: string): string {
  return fileName.replace(/^.*[/\\]/, "").replace(/\.(ya?ml|json)$/, "");
}
