import { readFileSync } from "node:fs";
import { type MachineDescription, MachineError, nearest, parseMachine, presets } from "../machine/index.ts";
import { CommandError } from "./terminal.ts";

/** The machine that a person means: the name of a preset, or a file. CommandError says what is wrong with either. */
export async function loadMachine(nameOrFile: string): Promise<MachineDescription> {
  if (Object.hasOwn(presets, nameOrFile)) return presets[nameOrFile];
  return await readMachine(nameOrFile);
}

/** A machine file. */
export async function readMachine(file: string): Promise<MachineDescription> {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new CommandError(unreadable(file, error as NodeJS.ErrnoException));
  }
  try {
    return await parseMachine(text, file);
  } catch (error) {
    if (error instanceof MachineError) throw new CommandError(error.message);
    throw error;
  }
}

function unreadable(file: string, error: NodeJS.ErrnoException): string {
  if (error.code === "EISDIR") return `${file} is a directory; a machine is a YAML file`;
  if (error.code !== "ENOENT") return `cannot read ${file}: ${error.code}`;
  const names = Object.keys(presets);
  if (/[/.]/.test(file)) return `there is no file ${file}`;
  const meant = nearest(file, names);
  const advice = meant ? `did you mean ${meant}?` : `known machines: ${names.join(", ")}`;
  return `there is no machine and no file called ${file}; ${advice}`;
}
