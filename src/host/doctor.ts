import { spawnSync } from "node:child_process";
import { accessSync, closeSync, constants, existsSync, openSync, readFileSync, readSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { findShim, type ShimFiles } from "./build.ts";
import { makePrivateDirectory } from "./directory.ts";

/** One thing that uiommu needs of a computer. */
export interface Check {
  /** What is needed. */
  readonly name: string;
  readonly ok: boolean;
  /** What was found. */
  readonly found: string;
  /** What would help; empty if all is well. */
  readonly remedy: string;
}

/** What is asked of a computer. What a method throws is a thing that is missing. */
export interface Computer {
  /** `"linux x64"`. */
  system(): string;
  /** `"20.20.2"`. */
  nodeVersion(): string;
  /** The compiled shim, compiled now if need be. */
  shim(): ShimFiles;
  /** `"2.36"`; undefined: another libc. */
  glibcVersion(): string | undefined;
  /** Undefined if a program that was started with the library has it; else what the dynamic linker said. */
  preload(library: string): string | undefined;
  /** True if a process may read the memory of another of the same user that is not its descendant. */
  readsMemory(): boolean;
  /** kernel.yama.ptrace_scope; undefined: no Yama. */
  ptraceScope(): number | undefined;
  /** Where a host could have its socket. */
  directory(): string;
  /** The hard limit of that name in /proc/self/limits; Infinity: none. */
  limit(name: string): number;
}

/** Can this computer run `uiommu run`? Tries each thing that it takes. */
export function checkComputer(computer: Computer = thisComputer): Check[] {
  let library: string | undefined;
  return [
    check("Linux on x86-64 or arm64", "run it on such a computer, virtual machine or container", () => {
      const found = computer.system();
      return { ok: found === "linux x64" || found === "linux arm64", found };
    }),
    check("Node.js 20 or later", "install Node.js 20 or later", () => {
      const version = computer.nodeVersion();
      return { ok: Number.parseInt(version, 10) >= 20, found: `Node.js ${version}` };
    }),
    check("the shim, or a C compiler to build it", "apt-get install gcc libc6-dev, or the like; or set CC", () => {
      library = computer.shim().library;
      return { ok: true, found: library };
    }),
    check("LD_PRELOAD works", "use a dynamically linked glibc system (not musl), and allow LD_PRELOAD", () => {
      if (library === undefined) return { ok: false, found: "not tried without the shim" };
      const version = computer.glibcVersion();
      const libc = version === undefined ? "not glibc" : `glibc ${version}`;
      const complaint = computer.preload(library);
      const ok = complaint === undefined;
      return { ok, found: ok ? `${libc}, the shim is loaded` : `${libc}, not loaded: ${complaint}` };
    }),
    check(
      "reading the memory of own processes",
      "sysctl kernel.yama.ptrace_scope=1 or 0; in a container: allow ptrace (docker run --cap-add SYS_PTRACE)",
      () => {
        const scope = computer.ptraceScope();
        // With 1 a process may allow it to another, which the shim does.
        const ok = computer.readsMemory() || scope === 1;
        const yama = scope === undefined ? "no Yama" : `ptrace_scope ${scope}`;
        return { ok, found: `/proc/PID/mem ${ok ? "can" : "cannot"} be read (${yama})` };
      },
    ),
    check(
      "a private directory for sockets",
      "set XDG_RUNTIME_DIR or TMPDIR to a writable directory with a short path",
      () => ({ ok: true, found: computer.directory() }),
    ),
    check("1024 open files or more", "raise the hard limit: ulimit -Hn 65536", () => {
      const files = computer.limit("Max open files");
      return { ok: files >= 1024, found: `${files} (clients can have that many files of uiommu open, all together)` };
    }),
    check("memory that clients may pin", "raise it: ulimit -Hl unlimited; or pin less than that", () => {
      const bytes = computer.limit("Max locked memory");
      return {
        ok: bytes >= 65536,
        found: bytes === Number.POSITIVE_INFINITY ? "unlimited" : `${bytes / 1024} KiB each`,
      };
    }),
  ];
}

function check(name: string, remedy: string, probe: () => { ok: boolean; found: string }): Check {
  let result: { ok: boolean; found: string };
  try {
    result = probe();
  } catch (error) {
    result = { ok: false, found: error instanceof Error ? error.message : String(error) };
  }
  return { name, ...result, remedy: result.ok ? "" : remedy };
}

const yamaScope = "/proc/sys/kernel/yama/ptrace_scope";

export const thisComputer: Computer = {
  system: () => `${process.platform} ${process.arch}`,
  nodeVersion: () => process.versions.node,
  shim: () => findShim(),
  glibcVersion: () => {
    const report = (process.report?.getReport() ?? {}) as { header?: { glibcVersionRuntime?: string } };
    return report.header?.glibcVersionRuntime;
  },
  preload: (library) => {
    const { stdout, stderr, error } = spawnSync("cat", ["/proc/self/maps"], {
      encoding: "utf8",
      env: { ...process.env, LD_PRELOAD: library },
    });
    if (error !== undefined) return error.message;
    return stdout.includes(library) ? undefined : stderr.trim() || "it is not in the program's memory";
  },
  readsMemory: () => {
    // A child that reads its parent: no descendant of the reader, which is the harder case.
    const script = `
      const fs = require("node:fs");
      const start = parseInt(fs.readFileSync("/proc/${process.pid}/maps", "latin1").split("-")[0], 16);
      fs.readSync(fs.openSync("/proc/${process.pid}/mem", "r"), Buffer.alloc(4), 0, 4, start);`;
    const mem = openSync("/proc/self/mem", "r");
    const start = Number.parseInt(readFileSync("/proc/self/maps", "latin1").split("-")[0], 16);
    readSync(mem, Buffer.alloc(4), 0, 4, start);
    closeSync(mem);
    return spawnSync(process.execPath, ["-e", script]).status === 0;
  },
  ptraceScope: () => (existsSync(yamaScope) ? Number(readFileSync(yamaScope, "utf8")) : undefined),
  directory: () => {
    const directory = makePrivateDirectory();
    try {
      const server = createServer();
      server.on("error", () => undefined);
      server.listen(join(directory, "probe"));
      accessSync(join(directory, "probe"), constants.W_OK);
      server.close();
      return directory;
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  },
  limit: (name) => {
    const text = readFileSync("/proc/self/limits", "latin1");
    const hard = new RegExp(`^${name}\\s+\\S+\\s+(\\S+)`, "m").exec(text)?.[1] ?? "0";
    return hard === "unlimited" ? Number.POSITIVE_INFINITY : Number(hard);
  },
};
