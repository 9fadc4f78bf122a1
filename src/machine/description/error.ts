// Runs in a browser.
import type { Path } from "./check.ts";

/** A place in a text. Lines and columns count from 1. */
export interface Place {
  readonly line: number;
  readonly column: number;
}

/** A mistake and its place; a machine that was made in code has no places. */
export interface MachineProblem {
  readonly place: Place | undefined;
  /** One sentence: what is wrong; what would be right. */
  readonly message: string;
}

/** A machine that cannot be: every mistake that was found, in the order of the file. */
export class MachineError extends Error {
  override readonly name = "MachineError";
  readonly fileName: string;
  readonly problems: readonly MachineProblem[];

  constructor(fileName: string, problems: readonly MachineProblem[]) {
    const where = (place?: Place) => (place ? `${fileName}:${place.line}:${place.column}` : fileName);
    super(problems.map((problem) => `${where(problem.place)}: ${problem.message}`).join("\n"));
    this.fileName = fileName;
    this.problems = problems;
  }
}

/** The value that a text stands for; `locate` finds the place of a key or of its value. */
export interface MachineSource {
  readonly value: unknown;
  locate(path: Path, at: "key" | "value"): Place | undefined;
}
