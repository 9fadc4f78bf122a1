// Runs in a browser.
/** Files of sysfs as nodes of a tree. */
import type { FileNode } from "../memory/index.ts";
import type { Task } from "../runtime/index.ts";

/** A file that shows a text. */
export function text(read: () => string, mode = 0o444): FileNode {
  return { kind: "text", mode, read };
}

/** A file that acts on the line written to it. */
export function command(mode: number, act: (argument: string) => Task<void>): FileNode {
  return { kind: "text", mode, read: () => "", write: (_process, bytes) => act(line(bytes)) };
}

/** What was written, up to the end of its first line. */
export function line(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes).replace(/\n.*$/s, "");
}

/** The target of a link that lies in directory `from`, as Linux writes it: its last name is always that of `to`. */
export function relative(from: string, to: string): string {
  const source = from.split("/");
  const target = to.split("/");
  let common = 0;
  while (common < target.length - 1 && source[common] === target[common]) common++;
  return [...source.slice(common).map(() => ".."), ...target.slice(common)].join("/");
}
