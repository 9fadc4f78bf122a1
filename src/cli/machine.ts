import { describeMachine, presetInputs, presets, summarizeMachine, writeMachine } from "../machine/index.ts";
import { loadMachine, readMachine } from "./load-machine.ts";
import { CommandError, type Terminal } from "./terminal.ts";

/** `uiommu machine list` */
export function listMachines(terminal: Terminal): number {
  const width = Math.max(...Object.keys(presets).map((name) => name.length));
  for (const [name, machine] of Object.entries(presets)) {
    terminal.out(`${name.padEnd(width)}  ${summarizeMachine(machine)}\n${" ".repeat(width)}  ${machine.about}\n`);
  }
  return 0;
}

/** `uiommu machine show NAME|FILE` */
export async function showMachine(name: string, options: { yaml?: boolean }, terminal: Terminal): Promise<number> {
  const machine = await loadMachine(name);
  if (!options.yaml) {
    terminal.out(describeMachine(machine));
    return 0;
  }
  const input = presetInputs.find((preset) => preset.name === name);
  if (!input) throw new CommandError(`${name} is a file already: see it there`);
  terminal.out(writeMachine(input));
  return 0;
}

/** `uiommu machine check FILE...`: every mistake of every file on stderr, one a line; status 2 if there is one. */
export async function checkMachines(files: readonly string[], terminal: Terminal): Promise<number> {
  let status = 0;
  for (const file of files) {
    try {
      terminal.out(`${file}: good: ${summarizeMachine(await readMachine(file))}\n`);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      terminal.err(`${error.message}\n`);
      status = error.status;
    }
  }
  return status;
}
