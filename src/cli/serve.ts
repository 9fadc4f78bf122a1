import { loadMachine } from "./load-machine.ts";
import type { Terminal } from "./terminal.ts";
import { Watch, type WatchOptions } from "./watch.ts";

export interface ServeCommand extends WatchOptions {
  readonly machine: string;
  readonly mock?: boolean;
}

/** `uiommu serve`: where the machine is served, on standard output; then it is, until somebody ends it. */
export async function serveCommand(command: ServeCommand, terminal: Terminal): Promise<number> {
  const description = await loadMachine(command.machine);
  const { serveSession } = await import("./session.ts");
  const watch = new Watch(terminal, command);
  await serveSession({ description, mock: command.mock }, watch, (machine, directory) => {
    watch.machine(machine);
    terminal.out(`${directory}\n`);
  });
  return 0;
}
