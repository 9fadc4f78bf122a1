/** Where a command speaks: answers on `out`, everything that was not asked for on `err`. */
export interface Terminal {
  out(text: string): void;
  err(text: string): void;
  /** True if `out` is a terminal that shows colours. */
  readonly colours: boolean;
}

/** The terminal of this process. Writing into a closed pipe (`uiommu machine list | head -1`) is no mistake of ours. */
export function processTerminal(): Terminal {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE") throw error;
    });
  }
  return {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    colours: process.stdout.isTTY === true && process.env.NO_COLOR === undefined,
  };
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
