import { describe, expect, test } from "vitest";
import { LibraryProcess } from "../memory/index.ts";
import { Refusal } from "../runtime/index.ts";
import { buildMachine, presets } from "./index.ts";

function setUp() {
  const machine = buildMachine(presets.empty, { mock: true });
  const { system } = machine;
  const process = new LibraryProcess(system, machine.memory);
  const node = machine.files.nodes.get("/proc/fail-nth");
  if (node?.kind !== "device") throw new Error("no fail-nth");
  const openFor = (thread: number) => {
    const file = system.run("open", node.open(process, thread));
    const write = (text: string): number =>
      system.run("write", file.write!(process, 0, new TextEncoder().encode(text)));
    const read = (): string => {
      const bytes = new Uint8Array(16);
      return new TextDecoder().decode(bytes.subarray(0, system.run("read", file.read!(process, 0, bytes))));
    };
    return { read, write, close: () => system.run("close", file.release()) };
  };
  const { read, write } = openFor(0);
  /** The place, counted from 1, at which a call of `client` fails that passes `places`; 0 if it does not. */
  const failsAt = (client: object | undefined, places: number, thread = 0): number => {
    let passed = 0;
    const call = function* () {
      for (; passed < places; passed++) system.failures.point("a place");
      passed = -1;
    };
    try {
      const task = system.tasks.spawn("call", call(), () => undefined);
      task.client = client;
      task.thread = thread;
      system.tasks.drain();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    }
    return passed + 1;
  };
  return { machine, process, openFor, write, read, failsAt };
}

describe("fail-nth", () => {
  test("lets the Nth place fail that calls of the process come to, and says when it did", () => {
    const { process, write, read, failsAt } = setUp();
    expect(read()).toBe("0\n");
    expect(write("5")).toBe(1);
    expect(failsAt(process, 3)).toBe(0);
    expect(read()).toBe("2\n");
    expect(failsAt(process, 3)).toBe(2);
    expect(read()).toBe("0\n");
    expect(failsAt(process, 3)).toBe(0);
  });

  test("leaves calls of others, and what is nobody's call, alone", () => {
    const { write, read, failsAt } = setUp();
    write("1");
    expect(failsAt({}, 3)).toBe(0);
    expect(failsAt(undefined, 3)).toBe(0);
    expect(read()).toBe("1\n");
    write("0");
    expect(read()).toBe("0\n");
  });

  test("counts for each thread apart, and on when the file is closed", () => {
    const { process, openFor, read, failsAt } = setUp();
    const file = openFor(7);
    expect([file.write("0x2"), file.read(), read()]).toEqual([3, "2\n", "0\n"]);
    file.close();
    expect([failsAt(process, 3), failsAt(process, 3, 8), failsAt(process, 3, 7)]).toEqual([0, 0, 2]);
    expect(openFor(7).read()).toBe("0\n");
  });

  test("refuses what is no number", () => {
    const { write } = setUp();
    expect(() => write("-1")).toThrow(Refusal);
    expect(() => write("all")).toThrow(Refusal);
  });
});

test("the knobs under debugfs keep what they are told, and are only there with the mock", () => {
  const { machine, process } = setUp();
  const path = "/sys/kernel/debug/failslab/ignore-gfp-wait";
  const knob = machine.files.nodes.get(path);
  if (knob?.kind !== "text") throw new Error("no knob");
  machine.system.run("write", knob.write!(process, new TextEncoder().encode("N\n")));
  expect(knob.read()).toBe("N\n");
  expect(buildMachine(presets.empty).files.nodes.has(path)).toBe(false);
  expect(buildMachine(presets.empty).files.nodes.has("/proc/fail-nth")).toBe(false);
});
