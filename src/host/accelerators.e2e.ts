import { type ChildProcess, spawn } from "node:child_process";
import { afterAll, beforeAll, expect, test } from "vitest";
import { AcceleratorHost } from "./accelerators.test-support.ts";

const served = new AcceleratorHost();
beforeAll(() => served.host.listen(), 60_000);
afterAll(() => served.close());

/** A program with copies of 64 MiB under way on all four of its queues. */
async function victim(): Promise<ChildProcess> {
  const child = spawn(served.program, ["victim"], { env: { ...process.env, ...served.host.environment() } });
  await new Promise((resolve) => child.stdout.once("data", resolve));
  return child;
}

function killed(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    child.once("close", () => resolve());
    child.kill("SIGKILL");
  });
}

test("what libc and the program's own system calls change unseen is not read or written where it is gone", async () => {
  expect((await served.run("unseen")).length).toBe(8);
  await served.expectNothingLeft();
});

test("eight threads copy, and unmap what is being copied", async () => {
  await served.run("threads");
  await served.expectNothingLeft();
});

test("several programs at once keep to their own memory", async () => {
  // 4 queues on each of two devices.
  const all = await Promise.all(["changes", "doorbell", "waiting"].map((what) => served.run(what)));
  expect(all.flat().length).toBeGreaterThan(30);
  await served.expectNothingLeft();
});

test("a program that is killed with copies in flight leaves nothing, ten times", async () => {
  for (let round = 0; round < 10; round++) {
    const child = await victim();
    await new Promise((resolve) => setTimeout(resolve, 7 * round));
    await killed(child);
    await served.expectNothingLeft();
  }
  await served.run("waiting");
});

test("two programs are killed while a third copies", async () => {
  const victims = await Promise.all([victim(), victim()]);
  const [first, second] = victims;
  await killed(first);
  const { devices } = served.machine.uacce;
  await expect.poll(() => devices.map(({ openFiles }) => openFiles.size), { timeout: 20_000 }).toEqual([2, 2]);
  const lines = served.run("doorbell");
  await killed(second);
  expect(await lines).toEqual(["ok 300 jobs without a call"]);
  await served.expectNothingLeft();
});

test("exec: the old memory is out of reach, the new program binds its own", async () => {
  expect((await served.run("exec")).length).toBe(3);
  await served.expectNothingLeft();
});

test("a device that is taken from its driver takes the queues of its files, and comes back", async () => {
  expect((await served.run("removal")).length).toBe(9);
  await served.expectNothingLeft();
});

test("garbage in ioctls, rings and doorbells", async () => {
  expect((await served.run("garbage")).length).toBe(4);
  await served.expectNothingLeft();
});

test("jobs without a call, by a ring and a doorbell that are mapped", async () => {
  expect(await served.run("doorbell")).toEqual(["ok 300 jobs without a call"]);
  await served.expectNothingLeft();
});
