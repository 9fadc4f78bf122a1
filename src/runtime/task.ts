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

/** Where a task stopped: a name for people, such as `"iommufd.ioas"`. */
export interface Suspension {
  readonly name: string;
  /** True if {@link Tasks.interrupt} may end the wait. */
  readonly interruptible?: boolean;
}

/** Code that may block; it returns a T when done, or throws. Run one from another with `yield*`. */
export type Task<T> = Generator<Suspension, T, void>;

/**
 * A task that was done when it was made. What hardly ever waits is a plain function: it acts when it is
 * called, and a generator does the rest only where it has to wait. `yield*` takes both; a hot path spares itself that too:
 *
 *     const wait = domain.sync(gather);
 *     if (wait !== done) yield* wait;
 */
export class DoneTask<T> implements Task<T> {
  readonly value: T;

  constructor(value: T) {
    this.value = value;
  }

  next(): IteratorResult<Suspension, T> {
    return { done: true, value: this.value };
  }

  return(value: T): IteratorResult<Suspension, T> {
    return { done: true, value };
  }

  throw(error: unknown): never {
    throw error;
  }

  [Symbol.iterator](): this {
    return this;
  }
}

/** The task that is done, and has nothing to say. */
export const done: Task<void> = new DoneTask(undefined);

/** How a task ended. */
export type Outcome<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly error: unknown };

/** One running activity. */
export class TaskHandle<T = unknown> {
  readonly id: number;
  readonly name: string;
  /** Locks that it holds, in the order taken. */
  held: HeldLock[] = [];
  /** On whose behalf it runs, if anybody's: the process whose call it executes. */
  client: object | undefined;
  /** Which thread of that process; 0 where nobody asks. */
  thread = 0;
  /** Set when done. */
  outcome: Outcome<T> | undefined;
  /** Where it waits; undefined while it is ready, running or done. */
  waiting: Suspension | undefined;
  /** What {@link Tasks.interrupt} wants thrown, until it is. @internal */ interruption: { error: unknown } | undefined;
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
  /** Chooses the next of the ready tasks, by index; the first, if nobody chooses. */
  choose: ((ready: readonly TaskHandle[]) => number) | undefined;
  private readonly ready: TaskHandle[] = [];
  /** Those that stopped somewhere and are not done: what runs through in one go is never in it. */
  private readonly stopped = new Set<TaskHandle>();
  private running: TaskHandle | undefined;
  private count = 0;

  /** The running task, if any. */
  get current(): TaskHandle | undefined {
    return this.running;
  }

  /** The tasks that are not done. */
  get unfinished(): ReadonlySet<TaskHandle> {
    const tasks = new Set([...this.stopped, ...this.ready]);
    return this.running === undefined ? tasks : tasks.add(this.running);
  }

  /**
   * Adds a task to the ready ones. It runs at the next {@link drain}, or when the running one blocks. `done` hears how
   * it ended; without it, an error comes out of `drain`.
   */
  spawn<T>(name: string, code: Task<T>, done?: (outcome: Outcome<T>) => void): TaskHandle<T> {
    const task = new TaskHandle(++this.count, name, code, done);
    this.ready.push(task as TaskHandle);
    return task;
  }

  /** Spawns a task and, outside of tasks, runs it and all others as far as they go: the way in from callbacks. */
  start<T>(name: string, code: Task<T>, done?: (outcome: Outcome<T>) => void): TaskHandle<T> {
    const task = this.spawn(name, code, done);
    if (this.running === undefined) this.drain();
    return task;
  }

  /** Runs ready tasks, each until it blocks, until none is ready. Not from inside a task. */
  drain(): void {
    assert(this.running === undefined, () => `drain() from inside task ${this.running?.name}`);
    while (this.ready.length > 0) this.step(this.takeNext());
  }

  /** Runs `code` as a task, and all others that become ready, until it is done; its value or its error. */
  run<T>(name: string, code: Task<T>): T {
    const task = this.spawn(name, code, outcomeIsRead);
    this.drain();
    const { outcome } = task;
    assert(outcome !== undefined, () => `deadlock: ${[...this.unfinished].map(describe).join("; ")}`);
    if (!outcome.ok) throw outcome.error;
    return outcome.value;
  }

  /**
   * Throws `error` into a task where it waits, so that its `finally` blocks run: its client was killed. A task that
   * runs, or waits uninterruptibly (for a lock, always), gets it at its next interruptible wait, if it comes to one.
   * Thrown once: cleaning up may wait again. The task runs at the next {@link drain}.
   */
  interrupt(task: TaskHandle, error: unknown): void {
    if (task.outcome !== undefined) return;
    task.interruption = { error };
    if (task.waiting?.interruptible) this.wake(task);
  }

  /**
   * Runs code that waits for nobody in one go, its points of preemption passed over: the way through for callers that may
   * not block. Code that does wait is a bug of ours.
   */
  atOnce<T>(code: Task<T>): T {
    for (;;) {
      const result = code.next();
      if (result.done) return result.value;
      assert(
        result.value === preemption,
        () => `${this.running?.name ?? "nobody"} may not wait at ${result.value.name}`,
      );
    }
  }

  /** A point of preemption: nothing, unless somebody explores. */
  *point(): Task<void> {
    if (this.exploring) yield preemption;
  }

  /** Makes a waiting task ready; one that is ready already stays so. @internal */
  wake(task: TaskHandle): void {
    if (task.waiting === undefined) return;
    task.waiting = undefined;
    this.ready.push(task);
  }

  private takeNext(): TaskHandle {
    if (this.choose === undefined) return this.ready.shift()!;
    const index = this.choose(this.ready);
    assert(index in this.ready, () => `choose() gave ${index} of ${this.ready.length} ready tasks`);
    return this.ready.splice(index, 1)[0];
  }

  private step(task: TaskHandle): void {
    this.running = task;
    let outcome: Outcome<unknown>;
    try {
      let result = task.code.next();
      while (!result.done && result.value.interruptible && task.interruption !== undefined) {
        const { error } = task.interruption;
        task.interruption = undefined;
        result = task.code.throw(error);
      }
      if (!result.done) {
        this.stopped.add(task);
        if (result.value === preemption) this.ready.push(task);
        else task.waiting = result.value;
        return;
      }
      outcome = { ok: true, value: result.value };
    } catch (error) {
      outcome = { ok: false, error };
    } finally {
      this.running = undefined;
    }
    task.outcome = outcome;
    this.stopped.delete(task);
    assert(task.held.length === 0, () => {
      const after = outcome.ok ? "" : ` after ${outcome.error}`;
      return `task ${task.name} ended${after} holding ${task.held.map((lock) => lock.name).join(", ")}`;
    });
    if (task.done !== undefined) task.done(outcome);
    else if (!outcome.ok) throw outcome.error;
  }
}

/** Hears of an outcome that {@link Tasks.run} reads itself. */
function outcomeIsRead(): void {}

/** `"map waits at iommufd.ioas holding iommu.group"`. */
function describe(task: TaskHandle): string {
  const where = task.waiting === undefined ? "is ready" : `waits at ${task.waiting.name}`;
  const holding = task.held.length === 0 ? "" : ` holding ${task.held.map((lock) => lock.name).join(", ")}`;
  return `${task.name} ${where}${holding}`;
}
