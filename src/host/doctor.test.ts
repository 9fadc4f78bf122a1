import { chmodSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import { compileShim, findShim, SetupError } from "./build.ts";
import { testShim } from "./clients.test-support.ts";
import { makePrivateDirectory } from "./directory.ts";
import { type Computer, checkComputer, thisComputer } from "./doctor.ts";

/** A computer on which all is well, quick to ask. */
const good: Computer = {
  system: () => "linux x64",
  nodeVersion: () => "20.20.2",
  shim: () => ({ library: "/lib.so", helper: "/helper" }),
  glibcVersion: () => "2.36",
  preload: () => undefined,
  readsMemory: () => true,
  ptraceScope: () => undefined,
  directory: () => "/tmp/uiommu-1-abc",
  limit: () => Number.POSITIVE_INFINITY,
};

function missing(difference: Partial<Computer>): string[] {
  return checkComputer({ ...good, ...difference })
    .filter(({ ok }) => !ok)
    .map(({ name, found, remedy }) => `${name}: ${found}; ${remedy}`);
}

function failing(message: string): () => never {
  return () => {
    throw new SetupError(message);
  };
}

describe("what is missing is named, with what was found and what would mend it", () => {
  test("nothing", () => {
    expect(missing({})).toEqual([]);
    expect(missing({ system: () => "linux arm64", nodeVersion: () => "24.0.0" })).toEqual([]);
  });

  test.each<[string, Partial<Computer>, RegExp]>([
    ["another system", { system: () => "darwin arm64" }, /^Linux on .*: darwin arm64; run it on such a computer/],
    ["an old Node.js", { nodeVersion: () => "18.19.0" }, /^Node.js 20.*: Node.js 18.19.0; install Node.js 20/],
    [
      "a libc that is not glibc",
      { glibcVersion: () => undefined, preload: () => "cannot" },
      /: not glibc, not loaded: cannot; use a .*glibc/,
    ],
    ["no ptrace", { readsMemory: () => false }, /cannot be read \(no Yama\); .*--cap-add SYS_PTRACE/],
    [
      "Yama",
      { readsMemory: () => false, ptraceScope: () => 2 },
      /cannot be read \(ptrace_scope 2\); sysctl kernel.yama.ptrace_scope=1/,
    ],
    [
      "no directory",
      { directory: failing("tried /tmp (EROFS)") },
      /^a private directory.*: tried \/tmp \(EROFS\); set XDG_RUNTIME_DIR or TMPDIR/,
    ],
    [
      "few files",
      { limit: (name) => (name === "Max open files" ? 64 : 1e9) },
      /^1024 open files or more: 64 .*; .*ulimit -Hn/,
    ],
    [
      "little memory",
      { limit: (name) => (name === "Max locked memory" ? 0 : 1e9) },
      /^memory that.*: 0 KiB each; .*ulimit -Hl/,
    ],
  ])("%s", (_name, difference, expected) => {
    const found = missing(difference);
    expect(found).toEqual([expect.stringMatching(expected)]);
  });

  test("no shim and no compiler: one fault, not two", () => {
    expect(missing({ shim: failing("no C compiler: cc cannot be started (ENOENT)") })).toEqual([
      expect.stringMatching(/^the shim, or a C compiler.*: no C compiler: .*; apt-get install gcc/),
      expect.stringMatching(/^LD_PRELOAD works: not tried without the shim; /),
    ]);
  });

  test("Yama's 1 is no fault: the shim asks for what it forbids", () => {
    expect(missing({ readsMemory: () => false, ptraceScope: () => 1 })).toEqual([]);
  });
});

describe("this computer", () => {
  afterEach(() => vi.unstubAllEnvs());

  test("is asked in earnest", () => {
    expect(missing({ ...thisComputer, shim: testShim })).toEqual([]);
    expect(thisComputer.preload("/nowhere/lib.so")).toMatch(/cannot be preloaded/);
  });

  test("a TMPDIR that is not there, or too long, is passed over", () => {
    const long = join(tmpdir(), "x".repeat(90));
    mkdirSync(long, { recursive: true });
    try {
      for (const place of ["/nonexistent", long]) {
        vi.stubEnv("TMPDIR", place);
        vi.stubEnv("XDG_RUNTIME_DIR", "");
        const directory = makePrivateDirectory();
        expect(["/dev/shm", "/tmp"]).toContain(dirname(directory));
        expect(basename(directory)).toMatch(/^uiommu-\d+-/);
        rmSync(directory, { recursive: true });
      }
    } finally {
      rmSync(long, { recursive: true });
    }
  });

  test("without a compiler a shim that is current is used, and compiling says what to install", () => {
    vi.stubEnv("PATH", "/nonexistent");
    const folder = mkdtempSync(join("/tmp", "uiommu-nocc-"));
    chmodSync(folder, 0o700);
    expect(() => compileShim("cc", folder)).toThrow(/no C compiler: cc cannot be started \(ENOENT\); install one/);
    rmSync(folder, { recursive: true });
    const { library } = testShim();
    expect(findShim("cc", dirname(library)).library).toBe(library);
  });
});
