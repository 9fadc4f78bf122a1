import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { buildMachine, presets } from "../machine/index.ts";
import { runClient, ToyHost, testProgram, testShim } from "./clients.test-support.ts";
import { Host } from "./host.ts";

const folder = mkdtempSync(join(tmpdir(), "uiommu-eventfds-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A helper that may not take descriptors out of other processes, as in most containers. */
function deniedHelper(errno: number): string {
  const path = join(folder, `denied-${errno}`);
  writeFileSync(path, `#!/bin/sh\nexec ${testProgram("deny")} ${errno} ${testShim().helper} "$@"\n`);
  chmodSync(path, 0o755);
  return path;
}

/** Lines that a program printed, without the promises that it found kept. */
function broken(stdout: string): string[] {
  return stdout
    .trimEnd()
    .split("\n")
    .filter((line) => !line.startsWith("ok "));
}

describe("where pidfd_getfd is forbidden, the client sends its eventfds", () => {
  for (const name of ["EPERM", "ENOSYS"] as const) {
    test(name, async () => {
      const errno = name === "EPERM" ? constants.errno.EPERM : constants.errno.ENOSYS;
      const served = new ToyHost({ ...testShim(), helper: deniedHelper(errno) });
      await served.host.listen();
      const { stdout, stderr, code } = await served.client(testProgram("client"), ["queues"]);
      expect(broken(stdout)).toEqual([]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      expect(stdout).toContain("ok an eventfd is signalled before the call returns");
      await served.host.whenIdle();
      expect(served.toy.open.size).toBe(0);
      await served.host.close();
    });
  }

  test("a client that is killed while it should send one holds up nobody for long", async () => {
    const served = new ToyHost({ ...testShim(), helper: deniedHelper(constants.errno.EPERM) });
    await served.host.listen();
    const start = performance.now();
    await Promise.all(
      [5, 10, 15, 20, 25, 30, 35, 40].map((delay) =>
        served.client("timeout", ["-s", "KILL", `${delay / 1000}`, testProgram("client"), "churn"]),
      ),
    );
    expect((await served.client(testProgram("client"), ["wild"])).stdout).not.toContain("FAIL");
    expect(performance.now() - start).toBeLessThan(4000);
    await served.host.close();
  });
});

test.each([
  ["taken", () => testShim().helper],
  ["sent", () => deniedHelper(constants.errno.EPERM)],
])("a driver unmasks INTx, and writes a register, by signalling an eventfd that was %s", async (_how, helper) => {
  const machine = buildMachine(presets["two-edu"]);
  const host = new Host(machine, { shim: { ...testShim(), helper: helper() } });
  await host.listen();
  const { stdout, stderr } = await runClient(host, testProgram("intx"));
  expect(stderr).toBe("");
  expect(broken(stdout)).toEqual([]);
  expect(stdout.split("\n").length).toBe(16);
  await host.whenIdle();
  await host.close();
});
