// Runs in a browser.
/**
 * The files by which Linux's failure injection is armed, for a machine that tests iommufd: `/proc/PID/task/TID/fail-nth`,
 * which all find as `/proc/fail-nth`, and the knobs under debugfs, of which each keeps what it is told.
 *
 * A thread writes N: of the places that can fail, the Nth that its calls come to fails. It reads what is left of N; 0 says
 * that it has come to that.
 */
import type { File, FileNode, Process } from "../memory/index.ts";
import { EINVAL, ENOTTY, refuse, type System, type Task } from "../runtime/index.ts";

const DEBUGFS = "/sys/kernel/debug";
/** Of the kernel's kinds of injected failures, those that reach iommufd; the last has no `ignore-gfp` knobs. */
const knobs: Readonly<Record<string, readonly string[]>> = {
  failslab: ["ignore-gfp-wait", "cache-filter"],
  fail_page_alloc: ["ignore-gfp-wait", "ignore-gfp-highmem", "min-order"],
  fail_iommufd: [],
};
const commonKnobs = ["probability", "interval", "times", "space", "verbose", "task-filter"];

/** What is armed for a thread. */
interface Countdown {
  readonly process: Process;
  /** Places that its calls still pass before one fails; 0 if none will. */
  left: number;
}

export class FailureFiles {
  private readonly system: System;
  /** By thread. */
  private readonly countdowns = new Map<number, Countdown>();
  private readonly settings = new Map<string, string>();

  constructor(system: System) {
    this.system = system;
  }

  nodes(): Map<string, FileNode> {
    const nodes = new Map<string, FileNode>();
    for (const [kind, own] of Object.entries(knobs)) {
      for (const knob of [...own, ...commonKnobs])
        nodes.set(`${DEBUGFS}/${kind}/${knob}`, this.knob(`${kind}/${knob}`));
    }
    const open = function* (this: FailureFiles, process: Process, thread = 0): Task<File> {
      return new FailNthFile(this, process, thread);
    };
    nodes.set("/proc/fail-nth", { kind: "device", major: 0, minor: 0, mode: 0o644, open: open.bind(this) });
    return nodes;
  }

  /** Places that the calls of a thread still pass before one fails; 0 if none will. */
  left(process: Process, thread: number): number {
    const countdown = this.countdowns.get(thread);
    return countdown?.process === process ? countdown.left : 0;
  }

  arm(process: Process, thread: number, left: number): void {
    this.countdowns.set(thread, { process, left });
    for (const [other, countdown] of this.countdowns) {
      if (countdown.left === 0 || !countdown.process.memory.alive) this.countdowns.delete(other);
    }
    this.system.failures.inject(this.countdowns.size === 0 ? undefined : () => this.passes());
  }

  /** A place that can fail is passed: true if it fails. */
  private passes(): boolean {
    const { current } = this.system.tasks;
    const countdown = current === undefined ? undefined : this.countdowns.get(current.thread);
    if (countdown === undefined || countdown.process !== current?.client || countdown.left === 0) return false;
    return --countdown.left === 0;
  }

  private knob(name: string): FileNode {
    const { settings } = this;
    return {
      kind: "text",
      mode: 0o600,
      read: () => settings.get(name) ?? "0\n",
      *write(_process, bytes) {
        settings.set(name, new TextDecoder().decode(bytes));
      },
    };
  }
}

/** `/proc/PID/task/TID/fail-nth`, opened. What is armed stays so when it is closed. */
class FailNthFile implements File {
  readonly label = "fail-nth";
  readonly hasPosition = true;
  readonly seekable = true;
  private readonly files: FailureFiles;
  private readonly process: Process;
  private readonly thread: number;

  constructor(files: FailureFiles, process: Process, thread: number) {
    this.files = files;
    this.process = process;
    this.thread = thread;
  }

  *read(_process: Process, position: number, into: Uint8Array): Task<number> {
    const text = new TextEncoder().encode(`${this.files.left(this.process, this.thread)}\n`).subarray(position);
    const part = text.subarray(0, into.length);
    into.set(part);
    return part.length;
  }

  *write(_process: Process, _position: number, from: Uint8Array): Task<number> {
    const text = new TextDecoder().decode(from).trim();
    const isNumber = /^(0x[0-9a-f]+|\d+)$/i.test(text) && Number(text) < 2 ** 32;
    if (!isNumber) refuse(EINVAL, () => `${JSON.stringify(text)} is no number of failures to pass`);
    this.files.arm(this.process, this.thread, Number(text));
    return from.length;
  }

  *ioctl(_process: Process, request: number): Task<number> {
    return refuse(ENOTTY, () => `0x${request.toString(16)}: ${this.label} has no ioctls`);
  }

  *release(): Task<void> {}
}
