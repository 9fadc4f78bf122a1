import { summarizeMachine } from "../machine/index.ts";
import { loadMachine } from "./load-machine.ts";
import type { Terminal } from "./terminal.ts";
import { Watch } from "./watch.ts";

export interface RunCommand {
  readonly machine: string;
  readonly mock?: boolean;
  readonly explain?: boolean;
  readonly trace?: string;
  readonly verbose?: boolean;
  readonly program: string;
  readonly arguments: readonly string[];
}

/** `uiommu run`: the program's exit status; if a signal ended the program, the same signal ends this process. */
export async function runCommand(command: RunCommand, terminal: Terminal): Promise<number> {
  const description = await loadMachine(command.machine);
  const [{ runSession }, { endLike }] = await Promise.all([import("./session.ts"), import("../host/index.ts")]);
  const watch = new Watch(terminal, command);
  const { mock } = command;
  const status = await runSession({ description, mock }, [command.program, ...command.arguments], watch, ({ core }) => {
    watch.tell(`machine ${description.name}: ${summarizeMachine(description)}`);
    for (const { id, devices } of core.groups.values()) {
      watch.tell(`group ${id}: ${devices.map((device) => device.name).join(", ")}`);
    }
  });
  endLike(status);
  return status.code;
}
