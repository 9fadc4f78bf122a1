import { existsSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Call } from "./call.ts";
import { ToyHost, testProgram } from "./clients.test-support.ts";
import * as wire from "./protocol.ts";

let served: ToyHost;
let program: string;

beforeAll(async () => {
  program = testProgram("client");
  served = new ToyHost();
  await served.host.listen();
});
afterAll(() => served.host.close());
afterEach(async () => {
  served.host.onCall = undefined;
  await served.host.whenIdle();
  expect(served.toy.open.size, "files left open").toBe(0);
  expect(served.toy.memory.pinnedFrames, "pages left pinned").toBe(0);
});

/** Runs a group of shim/test/client.c; every promise that it prints must hold. */
async function promises(group: string, least: number): Promise<void> {
  const { code, stdout, stderr } = await served.client(program, [group]);
  const lines = stdout.trimEnd().split("\n");
  expect(lines.filter((line) => !line.startsWith("ok "))).toEqual([]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(lines.length).toBeGreaterThanOrEqual(least);
}

describe("a program sees our files", () => {
  test("by every call that takes a path", () => promises("paths", 39));
  test("and reads, writes, copies and passes on their descriptors", () => promises("files", 18));
  test("and is told EFAULT for wild pointers", () => promises("wild", 16));
  test("and waits for queues, and is signalled through eventfds", () => promises("queues", 16));
  test("from many threads and forked children", () => promises("threads", 6));
  test("from programs that it starts in any way", () => promises("spawns", 8));
});

test("pinned pages keep their content, whatever the process does", async () => {
  const { stdout } = await served.client(testProgram("memory", "-D_GNU_SOURCE"));
  const lines = stdout.trimEnd().split("\n");
  expect(lines.filter((line) => !line.startsWith("ok "))).toEqual([]);
  expect(lines).toContain("ok after SIGKILL pinned pages keep their content");
  expect(lines.length).toBe(23);
});

test("a shell works with our files as with any others", async () => {
  const script = [
    "cd /sys/bus/toy/devices/one && /bin/pwd",
    "echo from-shell > control && cat control",
    "ls /sys/bus/toy/devices",
    "test -c /dev/toyflat && echo character device",
    "echo x > vendor",
  ].join("\n");
  const { stdout, stderr } = await served.client("sh", ["-c", script]);
  expect(stdout).toBe("/sys/devices/toy0/one\nfrom-shell\none\ncharacter device\n");
  expect(stderr).toMatch(/vendor: Permission denied/);
});

test("a change of the tree is seen at once", async () => {
  const path = "/sys/devices/toy0/one/new";
  const set = async (place: string, content?: string): Promise<void> => {
    served.toy.files.set(place, content === undefined ? undefined : { kind: "text", mode: 0o444, read: () => content });
    await setImmediate();
  };
  await set(path, "first\n");
  expect((await served.client("cat", [path])).stdout).toBe("first\n");
  await set(path, "2\n");
  expect((await served.client("cat", [path])).stdout).toBe("2\n");
  await set(path);
  expect((await served.client("cat", [path])).code).toBe(1);
  await set("/sys/class/fresh/thing", "hello");
  expect((await served.client("cat", ["/sys/class/fresh/thing"])).stdout).toBe("hello");
  await set("/sys/class/fresh/thing");
  expect((await served.client("ls", ["/sys/class/fresh"])).code).toBe(2);
});

test("a client without the shim sees nothing", async () => {
  const { code } = await served.client("ls", ["/dev/toy"], { LD_PRELOAD: "" });
  expect(code).toBe(2);
});

test("two clients at once have files of their own", async () => {
  const results = await Promise.all([1, 2].map(() => served.client(program, ["files"])));
  for (const { stdout } of results) expect(stdout).not.toContain("FAIL");
});

test("what is killed is released", async () => {
  const ended = await Promise.all(
    [30, 60, 90].map(async (delay) => {
      const { stdout, signal } = await served.client("timeout", ["-s", "KILL", `${delay / 1000}`, program, "churn"]);
      return { stdout, signal };
    }),
  );
  for (const { stdout } of ended) expect(stdout).toBe("");
});

test("garbage on the socket ends that connection, and no other", async () => {
  const path = join(served.host.directory, "host");
  const one = served.client(program, ["threads"]);
  const key = Buffer.from(served.host.environment().UIOMMU_HOST.split(":")[1], "hex");
  const hello = (kind: number, more: Uint8Array = key): Buffer => {
    const bytes = Buffer.alloc(wire.Hello.size);
    Object.assign(new wire.Hello(bytes), { magic: wire.MAGIC, version: wire.VERSION, kind, pid: process.pid });
    bytes.set(more, wire.Hello.offsets.key);
    return bytes;
  };
  const garbage = [
    Buffer.from("GET / HTTP/1.0\r\n\r\n".repeat(10)),
    Buffer.alloc(100_000, 0xff),
    Buffer.alloc(wire.Hello.size),
    hello(0), // of no kind
    hello(wire.HELLO_OPEN), // opens without a client
    hello(wire.HELLO_PRIMARY, Buffer.alloc(16)), // a program that we did not start
    Buffer.concat([hello(wire.HELLO_PRIMARY), Buffer.alloc(200, 0xee)]), // an unknown request
  ];
  for (const bytes of garbage) {
    await new Promise<void>((resolve) => {
      const socket = connect(path, () => socket.write(bytes));
      socket.on("error", () => undefined);
      socket.on("data", () => undefined);
      socket.on("close", () => resolve());
    });
  }
  expect((await one).stdout).not.toContain("FAIL");
});

test("an observer hears every call, with its bytes", async () => {
  const calls: Call[] = [];
  served.host.onCall = (call) => calls.push(call);
  await served.client(program, ["wild"]);
  await served.host.whenIdle();
  const [open, get] = calls;
  expect(open).toMatchObject({ kind: "open", file: "/dev/toy/echo", result: 0 });
  expect(get).toMatchObject({ kind: "ioctl", file: "toy-echo", request: 0x3b01, result: 0, refusal: undefined });
  expect([get.before[16], get.after[16]]).toEqual([0, 42]);
  const refused = calls.find((call) => call.result === -1);
  expect(refused?.refusal?.errno).toBe(14);
  expect(refused?.refusal?.reason).toMatch(/^0x0-0x17 of client\[\d+\] is not mapped/);
  expect(calls.at(-1)).toMatchObject({ kind: "close" });
});

test("the private directory is gone with the host", async () => {
  const other = new ToyHost();
  await other.host.listen();
  const { directory } = other.host;
  expect((await other.client("cat", ["/sys/bus/toy/devices/one/name"])).stdout).toBe("one\n");
  await other.host.close();
  expect(existsSync(directory)).toBe(false);
});
