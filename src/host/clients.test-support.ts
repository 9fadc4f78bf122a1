/** Real clients for tests: the shim and the C programs of shim/test compiled once, a host over the toy machine. */
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, statSync } from "node:fs";
import { join } from "node:path";
import { compileShim, type ShimFiles, shimFiles, shimSources } from "./build.ts";
import { Host, type HostOptions } from "./host.ts";
import { Toy } from "./toy.test-support.ts";

const folder = join(shimSources, "..", ".cache", "test-build");
const tests = join(shimSources, "test");

function newest(directory: string): number {
  return Math.max(...readdirSync(directory).map((name) => statSync(join(directory, name)).mtimeMs));
}

/** The shim, compiled if its sources are newer than the last time. */
export function testShim(): ShimFiles {
  const files = shimFiles(folder);
  const built = existsSync(files.helper)
    ? Math.min(statSync(files.library).mtimeMs, statSync(files.helper).mtimeMs)
    : 0;
  return built > newest(shimSources) ? files : compileShim("cc", folder);
}

/** The compiled shim/test/NAME.c. */
export function testProgram(name: string, ...options: string[]): string {
  mkdirSync(folder, { recursive: true });
  const source = join(tests, `${name}.c`);
  const program = join(folder, [name, ...options].join(""));
  if (existsSync(program) && statSync(program).mtimeMs > statSync(source).mtimeMs) return program;
  const partial = `${program}.${process.pid}`;
  execFileSync("cc", [
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    ...options,
    "-I",
    shimSources,
    "-o",
    partial,
    source,
    "-lpthread",
  ]);
  renameSync(partial, program);
  return program;
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a client of `host` to its end. */
export function runClient(
  host: Pick<Host, "environment">,
  program: string,
  args: readonly string[] = [],
  environment: NodeJS.ProcessEnv = {},
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env: { ...process.env, ...host.environment(), ...environment } });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.once("error", reject);
    child.once("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

export class ToyHost {
  readonly toy: Toy = new Toy();
  readonly host: Host;

  constructor(shim: ShimFiles = testShim(), options: HostOptions = {}) {
    this.host = new Host(this.toy, { shim, ...options });
  }

  client(program: string, args?: readonly string[], environment?: NodeJS.ProcessEnv): Promise<Ended> {
    return runClient(this.host, program, args, environment);
  }
}
