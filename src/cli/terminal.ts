import { writeSync } from "node:fs";
import { getSystemErrorMap } from "node:util";

/** Where a command speaks: answers on `out`, everything that was not asked for on `err`. */
export interface Terminal {
  out(text: string): void;
  err(text: string): void;
  /** True if `out` is a terminal that shows colours. */
  readonly colours: boolean;
}

/**
 * The terminal of this process. Writing into a closed pipe (`uiommu machine list | head -1`) is no mistake of ours; where
 * else standard output cannot be written, the process ends with status 1.
 */
export function processTerminal(): Terminal {
  process.stderr.on("error", () => undefined);
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") return;
    try {
      writeSync(process.stderr.fd, `uiommu: cannot write to standard output: ${reasonOf(error)}\n`);
    } catch {
      // nobody can be told
    }
    process.exit(1);
  });
  return {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    colours: process.stdout.isTTY === true && process.env.NO_COLOR === undefined,
  };
}

/** Why the system refused something, in its words: `permission denied`. */
export function reasonOf({ errno, code, message }: NodeJS.ErrnoException): string {
  return getSystemErrorMap().get(errno ?? 0)?.[1] ?? code ?? message;
}

/** What a person got wrong, in one line that says what would be right. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  /** Exit status: 2, unless a shell would give another. */
  readonly status: number;

  constructor(message: string, status = 2) {
    super(message);
    this.status = status;
  }
}
