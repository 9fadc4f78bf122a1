/**
 * `uiommu run`: one program, its children, and a host for them.
 *
 * The program has our standard input, output and error and our process group,
 * so the terminal's signals reach it by themselves; what is sent to us alone is
 * passed on. Processes that it leaves behind keep the host alive until they
 * have closed the last file of it, as Linux would let them go on.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { findShim, SetupError, type ShimFiles } from "./build.ts";
import { checkProgram, findProgram, ProgramError } from "./elf.ts";
import { Host, type HostOptions, type Served } from "./host.ts";
import { type Address, clientEnvironment } from "./joining.ts";

/** How a program ended: with a code, or by a signal. */
export interface ExitStatus {
  readonly code: number;
  readonly signal: NodeJS.Signals | undefined;
}

export interface RunOptions extends HostOptions {
  /** The environment of the program; ours by default. */
  readonly environment?: NodeJS.ProcessEnv;
  /** Told what a person may want to know (`-v`). */
  readonly log?: (message: string) => void;
  /** The host is there, the program not yet: for observers. */
  readonly onHost?: (host: Host) => void;
  /** The program has ended and nothing of the host is open: the last look at the machine. */
  readonly onEnd?: (host: Host) => void | Promise<void>;
}

/** Signals that end a program from outside; from the terminal they reach it by themselves. */
const fromTerminal: readonly NodeJS.Signals[] = ["SIGINT", "SIGQUIT", "SIGHUP"];
const fromOthers: readonly NodeJS.Signals[] = ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCONT", "SIGWINCH"];

/**
 * Runs `program` as a client of `served`, until it and all that it left behind are done.
 * Throws {@link ProgramError} (nothing was started) or {@link SetupError}.
 */
export async function run(
  served: Served,
  program: string,
  args: readonly string[] = [],
  options: RunOptions = {},
): Promise<ExitStatus> {
  const environment = options.environment ?? process.env;
  const file = findProgram(program, environment.PATH);
  checkProgram(file);
  const host = new Host(served, options);
  try {
    await host.listen();
    options.onHost?.(host);
    const status = await runProgram(program, args, { ...environment, ...host.environment(environment) });
    if (host.files.size > 0) await waitForOthers(host, options.log);
    await options.onEnd?.(host);
    return status;
  } finally {
    await host.close();
  }
}

/** Runs a program as a client of a host that is served elsewhere. Throws as {@link run} does. */
export async function runElsewhere(
  address: Address,
  program: string,
  args: readonly string[],
  shim: ShimFiles = findShim(),
): Promise<ExitStatus> {
  checkProgram(findProgram(program));
  return await runProgram(program, args, { ...process.env, ...clientEnvironment(address, shim.library, process.env) });
}

/** Starts a program with the environment of a client; resolves when it has ended. */
function runProgram(program: string, args: readonly string[], environment: NodeJS.ProcessEnv): Promise<ExitStatus> {
  return new Promise((resolve, reject) => {
    let child: ChildProcess | undefined;
    const stop = forwardSignals((signal) => child?.kill(signal));
    child = spawn(program, args, {
      stdio: "inherit",
      env: { ...environment, UIOMMU_NOFILE: `${originalFileLimit()}` },
    });
    child.once("error", (error: NodeJS.ErrnoException) => {
      stop();
      reject(new ProgramError(`${program} cannot be started (${error.code})`, error.code === "ENOENT" ? 127 : 126));
    });
    child.once("exit", (code, signal) => {
      stop();
      resolve(
        signal === null ? { code: code ?? 0, signal: undefined } : { code: 128 + constants.signals[signal], signal },
      );
    });
  });
}

/** Ends this process as the program ended: with its code, or by the same signal. */
export function endLike(status: ExitStatus): void {
  process.exitCode = status.code;
  if (status.signal === undefined) return;
  process.removeAllListeners(status.signal);
  process.kill(process.pid, status.signal);
}

/** Resolves when the files that are open belong to nobody any more. */
async function waitForOthers(host: Host, log: RunOptions["log"]): Promise<void> {
  // Connections of processes that are gone close in the next turns of the event loop.
  const soon = new Promise((resolve) => setTimeout(resolve, 50).unref());
  await Promise.race([host.whenIdle(), soon]);
  if (host.files.size === 0) return;
  const who = [...new Set([...host.clients.values()].map((client) => client.label))].join(", ");
  log?.(`the program has ended; waiting for ${who || "other processes"} to close ${host.files.size} open files`);
  await host.whenIdle();
}

/** From now on signals sent to us go to `forward`, until what it returns is called. */
function forwardSignals(forward: (signal: NodeJS.Signals) => void): () => void {
  const listeners: [NodeJS.Signals, () => void][] = [];
  const listen = (signal: NodeJS.Signals, listener: () => void) => {
    process.on(signal, listener);
    listeners.push([signal, listener]);
  };
  for (const signal of fromOthers) listen(signal, () => forward(signal));
  for (const signal of fromTerminal) {
    listen(signal, () => {
      if (!isForeground()) forward(signal);
    });
  }
  return () => {
    for (const [signal, listener] of listeners) process.off(signal, listener);
  };
}

/** True if our process group is its terminal's foreground one: then the terminal's signals reach the program too. */
function isForeground(): boolean {
  const fields = readFileSync("/proc/self/stat", "latin1")
    .replace(/^.*\) /, "")
    .split(" ");
  const [, , group, , , foreground] = fields;
  return group === foreground;
}

/** The soft limit of open files that we were started with. Node raises its own; our parent still has it. */
function originalFileLimit(): number {
  for (const pid of [process.ppid, process.pid]) {
    try {
      const soft = /^Max open files\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, "latin1"))?.[1];
      if (soft !== undefined) return Number(soft);
    } catch {
      // not ours to see
    }
  }
  return 1024;
}

export { ProgramError, SetupError };
