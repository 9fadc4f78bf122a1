import { spawnSync } from "node:child_process";
import { basename, dirname } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ToyHost, testProgram, testShim } from "./clients.test-support.ts";

let served: ToyHost;

beforeAll(async () => {
  served = new ToyHost();
  await served.host.listen();
});
afterAll(() => served.host.close());

test.each([
  ["what programs do to files by their names", "names", 11],
  ["openat2 with bounds", "bounds", 5],
  ["posix_spawn with file actions", "spawning", 6],
  ["streams over devices and texts, and cancellation", "streams", 3],
  ["descriptors that were made past our hooks", "fetched", 2],
])("%s", async (_what, group, count) => {
  const { code, stdout, stderr } = await served.client(testProgram("ways"), [group]);
  const lines = stdout.trimEnd().split("\n");
  expect(lines.filter((line) => !line.startsWith("ok "))).toEqual([]);
  expect({ code, stderr, count: lines.length }).toEqual({ code: 0, stderr: "", count });
});

test("a program into which the shim cannot be loaded is told of when it starts", async () => {
  const told: string[] = [];
  const blind = new ToyHost(testShim(), { onBlind: (program, why) => told.push(`${program} ${why}`) });
  await blind.host.listen();
  const program = testProgram("ways", "-static");
  await blind.client("sh", [
    "-c",
    `${program}; env ${program}; cd /; PATH=${dirname(program)}:$PATH env ${basename(program)}`,
  ]);
  expect(told).toEqual(Array(3).fill(`${program} static`));
  expect(blind.host.wasUsed).toBe(false);
  await blind.host.close();
});

const namespace = ["-Upf", "--map-root-user"];
test.skipIf(spawnSync("unshare", [...namespace, "true"]).status !== 0)(
  "a process in a PID namespace of its own",
  async () => {
    const { code, stdout } = await served.client("unshare", [...namespace, testProgram("client"), "wild"]);
    expect({ code, wrong: stdout.split("\n").filter((line) => line.startsWith("FAIL")) }).toEqual({
      code: 0,
      wrong: [],
    });
    expect(stdout).toContain("ok a buffer named in a struct");
  },
);

test("directories are open to all, whatever the umask", async () => {
  const before = process.umask(0o077);
  try {
    const closed = new ToyHost();
    await closed.host.listen();
    expect((await closed.client("stat", ["-c", "%a", "/sys/bus/toy/devices", "/dev/toy"])).stdout).toBe("755\n755\n");
    await closed.host.close();
  } finally {
    process.umask(before);
  }
});

test("a process sees which files of ours another one has", async () => {
  const script = "exec 5<>/dev/toy/echo; readlink /proc/$$/fd/5; find /proc/$$/fd/5 -printf '%l\\n'";
  expect((await served.client("bash", ["-c", script])).stdout).toBe("/dev/toy/echo\n/dev/toy/echo\n");
});
