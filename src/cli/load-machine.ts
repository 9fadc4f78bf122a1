import { readFileSync } from "node:fs";
import { type MachineDescription, MachineError, nearest, parseMachine, presets } from "../machine/index.ts";
import { CommandError, reasonOf } from "./terminal.ts";

/** The machine that a person means: the name of a preset, or a file. CommandError says what is wrong with either. */
export async function loadMachine(nameOrFile: string): Promise<MachineDescription> {
  if (Object.hasOwn(presets, nameOrFile)) return presets[nameOrFile];
  return await readMachine(nameOrFile);
}

/** A machine file. */
export async function readMachine(file: string): Promise<MachineDescription> {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    throw new CommandError(unreadable(file, error as NodeJS.ErrnoException));
  }
  try {
    return await parseMachine(textOf(bytes, file), file);
  } catch (error) {
    if (error instanceof MachineError) throw new CommandError(error.message);
    throw error;
  }
}

function textOf(bytes: Uint8Array, file: string): string {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return text;
  } catch {
    // no UTF-8
  }
  throw new CommandError(`${file} is not a text in UTF-8; a machine is a YAML file`);
}

function unreadable(file: string, error: NodeJS.ErrnoException): string {
  if (error.code === "EISDIR") return `${file} is a directory; a machine is a YAML file`;
  if (error.code !== "ENOENT") return `cannot read ${file}: ${reasonOf(error)}`;
  const names = Object.keys(presets);
  if (/[/.]/.test(file)) return `there is no file ${file}`;
  const meant = nearest(file, names);
  const advice = meant ? `did you mean ${meant}?` : `known machines: ${names.join(", ")}`;
  return `there is no machine and no file called ${file}; ${advice}`;
}
