// Runs in a browser.
/**
 * Tasks: code that may block, as generators.
 *
 * A task yields only where it could block or be preempted: taking a lock,
 * waiting, an MMIO access, a DMA step. What it yields says where it stopped.
 * The executor here runs a task until it blocks. Points of preemption
 * ({@link Tasks.point}) are passed over unless `exploring` is set, so that a
 * checker can choose who runs next at each of them and nobody else pays.
 *
 * Always true: a task is running, ready, waiting (in exactly one wait queue) or
 * done. `current` is the running one, undefined outside of tasks.
 */
import { assert } from "./assert.ts";
import type { HeldLock } from "./locks.ts";

/** Where a task stopped: a name for people, such as `"mutex iommufd.ioas"`. */
export interface Suspension {
  readonly name: string;
}

/** Code that may block; it returns a T when done, or throws. Run one from another with `yield*`. */
export type Task<T> = Generator<Suspension, T, void>;

/** How a task ended. */
export type Outcome<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: unknown };

/** One running activity. */
export class TaskHandle<T = unknown> {
  readonly id: number;
  readonly name: string;
  /** Locks that it holds, in the order taken. */
  readonly held: HeldLock[] = [];
  /** Set when done. */
  outcome: Outcome<T> | undefined;
  /** Where it stopped last; undefined while it is ready or running. */
  waiting: Suspension | undefined;
  /** @internal */ readonly code: Task<T>;
  /** @internal */ readonly done: ((outcome: Outcome<T>) => void) | undefined;

  constructor(id: number, name: string, code: Task<T>, done?: (outcome: Outcome<T>) => void) {
    this.id = id;
    this.name = name;
    this.code = code;
    this.done = done;
  }
}

const preemption: Suspension = { name: "preemption point" };

export class Tasks {
  /** Set by a checker: every point of preemption then really yields. */
  exploring = false;
  /** Chooses the next of the ready tasks; the first, if nobody chooses. */
  choose: ((ready: readonly TaskHandle[]) => number) | undefined;
  private readonly ready: TaskHandle[] = [];
  private running: TaskHandle | undefined;
  private count = 0;

  /** The running task, if any. */
  get current(): TaskHandle | undefined {
    return this.running;
  }

  /** Adds a task to the ready ones. It runs at the next {@link drain}, or when the running one blocks. */
  spawn<T>(name: string, code: Task<T>, done?: (outcome: Outcome<T>) => void): TaskHandle<T> {
    const task = new TaskHandle(++this.count, name, code, done);
    this.ready.push(task as TaskHandle);
    return task;
  }

  /** Runs ready tasks, each until it blocks, until none is ready. Not from inside a task. */
  drain(): void {
    assert(this.running === undefined, () => `drain() from inside task ${this.running?.name}`);
    while (this.ready.length > 0) {
      const index = this.choose ? this.choose(this.ready) : 0;
      const task = index === 0 ? this.ready.shift()! : this.ready.splice(index, 1)[0];
      this.step(task);
    }
  }

  /** Runs `code` as a task, and all others that become ready, until it is done; its value or its error. */
  run<T>(name: string, code: Task<T>): T {
    const task = this.spawn(name, code);
    this.drain();
    const { outcome } = task;
    assert(outcome !== undefined, () => `task ${name} waits for ever at ${task.waiting?.name}`);
    if (!outcome.ok) throw outcome.error;
    return outcome.value;
  }

  /** A point of preemption: nothing, unless somebody explores. */
  *point(): Task<void> {
    if (this.exploring) yield preemption;
  }

  /** Makes a waiting task ready. Only a wait queue calls this. @internal */
  wake(task: TaskHandle): void {
    task.waiting = undefined;
    this.ready.push(task);
  }

  private step(task: TaskHandle): void {
    this.running = task;
    let outcome: Outcome<unknown>;
    try {
      const result = task.code.next();
      if (!result.done) {
        this.running = undefined;
        if (result.value === preemption) this.ready.push(task);
        else task.waiting = result.value;
        return;
      }
      outcome = { ok: true, value: result.value };
    } catch (error) {
      outcome = { ok: false, error };
    }
    this.running = undefined;
    task.outcome = outcome;
    assert(
      task.held.length === 0,
      () => `task ${task.name} ended holding ${task.held.map((lock) => lock.name).join(", ")}`,
    );
    task.done?.(outcome);
  }
}
