/**
 * The files that clients see, as real files.
 *
 * `DIR/root` is a tree of real directories, texts and relative links, so that
 * the kernel does all path work for clients; the shim only puts `DIR/root` in
 * front of a path. What must be asked of the host when it is opened (devices,
 * texts that can be written) is a *placeholder* there: a unix socket inode,
 * which no open(2) opens. What stat(2) should say of a placeholder lies at the
 * same path under `DIR/node`: for a device a link to `MAJOR:MINOR`, for a text
 * the text. `DIR/prefixes` lists the paths that the tree owns.
 */
import {
  chmodSync,
  closeSync,
  existsSync,
  fchmodSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:net";
import { dirname, join, relative } from "node:path";
import type { FileNode, FileTree } from "../memory/index.ts";

/** Directories that stay the computer's own; what the tree has in them is added to what is there. */
const shared = new Set([
  "/",
  "/dev",
  "/dev/char",
  "/proc",
  "/sys",
  "/sys/bus",
  "/sys/bus/platform",
  "/sys/bus/platform/devices",
  "/sys/bus/platform/drivers",
  "/sys/class",
  "/sys/class/misc",
  "/sys/dev",
  "/sys/dev/char",
  "/sys/devices",
  "/sys/devices/platform",
  "/sys/devices/virtual",
  "/sys/devices/virtual/misc",
  "/sys/firmware",
  "/sys/kernel",
  "/sys/kernel/debug",
  "/sys/module",
]);
const PREFIXES_SIZE = 65536;

/** The highest directory of a path that is the tree's alone. A shared directory that this computer lacks is the tree's. */
export function prefixOf(path: string): string {
  let prefix = path;
  for (let above = dirname(prefix); !(shared.has(above) && existsSync(above)); above = dirname(above)) prefix = above;
  return prefix;
}

export class MaterialTree {
  private readonly files: FileTree;
  private readonly root: string;
  private readonly nodes: string;
  private readonly directory: string;
  /** Kinds of what is on disk, by path. */
  private readonly shown = new Map<string, string>();
  private readonly changed = new Set<string>();
  /** Those that were made. */
  private readonly directories: Set<string>;
  private readonly unlisten: () => void;
  private readonly placeholders = new Map<number, string>();
  private prefixes = "";

  constructor(files: FileTree, directory: string) {
    this.files = files;
    this.directory = directory;
    this.root = join(directory, "root");
    this.nodes = join(directory, "node");
    this.directories = new Set([directory]);
    this.makeDirectory(this.root);
    this.makeDirectory(this.nodes);
    const prefixes = join(directory, "prefixes");
    writeFileSync(prefixes, new Uint8Array(PREFIXES_SIZE));
    chmodSync(prefixes, 0o644);
    for (const path of files.nodes.keys()) this.changed.add(path);
    this.unlisten = files.listen((path) => {
      if (this.changed.size === 0) setImmediate(() => this.flush());
      this.changed.add(path);
    });
    this.flush();
  }

  close(): void {
    this.unlisten();
    this.changed.clear();
  }

  /** Brings what is on disk up to date. Called before each answer to a client, so that it sees what it did. */
  flush(): void {
    if (this.changed.size === 0) return;
    const paths = [...this.changed];
    this.changed.clear();
    let moved = false;
    for (const path of paths) {
      const node = this.files.nodes.get(path);
      const kind = node === undefined ? undefined : kindOf(node);
      const before = this.shown.get(path);
      if (before !== undefined && before !== kind) {
        this.remove(path);
        moved = true;
      }
      if (node === undefined || kind === undefined) continue;
      if (before === kind) {
        if (node.kind === "text") this.writeText(path, node);
        continue;
      }
      this.make(path, node, kind);
      moved = true;
    }
    if (moved) this.writePrefixes();
  }

  /** A text is about to be read: it may say something else by now, though nobody told. */
  renew(path: string): void {
    const node = this.files.nodes.get(path);
    if (node?.kind === "text" && this.shown.get(path) === kindOf(node)) this.writeText(path, node);
  }

  private make(path: string, node: FileNode, kind: string): void {
    const place = `${this.root}${path}`;
    this.makeDirectory(node.kind === "directory" ? place : dirname(place));
    switch (node.kind) {
      case "directory":
        break;
      case "link":
        symlinkSync(node.target.startsWith("/") ? relative(dirname(path), node.target) : node.target, place);
        break;
      case "device":
        linkSync(this.placeholder(node.mode), place);
        this.makeDirectory(dirname(`${this.nodes}${path}`));
        symlinkSync(`${node.major}:${node.minor}`, `${this.nodes}${path}`);
        break;
      case "text":
        if (node.write !== undefined) {
          linkSync(this.placeholder(node.mode), place);
          this.makeDirectory(dirname(`${this.nodes}${path}`));
        }
        this.makeText(path, node);
        break;
    }
    this.shown.set(path, kind);
  }

  /**
   * With those above it. All may look into it, as in sysfs, whatever our umask says. Starting a program waits for all of the
   * tree: nothing is asked of the computer twice.
   */
  private makeDirectory(place: string): void {
    if (this.directories.has(place)) return;
    this.makeDirectory(dirname(place));
    mkdirSync(place, { recursive: true });
    chmodSync(place, 0o755);
    this.directories.add(place);
  }

  private textPlace(path: string, node: FileNode & { kind: "text" }): string {
    return `${node.write === undefined ? this.root : this.nodes}${path}`;
  }

  private makeText(path: string, node: FileNode & { kind: "text" }): void {
    const fd = openSync(this.textPlace(path, node), "w", 0o600);
    try {
      writeSync(fd, bytesOf(node));
      fchmodSync(fd, node.mode & 0o777);
    } finally {
      closeSync(fd);
    }
  }

  private writeText(path: string, node: FileNode & { kind: "text" }): void {
    const file = this.textPlace(path, node);
    const bytes = bytesOf(node);
    // Not even its owner may write to it as it is, unless that is root.
    chmodSync(file, (node.mode & 0o777) | 0o600);
    // In place: a program that keeps the file open and reads again sees the change.
    const fd = openSync(file, "a+", 0o600);
    try {
      const size = lstatSync(file).size;
      if (size > bytes.length) ftruncateSync(fd, bytes.length);
    } finally {
      closeSync(fd);
    }
    const overwrite = openSync(file, "r+");
    try {
      writeSync(overwrite, bytes, 0, bytes.length, 0);
    } finally {
      closeSync(overwrite);
    }
    chmodSync(file, node.mode & 0o777);
  }

  private remove(path: string): void {
    this.shown.delete(path);
    for (const top of [this.root, this.nodes]) {
      const place = join(top, path);
      try {
        if (lstatSync(place).isDirectory()) this.removeDirectory(place);
        else rmSync(place);
      } catch {
        continue; // not there, or it still holds others
      }
      for (let above = dirname(path); above !== "/"; above = dirname(above)) {
        if (this.shown.has(above)) break;
        try {
          this.removeDirectory(join(top, above));
        } catch {
          break;
        }
      }
    }
  }

  private removeDirectory(place: string): void {
    rmdirSync(place);
    this.directories.delete(place);
  }

  /** A socket inode with these permissions, to be linked to. */
  private placeholder(mode: number): string {
    const bits = mode & 0o777;
    let path = this.placeholders.get(bits);
    if (path === undefined) {
      path = join(this.directory, `placeholder-${bits.toString(8)}`);
      const server = createServer();
      server.listen(`${path}.new`); // binds before it returns
      renameSync(`${path}.new`, path);
      server.close();
      chmodSync(path, bits);
      this.placeholders.set(bits, path);
    }
    return path;
  }

  private writePrefixes(): void {
    const text = [...new Set([...this.shown.keys()].map(prefixOf))].sort().join("\n");
    if (text === this.prefixes) return;
    this.prefixes = text;
    const bytes = new Uint8Array(PREFIXES_SIZE);
    const { written } = new TextEncoder().encodeInto(text, bytes.subarray(0, PREFIXES_SIZE - 1));
    if (written < text.length) bytes.fill(0, text.lastIndexOf("\n", written));
    const fd = openSync(join(this.directory, "prefixes"), "r+");
    writeSync(fd, bytes, 0, bytes.length, 0);
    closeSync(fd);
  }
}

function bytesOf(node: FileNode & { kind: "text" }): Uint8Array {
  const content = node.read();
  return typeof content === "string" ? Buffer.from(content) : content;
}

/** What of a node decides how it lies on disk. A node of another kind is made anew. */
function kindOf(node: FileNode): string {
  switch (node.kind) {
    case "text":
      return node.write === undefined ? "text" : `writable ${node.mode}`;
    case "link":
      return `link ${node.target}`;
    case "directory":
      return "directory";
    case "device":
      return `device ${node.major}:${node.minor} ${node.mode}`;
  }
}
