import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, constants, existsSync, openSync, readSync, writeSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import type { EventFd } from "../memory/index.ts";
import { EBADF, EPERM, refuse } from "../runtime/index.ts";
import { SetupError } from "./build.ts";
import {
  HELPER_LOOK,
  HELPER_RECEIVE,
  HELPER_RELEASE,
  HELPER_SIGNAL,
  HELPER_TAKE,
  HELPER_WATCH,
  HelperCommand,
} from "./protocol.ts";

const ENOSYS = 38;
/** How long the helper may take to start, in milliseconds. */
const START_LIMIT = 5000;

/** Whose eventfd it is. */
export interface EventFdOwner {
  readonly pid: number;
  readonly label: string;
  /** Asks the client to send the descriptor to the helper under that name. False if it makes no call just now. */
  sendDescriptor(fd: number, token: number): boolean;
}

/**
 * Eventfds of clients. A small helper process (shim/fd-helper.c) holds them, since Node cannot receive descriptors; it
 * starts when the first is needed and ends with the host. Commands go to it through one FIFO; through another it
 * confirms each, so that a signal is in the eventfd before the call that caused it is answered.
 *
 * The helper takes descriptors out of clients itself. Where that is forbidden (by a container, mostly) the client sends
 * them, in the middle of its call.
 */
export class EventFds {
  private readonly helper: string;
  private readonly directory: string;
  /** Runs what a client's signals cause. */
  private readonly onSignals: (effects: () => void) => void;
  private child: ChildProcess | undefined;
  private commands = -1;
  private answers = -1;
  private signals = -1;
  private listener: Socket | undefined;
  private outstanding = 0;
  private lastToken = 0;
  private readonly watchers = new Map<number, () => void>();
  private readonly command = new HelperCommand();
  private readonly answer = new Int32Array(1);
  private readonly signalled = new Uint32Array(1024);

  constructor(helper: string, directory: string, onSignals: (effects: () => void) => void) {
    this.helper = helper;
    this.directory = directory;
    this.onSignals = onSignals;
  }

  /** A copy of a client's eventfd. Throws Refusal EBADF. */
  take(client: EventFdOwner, fd: number): EventFd {
    this.startHelper();
    const token = ++this.lastToken;
    this.settle();
    let errno = this.ask(HELPER_TAKE, token, client.pid, fd);
    if ((errno === EPERM || errno === ENOSYS) && client.sendDescriptor(fd, token)) {
      errno = this.ask(HELPER_RECEIVE, token, client.pid, fd);
    }
    if (errno !== 0) refuse(EBADF, () => `eventfd ${fd} of ${client.label} cannot be taken (errno ${errno})`);
    let released = false;
    return {
      signal: () => this.send(HELPER_SIGNAL, token),
      watch: (signalled) => this.watch(token, signalled),
      release: () => {
        if (released) return;
        released = true;
        this.watchers.delete(token);
        this.send(HELPER_RELEASE, token);
      },
    };
  }

  /** Returns when everything sent so far has been done. */
  settle(): void {
    for (; this.outstanding > 0; this.outstanding--) this.await();
  }

  /** What clients have signalled before now takes effect before this returns. */
  hear(): void {
    if (this.watchers.size === 0) return;
    this.settle();
    this.ask(HELPER_LOOK, 0);
    this.dispatch();
  }

  close(): void {
    if (this.child === undefined) return;
    closeSync(this.commands);
    closeSync(this.answers);
    if (this.listener === undefined) closeSync(this.signals);
    this.listener?.destroy();
    this.child.kill("SIGKILL");
    this.child = undefined;
  }

  private watch(token: number, signalled: () => void): () => void {
    if (this.watchers.size === 0) this.listen();
    this.watchers.set(token, signalled);
    this.send(HELPER_WATCH, token, 1);
    return () => {
      if (this.watchers.delete(token)) this.send(HELPER_WATCH, token, 0);
    };
  }

  /** Signals are heard when they come, besides when a call asks for them. */
  private listen(): void {
    if (this.listener !== undefined) return;
    const buffer = new Uint8Array(4);
    const callback = (): boolean => {
      this.signalled.set(new Uint32Array(buffer.buffer), 0);
      this.dispatch(1);
      return true;
    };
    const options = { fd: this.signals, readable: true, writable: false, onread: { buffer, callback } };
    this.listener = new Socket(options).unref();
    this.listener.on("error", () => undefined);
  }

  /** Lets the tokens that lie in the FIFO take effect, behind `count` that are in `signalled` already. */
  private dispatch(count = 0): void {
    const bytes = new Uint8Array(this.signalled.buffer);
    for (let have = count; ; have = 0) {
      try {
        have += readSync(this.signals, bytes, have * 4, bytes.length - have * 4, null) / 4;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      }
      if (have === 0) return;
      const tokens = this.signalled.slice(0, have);
      this.onSignals(() => {
        for (const token of tokens) this.watchers.get(token)?.();
      });
    }
  }

  private ask(operation: number, token: number, pid = 0, fd = -1): number {
    this.put(operation, token, pid, fd);
    return this.await();
  }

  private send(operation: number, token: number, fd = -1): void {
    if (this.child === undefined) return;
    this.put(operation, token, 0, fd);
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
    this.signals = openSync(join(this.directory, "helper-signals"), constants.O_RDONLY | constants.O_NONBLOCK);
  }
}

const pause = new Int32Array(new SharedArrayBuffer(4));
