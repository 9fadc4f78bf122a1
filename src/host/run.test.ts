import { execFileSync, spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { testProgram, testShim } from "./clients.test-support.ts";
import { checkProgram, findProgram } from "./elf.ts";

const folder = mkdtempSync(join(tmpdir(), "uiommu-run-"));
const runner = join(folder, "runner.mjs");
const here = import.meta.dirname;

beforeAll(() => {
  const shim = testShim();
  writeFileSync(
    runner,
    `import { run, endLike } from ${JSON.stringify(join(here, "run.ts"))};
     import { Toy } from ${JSON.stringify(join(here, "toy.test-support.ts"))};
     const [program, ...args] = process.argv.slice(2);
     const shim = ${JSON.stringify(shim)};
     try {
       endLike(await run(new Toy(), program, args, { shim, log: (text) => process.stderr.write(text + "\\n") }));
     } catch (error) {
       process.stderr.write(error.message + "\\n");
       process.exitCode = error.status ?? 70;
     }`,
  );
}, 60_000);
afterAll(() => rmSync(folder, { recursive: true }));

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs a program as `uiommu run` would; `during` gets the runner's pid when the program has printed something. */
function runs(program: string, args: string[] = [], during?: (pid: number) => void, input = ""): Promise<Ended> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ["--import", "tsx", runner, program, ...args], { cwd: join(here, "../..") });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      if (stdout === "" && child.pid !== undefined) during?.(child.pid);
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.stdin.end(input);
    child.once("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

describe.concurrent("run", () => {
  test("output, input and exit status are the program's own", async () => {
    const ended = await runs("sh", ["-c", "cat; echo error >&2; exit 42"], undefined, "input");
    expect(ended).toEqual({ code: 42, signal: null, stdout: "input", stderr: "error\n" });
  });

  test("a program that ends by a signal ends us by the same", async () => {
    const ended = await runs("sh", ["-c", "kill -TERM $$"]);
    expect(ended).toMatchObject({ code: null, signal: "SIGTERM", stderr: "" });
  });

  test("SIGTERM and SIGINT sent to us reach the program", async () => {
    const script = "trap 'echo got; exit 3' TERM INT; echo ready; while :; do sleep 0.02; done";
    const ended = await Promise.all(
      (["SIGTERM", "SIGINT"] as const).map((signal) => runs("sh", ["-c", script], (pid) => process.kill(pid, signal))),
    );
    for (const each of ended) expect(each).toMatchObject({ code: 3, stdout: "ready\ngot\n" });
  });

  test.skipIf(spawnSync("script", ["--version"]).status !== 0)(
    "Ctrl-C at a terminal reaches the program once",
    async () => {
      const program = `trap "echo got; exit 3" INT; echo ready; while :; do sleep 0.02; done`;
      // `exec`: a shell that stays in between would end by the signal before we do.
      const line = ["exec", process.execPath, "--import", "tsx", runner, "sh", "-c", `'${program}'`].join(" ");
      const child = spawn("script", ["-qec", line, "/dev/null"], { cwd: join(here, "../..") });
      let output = "";
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        if (output === "") child.stdin.write("\x03");
        output += text;
      });
      const code = await new Promise((resolve) => child.once("close", resolve));
      expect(output.replaceAll("\r", "")).toMatch(/^ready\n(\^C)?got\n$/);
      expect(code).toBe(3);
    },
  );

  test("the program has the file limit that we were started with", async () => {
    const { stdout } = await runs("sh", ["-c", "ulimit -Sn; env | grep -c UIOMMU_NOFILE"]);
    expect(stdout).toBe(`${execFileSync("sh", ["-c", "ulimit -Sn"], { encoding: "utf8" }).trim()}\n0\n`);
  });

  test("a process that stays in the background keeps its files until it closes them", async () => {
    const script = "exec 5<>/dev/toy/echo; (sleep 0.4; echo later) & exit 7";
    const ended = await runs("sh", ["-c", script]);
    expect(ended).toMatchObject({ code: 7, stdout: "later\n" });
    expect(ended.stderr).toMatch(/^the program has ended; waiting for .* to close 1 open files\n$/);
  });

  test("a program that does not exist", async () => {
    expect(await runs("/nowhere/at-all")).toMatchObject({ code: 127, stderr: "there is no program /nowhere/at-all\n" });
  });
});

describe("programs that the shim cannot be loaded into are named", () => {
  test("a static one, also behind a script", () => {
    const program = testProgram("loop", "-static");
    expect(() => checkProgram(program)).toThrow(/loop-static is statically linked: .*link it dynamically/);
    const script = join(folder, "script");
    writeFileSync(script, `#!${program} -x\n`);
    chmodSync(script, 0o755);
    expect(() => checkProgram(script)).toThrow(/is statically linked/);
  });

  test("one for another architecture", () => {
    const program = join(folder, "foreign");
    const header = Buffer.alloc(64);
    header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
    header.writeUInt16LE(243, 18); // RISC-V
    writeFileSync(program, header, { mode: 0o755 });
    expect(() => checkProgram(program)).toThrow(/is for another architecture/);
  });

  test("ordinary ones, scripts and texts pass", () => {
    expect(() => checkProgram(findProgram("sh"))).not.toThrow();
    const script = join(folder, "env-script");
    writeFileSync(script, "#!/usr/bin/env sh\n", { mode: 0o755 });
    expect(() => checkProgram(script)).not.toThrow();
    writeFileSync(script, "#!/nowhere/sh\n", { mode: 0o755 });
    expect(() => checkProgram(script)).toThrow(/its interpreter: there is no program \/nowhere\/sh/);
  });

  test("a directory, a file that is not executable, an unknown name", () => {
    expect(() => findProgram("/tmp")).toThrow(/is a directory/);
    expect(() => findProgram("/etc/passwd")).toThrow(/is not executable/);
    expect(() => findProgram("no-such-program")).toThrow("there is no program no-such-program in PATH");
  });
});
