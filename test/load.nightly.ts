/** Eight programs at once, each with all that fits: what they get back is all that they gave, and the host forgets them. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

const [PROCESSES, DEVICES, AREAS, ROUNDS] = [8, 1000, 100_000, 3];
/** Megabytes of garbage that the host may keep: without a limit it collects some when memory is short, not before. */
const HEAP = 1000;

const root = join(import.meta.dirname, "..");

test(`${PROCESSES} programs with ${DEVICES} devices and ${AREAS} areas each lose nothing, and leave nothing`, () => {
  const folder = mkdtempSync(join(tmpdir(), "uiommu-load-"));
  try {
    const program = join(folder, "load");
    execFileSync("cc", ["-O2", "-Wall", "-Wextra", "-o", program, join(root, "test", "load.c"), "-lpthread"]);
    const load = [program, PROCESSES, DEVICES, AREAS, ROUNDS].map(String);
    execFileSync(process.execPath, ["tools/build.js", "--if-needed"], { cwd: root });
    const host = [`--max-old-space-size=${HEAP}`, "bin/uiommu.js", "run", "--mock", "--"];
    const output = execFileSync(process.execPath, [...host, ...load], { cwd: root, encoding: "utf8" });
    console.log(`memory of the host in MB, at first, then full and afterwards:\n${output}`);
    const [, ...rounds] = output.trim().split("\n");
    expect(rounds).toHaveLength(ROUNDS);
    const full = rounds.map((round) => Number(round.split(" ")[0]));
    // What the first round left would come on top in the next ones.
    expect(full[ROUNDS - 1]).toBeLessThan(full[0] * 1.3);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
