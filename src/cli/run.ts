import { loadMachine } from "./load-machine.ts";
import type { Terminal } from "./terminal.ts";
import { Watch, type WatchOptions } from "./watch.ts";

export interface RunCommand extends WatchOptions {
  readonly machine: string;
  readonly mock?: boolean;
  /** Instead of a machine of its own: one that is served, in this directory or, if true, in the only one there is. */
  readonly connect?: string | true;
  readonly program: string;
  readonly arguments: readonly string[];
}

/** `uiommu run`: the program's exit status; if a signal ended the program, the same signal ends this process. */
export async function runCommand(command: RunCommand, terminal: Terminal): Promise<number> {
  const [{ joinSession, runSession }, { endLike }] = await Promise.all([
    import("./session.ts"),
    import("../host/index.ts"),
  ]);
  const program = [command.program, ...command.arguments] as const;
  const { connect, mock } = command;
  let status: Awaited<ReturnType<typeof joinSession>>;
  if (connect !== undefined) {
    status = await joinSession(connect === true ? undefined : connect, program);
  } else {
    const description = await loadMachine(command.machine);
    const watch = new Watch(terminal, command);
    status = await runSession({ description, mock }, program, watch, (machine) => watch.machine(machine));
  }
  endLike(status);
  return status.code;
}
