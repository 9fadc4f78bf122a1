import {
  type ExitStatus,
  findHost,
  Host,
  type HostOptions,
  invite,
  JoinError,
  ProgramError,
  run,
  runElsewhere,
  SetupError,
} from "../host/index.ts";
import { buildMachine, type Machine, type MachineDescription } from "../machine/index.ts";
import { RealTimeClock } from "./clock.ts";
import { CommandError } from "./terminal.ts";
import { count, type Watch } from "./watch.ts";

/** What the program is to run on: a machine, with the mock IOMMU if `mock`. */
export interface SessionMachine {
  readonly description: MachineDescription;
  readonly mock?: boolean | undefined;
}

/**
 * A machine, a program on it, and the end of both: how the program ended. `begun` sees the machine before the program
 * starts. CommandError if the program could not be started.
 */
export async function runSession(
  what: SessionMachine,
  [program, ...rest]: readonly [string, ...string[]],
  watch: Watch,
  begun: (machine: Machine) => void = () => undefined,
): Promise<ExitStatus> {
  const machine = startMachine(what, watch);
  begun(machine);
  try {
    return await run(machine, program, rest, {
      ...hostOptions(what, watch),
      log: (message) => watch.tell(message),
      onHost: (host) => observe(host, watch),
      onEnd: (host) => {
        if (!host.wasUsed) watch.sayBlind();
        finish(machine, watch);
      },
    });
  } catch (error) {
    throw asCommandError(error);
  }
}

/** A program on a machine that is served elsewhere, in `directory` if it is said: how it ended. */
export async function joinSession(
  directory: string | undefined,
  [program, ...rest]: readonly [string, ...string[]],
): Promise<ExitStatus> {
  try {
    return await runElsewhere(findHost(directory), program, rest);
  } catch (error) {
    if (error instanceof JoinError) throw new CommandError(error.message);
    throw asCommandError(error);
  }
}

/**
 * A machine that programs join, until this process is told to end (SIGINT, SIGTERM, SIGHUP). `begun` learns where it is
 * served.
 */
export async function serveSession(
  what: SessionMachine,
  watch: Watch,
  begun: (machine: Machine, directory: string) => void,
): Promise<void> {
  const machine = startMachine(what, watch);
  const ended = new Promise<void>((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => resolve());
  });
  try {
    const host = new Host(machine, hostOptions(what, watch));
    observe(host, watch);
    await host.listen();
    invite(host.address);
    begun(machine, host.directory);
    await ended;
    await host.close();
  } catch (error) {
    throw asCommandError(error);
  }
  finish(machine, watch);
}

function startMachine({ description, mock = false }: SessionMachine, watch: Watch): Machine {
  const clock = new RealTimeClock();
  const machine = buildMachine(description, { clock, mock });
  clock.afterAlarm = () => machine.system.tasks.drain();
  machine.onFault = (fault) => watch.fault(() => fault.text());
  return machine;
}

function hostOptions({ description }: SessionMachine, watch: Watch): HostOptions {
  const { memlock } = description.memory;
  return {
    ...(memlock !== "inherit" && { memlockLimit: memlock }),
    onBlind: (program, why) => watch.blind(program, why),
  };
}

function observe(host: Host, watch: Watch): void {
  if (watch.wantsCalls) host.onCall = (call) => watch.call(call);
}

/** The last look at a machine that nobody uses any more. */
function finish({ memory: { pinnedFrames } }: Machine, watch: Watch): void {
  if (pinnedFrames > 0) watch.say(`${count(pinnedFrames, "page")} left pinned behind, with nobody to unpin them`);
  watch.finish();
}

/** A program or a computer that a host cannot work with is a person's to mend. */
function asCommandError(error: unknown): unknown {
  if (error instanceof ProgramError) return new CommandError(error.message, error.status);
  if (error instanceof SetupError) return new CommandError(`${error.message}; see: uiommu doctor`);
  return error;
}
