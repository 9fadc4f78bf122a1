import { afterAll, beforeAll, expect, test } from "vitest";
import { ToyHost, testProgram } from "./clients.test-support.ts";

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

test("a process sees which files of ours another one has", async () => {
  const script = "exec 5<>/dev/toy/echo; readlink /proc/$$/fd/5; find /proc/$$/fd/5 -printf '%l\\n'";
  expect((await served.client("bash", ["-c", script])).stdout).toBe("/dev/toy/echo\n/dev/toy/echo\n");
});
