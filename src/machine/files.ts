// Runs in a browser.
import type { FileNode, FileTree } from "../memory/index.ts";
import type { Task } from "../runtime/index.ts";

/**
 * The tree of files that a machine's clients see: made of what each room shows of itself, and made anew when one of
 * them says that something came, went or changed. Listeners hear of the paths that differ from what was told last.
 */
export class MachineFiles implements FileTree {
  private readonly sources: readonly (() => Map<string, FileNode>)[];
  private readonly listeners = new Set<(path: string) => void>();
  private current: Map<string, FileNode>;
  private told: Map<string, string>;

  constructor(sources: readonly (() => Map<string, FileNode>)[]) {
    this.sources = sources;
    this.current = this.collect();
    this.told = this.describe();
  }

  get nodes(): ReadonlyMap<string, FileNode> {
    return this.current;
  }

  listen(listener: (path: string) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** The content of one node may have changed. */
  touch(path: string): void {
    const node = this.current.get(path);
    const text = node === undefined ? undefined : describeNode(node);
    if (text === undefined || this.told.get(path) === text) return;
    this.told.set(path, text);
    for (const listener of this.listeners) listener(path);
  }

  /** Something may have changed: looks, and tells. */
  refresh(): void {
    const before = this.told;
    this.current = this.collect();
    this.told = this.describe();
    for (const path of new Set([...before.keys(), ...this.told.keys()])) {
      if (before.get(path) === this.told.get(path)) continue;
      for (const listener of this.listeners) listener(path);
    }
  }

  private collect(): Map<string, FileNode> {
    const nodes = new Map(this.sources.flatMap((source) => [...source()]));
    for (const [path, node] of nodes) {
      if (node.kind === "text" && node.write !== undefined) nodes.set(path, this.refreshing(node, node.write));
    }
    return nodes;
  }

  /** What is written to a text may change that text and others. Nothing written reaches no text, as in Linux. */
  private refreshing(node: FileNode & { kind: "text" }, write: NonNullable<typeof node.write>): FileNode {
    const files = this;
    return {
      ...node,
      write: function* (process, bytes, position): Task<void> {
        if (bytes.length === 0) return;
        yield* write(process, bytes, position);
        files.refresh();
      },
    };
  }

  private describe(): Map<string, string> {
    return new Map([...this.current].map(([path, node]) => [path, describeNode(node)]));
  }
}

/** A node's kind and content in one comparable text. */
function describeNode(node: FileNode): string {
  switch (node.kind) {
    case "text":
      return `text ${node.mode} ${node.read()}`;
    case "link":
      return `link ${node.target}`;
    case "directory":
      return "directory";
    case "device":
      return `device ${node.major}:${node.minor} ${node.mode}`;
  }
}
