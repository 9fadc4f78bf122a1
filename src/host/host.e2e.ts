import { spawn } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { expect, test } from "vitest";
import { ToyHost, testProgram } from "./clients.test-support.ts";

const program = testProgram("client");

/** Descriptors of this process that matter: sockets and other processes' memory. */
function descriptors(): number {
  return readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return /^socket:|\/proc\/\d+\/mem/.test(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return false;
    }
  }).length;
}

function keepers(): number {
  return readdirSync("/proc").filter((pid) => {
    try {
      return (
        /^\d+$/.test(pid) &&
        /^Name:\tuiommu-keeper\nUmask.*\nState:\t[^Z]/.test(readFileSync(`/proc/${pid}/status`, "latin1"))
      );
    } catch {
      return false;
    }
  }).length;
}

test("10,000 open files in one client", async () => {
  const served = new ToyHost();
  const { host, toy } = served;
  await host.listen();
  const { stdout } = await served.client(program, ["many", "10000"]);
  expect(stdout).toBe("ok all are open\nok all work\n");
  await host.whenIdle();
  expect(toy.open.size).toBe(0);
  await host.close();
});

test("a thousand clients killed at random points leave nothing", async () => {
  const served = new ToyHost();
  const { host, toy } = served;
  await host.listen();
  const before = descriptors();
  let random = 12345;
  const kill = (): Promise<void> =>
    new Promise((resolve) => {
      random = (random * 1103515245 + 12345) % 2147483648;
      const child = spawn(program, ["churn"], { env: { ...process.env, ...host.environment() }, stdio: "ignore" });
      setTimeout(() => child.kill("SIGKILL"), (random / 2147483648) * 40);
      child.once("exit", () => resolve());
    });
  for (let round = 0; round < 250; round++) await Promise.all([kill(), kill(), kill(), kill()]);
  await host.whenIdle();
  for (let wait = 0; wait < 100 && (host.clients.size > 0 || keepers() > 0); wait++)
    await new Promise((done) => setTimeout(done, 50));
  expect(toy.open.size).toBe(0);
  expect(toy.memory.pinnedFrames).toBe(0);
  expect(toy.memory.adoptedFrames).toBe(0);
  expect(host.clients.size).toBe(0);
  expect(keepers()).toBe(0);
  expect(descriptors() - before).toBeLessThanOrEqual(2);
  expect((await served.client(program, ["wild"])).stdout).not.toContain("FAIL");
  await host.close();
});
