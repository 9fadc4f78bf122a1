import { type ExitStatus, ProgramError, run, SetupError } from "../host/index.ts";
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
  { description, mock = false }: SessionMachine,
  [program, ...rest]: readonly [string, ...string[]],
  watch: Watch,
  begun: (machine: Machine) => void = () => undefined,
): Promise<ExitStatus> {
  const { memlock } = description.memory;
  const clock = new RealTimeClock();
  const machine = buildMachine(description, { clock, mock });
  clock.afterAlarm = () => machine.system.tasks.drain();
  machine.onFault = (fault) => watch.fault(() => fault.text());
  begun(machine);
  try {
    return await run(machine, program, rest, {
      ...(memlock !== "inherit" && { memlockLimit: memlock }),
      log: (message) => watch.tell(message),
      onBlind: (program, why) => watch.blind(program, why),
      onHost: (host) => {
        if (watch.wantsCalls) host.onCall = (call) => watch.call(call);
      },
      onEnd: (host) => {
        if (!host.wasUsed) watch.sayBlind();
        const { pinnedFrames } = machine.memory;
        if (pinnedFrames > 0) watch.say(`${count(pinnedFrames, "page")} left pinned behind, with nobody to unpin them`);
        watch.finish();
      },
    });
  } catch (error) {
    if (error instanceof ProgramError) throw new CommandError(error.message, error.status);
    if (error instanceof SetupError) throw new CommandError(`${error.message}; see: uiommu doctor`);
    throw error;
  }
}
