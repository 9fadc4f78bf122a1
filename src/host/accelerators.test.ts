import { afterAll, beforeAll, expect, test } from "vitest";
import { AcceleratorHost } from "./accelerators.test-support.ts";

const served = new AcceleratorHost();
beforeAll(() => served.host.listen(), 60_000);
afterAll(() => served.close());

test("every change of a program's mappings reaches the devices that use its memory", async () => {
  expect((await served.run("changes")).length).toBeGreaterThan(25);
  await served.expectNothingLeft();
});

test("a queue is waited for by poll and epoll", async () => {
  expect((await served.run("waiting")).length).toBe(7);
  await served.expectNothingLeft();
});

test("threads go on when the first one of their process has ended", async () => {
  expect((await served.run("leader")).length).toBe(3);
  await served.expectNothingLeft();
});
