import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Benchmark, Row } from "../../bench/benchmark.ts";
import { shimSources } from "./build.ts";
import { ToyHost, testProgram } from "./clients.test-support.ts";

const ROUNDS = 7;

function middle(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}

/** The quickest quarter's last: other load on the computer only ever adds. */
function quick(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 2];
}

/** umockdev's client and handler, if it is installed (Debian: umockdev, libumockdev-dev). */
function umockdevProgram(folder: string): string | undefined {
  const flags = spawnSync("pkg-config", ["--cflags", "--libs", "umockdev-1.0"], { encoding: "utf8" });
  if (flags.status !== 0 || spawnSync("umockdev-wrapper", ["true"]).status !== 0) return undefined;
  const program = join(folder, "umockdev-loop");
  const source = join(shimSources, "test", "umockdev-loop.c");
  execFileSync("cc", ["-O2", "-o", program, source, ...flags.stdout.trim().split(/\s+/)]);
  return program;
}

async function ioctlRows(folder: string): Promise<Row[]> {
  const served = new ToyHost();
  await served.host.listen();
  const loop = testProgram("loop");
  const peer = umockdevProgram(folder);
  const ours: number[][] = [];
  const theirs: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    ours.push((await served.client(loop, ["20000"])).stdout.trim().split(" ").map(Number));
    if (peer === undefined) continue;
    const { stdout } = await served.client("umockdev-wrapper", [peer, "2000"], { LD_PRELOAD: "", UIOMMU_DIR: "" });
    theirs.push(Number(stdout.split(" ")[0]));
  }
  await served.host.close();
  const [p50, p99] = [0, 1].map((i) => middle(ours.map((sample) => sample[i])) / 1000);
  const theirP50 = middle(theirs) / 1000;
  const rows: Row[] = [
    { what: "one ioctl from C, 24 bytes both ways, p50", value: p50, unit: "µs" },
    { what: "one ioctl from C, 24 bytes both ways, p99", value: p99, unit: "µs" },
  ];
  if (peer === undefined) {
    return [
      ...rows,
      { what: "times faster than umockdev", value: 0, unit: "times", peer: "umockdev is not installed here" },
    ];
  }
  return [
    ...rows,
    {
      what: "times faster than umockdev",
      value: theirP50 / p50,
      unit: "times",
      goal: "≥ 8 times",
      met: theirP50 / p50 >= 8,
      peer: `umockdev, 40 bytes both ways: ${theirP50.toFixed(1)} µs`,
    },
  ];
}

/** What a command takes with the shim, beyond what it takes without, in percent: the quicker quarters of runs in turn. */
function overhead(environment: Record<string, string>, command: string, args: string[], cwd: string): number {
  const time = (extra: Record<string, string>): number => {
    const start = process.hrtime.bigint();
    spawnSync(command, args, { cwd, env: { ...process.env, ...extra }, stdio: "ignore" });
    return Number(process.hrtime.bigint() - start);
  };
  const without: number[] = [];
  const withShim: number[] = [];
  for (let round = 0; round < 100; round++) {
    without.push(time({}));
    withShim.push(time(environment));
  }
  return (quick(withShim) / quick(without) - 1) * 100;
}

function makeTree(folder: string): string {
  const tree = join(folder, "tree");
  for (let i = 0; i < 200; i++) {
    mkdirSync(join(tree, `folder-${i}`), { recursive: true });
    for (let k = 0; k < 50; k++) writeFileSync(join(tree, `folder-${i}`, `file-${k}`), `${i} ${k}\n`);
  }
  const git = (...args: string[]) =>
    execFileSync("git", ["-c", "user.name=x", "-c", "user.email=x", ...args], { cwd: tree });
  git("init", "-q");
  git("add", ".");
  git("commit", "-q", "-m", "x");
  return tree;
}

async function strangerRows(folder: string): Promise<Row[]> {
  const served = new ToyHost();
  await served.host.listen();
  const environment = served.host.environment();
  const tree = makeTree(folder);
  const percent = (what: string, value: number): Row => ({
    what,
    value,
    unit: "percent",
    goal: "≤ 2 percent",
    met: value <= 2,
  });
  const own = testProgram("own");
  const run = async (extra: NodeJS.ProcessEnv): Promise<number> =>
    Number((await served.client(own, ["400000"], extra)).stdout);
  const differences: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const without = await run({ LD_PRELOAD: "" });
    differences.push((await run({})) - without);
  }
  const difference = middle(differences);
  const rows: Row[] = [
    percent(
      "a program without files of ours: git status of 10,000 files",
      overhead(environment, "git", ["status"], tree),
    ),
    percent(
      "a program without files of ours: find over 10,000 files",
      overhead(environment, "find", [".", "-type", "f"], tree),
    ),
    { what: "its own ioctl takes longer by", value: difference, unit: "ns", goal: "≤ 100 ns", met: difference <= 100 },
  ];
  await served.host.close();
  return rows;
}

const benchmark: Benchmark = {
  name: "host",
  async rows() {
    const folder = mkdtempSync(join(tmpdir(), "uiommu-bench-"));
    try {
      return [...(await ioctlRows(folder)), ...(await strangerRows(folder))];
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
};
export default benchmark;
