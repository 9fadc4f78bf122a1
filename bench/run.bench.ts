/** Whole programs under `uiommu run`: what starting costs, and one real ioctl of a C program. */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Benchmark, Row } from "./benchmark.ts";

const STARTS = 15;
const ROUNDS = 5;
const CALLS = 20_000;

/** The project's folder, found from where this is compiled to. */
const project = join(import.meta.dirname, "..", "..", "..");
const uiommu = join(project, "bin", "uiommu.js");

function run(...program: string[]): string {
  return execFileSync(process.execPath, [uiommu, "run", "--", ...program], { encoding: "utf8" });
}

function middle(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}

function seconds(body: () => void): number {
  const start = performance.now();
  body();
  return (performance.now() - start) / 1000;
}

function starts(): Row[] {
  const wall = middle(Array.from({ length: STARTS }, () => seconds(() => run("true"))));
  const bare = middle(Array.from({ length: STARTS }, () => seconds(() => spawnSync(process.execPath, ["-e", ""]))));
  // The program's parent is the host.
  const peak = Number(/VmHWM:\s*(\d+)/.exec(run("sh", "-c", "cat /proc/$PPID/status"))?.[1]) / 1000;
  return [
    {
      what: "uiommu run -- true, wall time",
      value: wall,
      unit: "s",
      goal: "≤ 0.3 s",
      met: wall <= 0.3,
      peer: `node alone: ${bare.toFixed(2)} s`,
    },
    { what: "uiommu run -- true, memory of the host", value: peak, unit: "MB", goal: "≤ 120 MB", met: peak <= 120 },
  ];
}

function option(): Row[] {
  const folder = mkdtempSync(join(tmpdir(), "uiommu-bench-"));
  const program = join(folder, "option");
  try {
    execFileSync("cc", ["-O2", "-o", program, join(project, "bench", "option.c")]);
    const samples = Array.from({ length: ROUNDS }, () => run(program, String(CALLS)).trim().split(" ").map(Number));
    const [p50, p99] = [0, 1].map((i) => middle(samples.map((sample) => sample[i])) / 1000);
    return [
      { what: "IOMMU_OPTION get from C, p50", value: p50, unit: "µs" },
      { what: "IOMMU_OPTION get from C, p99", value: p99, unit: "µs" },
    ];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const benchmark: Benchmark = { name: "run", rows: () => [...starts(), ...option()] };
export default benchmark;
