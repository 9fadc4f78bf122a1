import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { EventFd } from "../memory/index.ts";
import { EBADF, EPERM, refuse } from "../runtime/index.ts";
import { SetupError } from "./build.ts";
import type { ClientProcess } from "./client.ts";
import { HELPER_RELEASE, HELPER_SIGNAL, HELPER_TAKE, HelperCommand } from "./protocol.ts";

/** How long the helper may take to start, in milliseconds. */
const START_LIMIT = 5000;

/**
 * Eventfds of clients. A small helper process (shim/fd-helper.c) holds them, since Node cannot receive descriptors; it
 * starts when the first is needed and ends with the host. Commands go to it through one FIFO; through another it
 * confirms each, so that a signal is in the eventfd before the call that caused it is answered.
 */
export class EventFds {
  private readonly helper: string;
  private readonly directory: string;
  private child: ChildProcess | undefined;
  private commands = -1;
  private answers = -1;
  private outstanding = 0;
  private lastToken = 0;
  private readonly command = new HelperCommand();
  private readonly answer = new Int32Array(1);

  constructor(helper: string, directory: string) {
    this.helper = helper;
    this.directory = directory;
  }

  /** Takes a copy of an eventfd out of a client. Throws Refusal. */
  take(client: ClientProcess, fd: number): EventFd {
    this.startHelper();
    const token = ++this.lastToken;
    this.settle();
    const errno = this.ask(HELPER_TAKE, token, client.pid, fd);
    if (errno !== 0)
      refuse(
        errno === EPERM ? EPERM : EBADF,
        () => `eventfd ${fd} of ${client.label} cannot be taken (errno ${errno})`,
      );
    let released = false;
    return {
      signal: () => this.send(HELPER_SIGNAL, token),
      release: () => {
        if (released) return;
        released = true;
        this.send(HELPER_RELEASE, token);
      },
    };
  }

  /** Returns when everything sent so far has been done. */
  settle(): void {
    for (; this.outstanding > 0; this.outstanding--) this.await();
  }

  close(): void {
    if (this.child === undefined) return;
    closeSync(this.commands);
    closeSync(this.answers);
    this.child.kill("SIGKILL");
    this.child = undefined;
  }

  private ask(operation: number, token: number, pid: number, fd: number): number {
    this.put(operation, token, pid, fd);
    return this.await();
  }

  private send(operation: number, token: number): void {
    if (this.child === undefined) return;
    this.put(operation, token, 0, -1);
    // The pipe of answers holds 64 KiB; never let the helper wait for us.
    if (++this.outstanding >= 1024) this.settle();
  }

  private put(operation: number, token: number, pid: number, fd: number): void {
    const { command } = this;
    command.operation = operation;
    command.token = token;
    command.pid = pid;
    command.fd = fd;
    writeSync(this.commands, command.$bytes);
  }

  private await(): number {
    const size = readSync(this.answers, this.answer);
    return size === 4 ? this.answer[0] : EPERM;
  }

  private startHelper(): void {
    if (this.child !== undefined) return;
    this.child = spawn(this.helper, [this.directory], { stdio: "ignore", detached: true });
    this.child.unref();
    this.child.on("error", () => undefined);
    const ready = join(this.directory, "helper-answers");
    const deadline = performance.now() + START_LIMIT;
    while (!existsSync(ready)) {
      if (performance.now() > deadline) throw new SetupError(`${this.helper} does not start`);
      Atomics.wait(pause, 0, 0, 0.2);
    }
    this.commands = openSync(join(this.directory, "helper-commands"), "w");
    this.answers = openSync(ready, "r");
  }
}

const pause = new Int32Array(new SharedArrayBuffer(4));
