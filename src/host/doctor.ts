import { spawnSync } from "node:child_process";
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compileShim, findShim, shimFiles, shimSources } from "./build.ts";
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

/** Can this computer run `uiommu run`? Tries each thing that it takes. */
export function checkComputer(): Check[] {
  return [system(), node(), shim(), preload(), processMemory(), sockets(), openFiles(), lockedMemory()];
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

function system(): Check {
  return check(
    "Linux on x86-64 or arm64",
    "run it on such a computer, or in such a virtual machine or container",
    () => ({
      ok: process.platform === "linux" && (process.arch === "x64" || process.arch === "arm64"),
      found: `${process.platform} ${process.arch}`,
    }),
  );
}

function node(): Check {
  return check("Node.js 20 or later", "install Node.js 20 or later", () => ({
    ok: Number.parseInt(process.versions.node, 10) >= 20,
    found: `Node.js ${process.versions.node}`,
  }));
}

function shim(): Check {
  const compiler = process.env.CC ?? "cc";
  return check(
    "the shim, or a C compiler to build it",
    "install one, e.g. apt-get install gcc libc6-dev, or set CC",
    () => {
      const files = shimFiles();
      if (!existsSync(shimSources)) return { ok: existsSync(files.library), found: files.library };
      const folder = mkdtempSync(join(tmpdir(), "uiommu-doctor-"));
      try {
        compileShim(compiler, folder);
        return { ok: true, found: `${compiler} compiles the shim` };
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
  );
}

function preload(): Check {
  return check("LD_PRELOAD works", "use a dynamically linked glibc system (not musl), and allow LD_PRELOAD", () => {
    const { library } = findShim();
    const report = (process.report?.getReport() ?? {}) as { header?: { glibcVersionRuntime?: string } };
    const libc = report.header?.glibcVersionRuntime;
    const { stdout, stderr, status } = spawnSync("cat", ["/proc/self/maps"], {
      encoding: "utf8",
      env: { ...process.env, LD_PRELOAD: library },
    });
    const loaded = status === 0 && stdout.includes(library);
    const name = libc === undefined ? "not glibc" : `glibc ${libc}`;
    return { ok: loaded, found: loaded ? `${name}, the shim is loaded` : `${name}, not loaded ${stderr.trim()}` };
  });
}

function processMemory(): Check {
  const remedy =
    "allow reading the memory of own processes: sysctl kernel.yama.ptrace_scope=1 or 0; in Docker: a seccomp profile that allows ptrace";
  return check("reading the memory of own processes", remedy, () => {
    const scope = "/proc/sys/kernel/yama/ptrace_scope";
    const yama = existsSync(scope) ? `ptrace_scope ${readFileSync(scope, "utf8").trim()}` : "no Yama";
    // A process that is no descendant of the reader is the harder case, and the shim asks for it to be allowed.
    const script = `
      const fs = require("node:fs");
      const pid = ${process.pid};
      const start = parseInt(fs.readFileSync("/proc/" + pid + "/maps", "latin1").split("-")[0], 16);
      fs.readSync(fs.openSync("/proc/" + pid + "/mem", "r"), Buffer.alloc(4), 0, 4, start);`;
    const parent = spawnSync(process.execPath, ["-e", script], { encoding: "utf8" });
    const maps = readFileSync("/proc/self/maps", "latin1");
    const mem = openSync("/proc/self/mem", "r");
    readSync(mem, Buffer.alloc(4), 0, 4, Number.parseInt(maps.split("-")[0], 16));
    closeSync(mem);
    const ok = parent.status === 0 || yama.endsWith(" 1");
    return { ok, found: ok ? `/proc/PID/mem can be read (${yama})` : `/proc/PID/mem cannot be read (${yama})` };
  });
}

function sockets(): Check {
  return check(
    "a private directory for sockets",
    "set XDG_RUNTIME_DIR or TMPDIR to a writable directory with a short path",
    () => {
      const directory = makePrivateDirectory();
      try {
        const server = createServer();
        server.on("error", () => undefined);
        server.listen(join(directory, "probe"));
        accessSync(join(directory, "probe"), constants.W_OK);
        server.close();
        return { ok: true, found: directory };
      } finally {
        rmSync(directory, { recursive: true, force: true });
      }
    },
  );
}

function limit(name: string): number {
  const text = readFileSync("/proc/self/limits", "latin1");
  const hard = new RegExp(`^${name}\\s+\\S+\\s+(\\S+)`, "m").exec(text)?.[1] ?? "0";
  return hard === "unlimited" ? Number.POSITIVE_INFINITY : Number(hard);
}

function openFiles(): Check {
  return check("1024 open files or more", "raise the hard limit: ulimit -Hn 65536", () => {
    const files = limit("Max open files");
    return { ok: files >= 1024, found: `${files} (clients can have that many files of uiommu open, all together)` };
  });
}

function lockedMemory(): Check {
  return check("memory that clients may pin", "raise it: ulimit -Hl unlimited; or pin less than that", () => {
    const bytes = limit("Max locked memory");
    return { ok: bytes >= 65536, found: bytes === Number.POSITIVE_INFINITY ? "unlimited" : `${bytes / 1024} KiB each` };
  });
}
