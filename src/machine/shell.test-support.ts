/** What a shell does on the files of a machine. */
import type { Refusal } from "../runtime/index.ts";
import { LibraryClient, type Machine } from "./index.ts";

/** `echo TEXT > PATH`; a value once it is done. */
export function echo(
  machine: Machine,
  text: string,
  path: string,
): { readonly done: boolean; readonly error?: Refusal } {
  const node = machine.files.nodes.get(resolve(machine, path));
  if (node?.kind !== "text" || node.write === undefined) throw new Error(`${path} cannot be written`);
  const state: { done: boolean; error?: Refusal } = { done: false };
  const client = new LibraryClient(machine);
  const write = node.write(client.process, new TextEncoder().encode(`${text}\n`));
  machine.system.tasks.start(`echo ${text} > ${path}`, write, (outcome) => {
    state.done = true;
    if (!outcome.ok) state.error = outcome.error as Refusal;
  });
  return state;
}

/** `cat PATH`, without the last newline; undefined where there is no text. */
export function cat(machine: Machine, path: string): string | undefined {
  const node = machine.files.nodes.get(resolve(machine, path));
  if (node?.kind !== "text") return undefined;
  const content = node.read();
  return (typeof content === "string" ? content : new TextDecoder().decode(content)).replace(/\n$/, "");
}

/** `readlink PATH`; undefined where there is no link. */
export function readlink(machine: Machine, path: string): string | undefined {
  const node = machine.files.nodes.get(resolve(machine, path));
  return node?.kind === "link" ? node.target : undefined;
}

/** The names in a directory, sorted. */
export function ls(machine: Machine, directory: string): string[] {
  const prefix = `${resolve(machine, directory)}/`;
  const below = [...machine.files.nodes.keys()].filter((path) => path.startsWith(prefix));
  return [...new Set(below.map((path) => path.slice(prefix.length).replace(/\/.*/, "")))].sort();
}

/** The same path, without links on the way to its last name. */
function resolve(machine: Machine, path: string): string {
  const done: string[] = [];
  const names = path.split("/").slice(1);
  for (const [index, name] of names.entries()) {
    if (name === "..") {
      done.pop();
      continue;
    }
    const here = `/${[...done, name].join("/")}`;
    const node = machine.files.nodes.get(here);
    if (node?.kind !== "link" || index === names.length - 1) done.push(name);
    else return resolve(machine, `/${[...done, ...node.target.split("/"), ...names.slice(index + 1)].join("/")}`);
  }
  return `/${done.join("/")}`;
}
