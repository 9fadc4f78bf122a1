/** `uiommu run --mock` with a real program: what tests of the mock IOMMU expect of their surroundings. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";

const root = join(import.meta.dirname, "../..");
const folder = mkdtempSync(join(tmpdir(), "uiommu-mock-"));
afterAll(() => rmSync(folder, { recursive: true }));

const start = `
  const { main } = await import(${JSON.stringify(join(root, "src/cli/main.ts"))});
  const { processTerminal } = await import(${JSON.stringify(join(root, "src/cli/terminal.ts"))});
  process.exitCode = await main(process.argv.slice(1), processTerminal());`;

test("a program has mock devices, shared frames, huge pages, its pins in /proc and failures", () => {
  const program = join(folder, "mock");
  const source = join(root, "shim/test/mock.c");
  const compiled = spawnSync("cc", ["-Wall", "-Wextra", "-Werror", "-o", program, source], { encoding: "utf8" });
  expect(compiled.stderr).toBe("");
  const { stdout, stderr, status } = spawnSync(
    process.execPath,
    ["--import", "tsx", "--input-type=module", "-e", start, "--", "run", "--mock", "--", program],
    { encoding: "utf8", cwd: root, timeout: 60_000, env: { ...process.env, NODE_OPTIONS: "" } },
  );
  expect(stderr).toBe("");
  expect(stdout.split("\n").filter((line) => !line.startsWith("ok: "))).toEqual([""]);
  expect(stdout.split("\n")).toHaveLength(12);
  expect(status).toBe(0);
});
