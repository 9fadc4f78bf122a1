// Runs in a browser.
/** Files of sysfs as nodes of a tree. */
import type { FileNode } from "../memory/index.ts";

/** A file that shows a text. */
export function text(read: () => string, mode = 0o444): FileNode {
  return { kind: "text", mode, read };
}

/** The target of a link that lies in directory `from`, as Linux writes it: its last name is always that of `to`. */
export function relative(from: string, to: string): string {
  const source = from.split("/");
  const target = to.split("/");
  let common = 0;
  while (common < target.length - 1 && source[common] === target[common]) common++;
  return [...source.slice(common).map(() => ".."), ...target.slice(common)].join("/");
}
