import { spawn } from "node:child_process";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  type File,
  type FileWindow,
  type MmapRequest,
  PAGE_SIZE,
  PhysicalMemory,
  type Process,
  type UserAddress,
} from "../memory/index.ts";
import { EINVAL, ENOTTY, ENXIO, EPERM, refuse, System, type Task } from "../runtime/index.ts";
import { testProgram, testShim } from "./clients.test-support.ts";
import { Host } from "./host.ts";
import { ToyTree } from "./toy.test-support.ts";

const PAGES = 2;
const PEEK = 0x3b01; // { u64 offset, u64 value }: reads the window as a device would
const POKE = 0x3b02; // likewise, writes
const USERS = 0x3b03; // returns how many mmaps hold the window
const QUEUE = 0x3b04; // s32: a new descriptor of the queue
const PUSH = 0x3b05; // value: into the queue; from 100 on into the one that only speaks
const POP = 0x3b06; // out of it again, by somebody else
const RESULT = 0x3b07; // returns a new descriptor of the queue that only speaks

/** A byte queue that moves bytes from and to the client's memory itself. */
class Queue implements File {
  readonly label = "queue";
  readonly inodeName = "test-queue";
  readonly hasPosition = false;
  readonly values: number[] = [];
  readonly writable: boolean;
  onReadable: (() => void) | undefined;

  constructor({ writable }: { writable: boolean }) {
    this.writable = writable;
  }

  *ioctl(): Task<number> {
    return refuse(ENOTTY, () => "a queue has no ioctl");
  }

  readable(): boolean {
    return this.values.length > 0;
  }

  push(value: number): void {
    this.values.push(value);
    this.onReadable?.();
  }

  *readInto(process: Process, address: UserAddress, count: number): Task<number> {
    if (this.values.length === 0 || count === 0) return 0;
    process.memory.write(address, Uint8Array.of(this.values[0]));
    this.values.shift();
    return 1;
  }

  *writeFrom(process: Process, address: UserAddress): Task<number> {
    const bytes = new Uint8Array(1);
    process.memory.read(address, bytes);
    this.push(bytes[0]);
    return 1;
  }

  *release(): Task<void> {}
}

/** A file with one window, at offset 4096. */
class WindowFile implements File {
  readonly label = "window";
  readonly hasPosition = false;
  readonly queue = new Queue({ writable: true });
  readonly speaker = new Queue({ writable: false });
  readonly pfn: number;
  holders = 0;
  releases = 0;
  private readonly memory: PhysicalMemory;

  constructor(memory: PhysicalMemory) {
    this.memory = memory;
    this.pfn = memory.allocateShareable(PAGES);
  }

  *ioctl(process: Process, request: number, argument: number): Task<number> {
    const words = new BigUint64Array(2);
    const bytes = new Uint8Array(words.buffer);
    switch (request) {
      case PEEK:
      case POKE: {
        process.memory.read(argument, bytes);
        const at = this.pfn * PAGE_SIZE + Number(words[0]);
        if (request === PEEK) this.memory.read(at, bytes.subarray(8));
        else this.memory.write(at, bytes.subarray(8));
        process.memory.write(argument, bytes);
        return 0;
      }
      case USERS:
        return this.holders;
      case QUEUE:
        process.installFile(this.queue, argument);
        return 0;
      case PUSH:
        (argument < 100 ? this.queue : this.speaker).push(argument);
        return 0;
      case POP:
        this.queue.values.pop();
        return 0;
      case RESULT:
        return process.installFileAsResult(this.speaker);
      default:
        return refuse(ENOTTY, () => `0x${request.toString(16)}`);
    }
  }

  mmap(_process: Process, { offset, length, shared, executable }: MmapRequest): FileWindow {
    if (!shared) refuse(EINVAL, () => "not MAP_SHARED");
    if (executable) refuse(EPERM, () => "PROT_EXEC");
    if (offset !== BigInt(PAGE_SIZE) || length !== BigInt(PAGES * PAGE_SIZE)) refuse(ENXIO, () => "no whole window");
    this.holders++;
    return { pfn: this.pfn, count: PAGES, release: () => void this.holders-- };
  }

  *release(): Task<void> {
    expect(this.holders).toBe(0);
    this.releases++;
  }
}

const system = new System();
const memory = new PhysicalMemory(system, { ram: [{ base: 0x4000_0000, size: 2 ** 21 }] });
const files = new ToyTree();
const file = new WindowFile(memory);
let host: Host;

beforeAll(async () => {
  files.set("/dev/window", {
    kind: "device",
    major: 240,
    minor: 9,
    mode: 0o600,
    open: function* () {
      return file;
    },
  });
  host = new Host({ system, memory, files }, { shim: testShim() });
  await host.listen();
}, 60_000);
afterAll(() => host.close());

test("a program maps memory of the machine, and waits for queues that others empty", async () => {
  const child = spawn(testProgram("windows"), { env: { ...process.env, ...host.environment() } });
  let out = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  const code = await new Promise((resolve) => child.once("close", resolve));
  expect(out.split("\n").filter((line) => !line.startsWith("ok "))).toEqual([""]);
  expect(out.split("\n").length).toBeGreaterThan(30);
  expect(code).toBe(0);
  await host.whenIdle();
  expect([file.holders, file.releases]).toEqual([0, 1]);
  // What the program wrote when it had closed the file already.
  const word = new Uint8Array(8);
  memory.read(file.pfn * PAGE_SIZE + 24, word);
  expect(word[0]).toBe(55);
});
