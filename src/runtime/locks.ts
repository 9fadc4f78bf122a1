// Runs in a browser.
/**
 * Locks that know their class and their order.
 *
 * Each lock belongs to a class, named like `"iommufd.ioas"`. Taking a lock of
 * class B while holding one of class A records A → B; an acquisition that would
 * close a circle is our own bug and is thrown at once, before anybody could
 * deadlock. `assertHeld` says in code what a function needs held.
 *
 * Taking is `yield* lock.take()`; releasing never blocks and is a plain call.
 */
import { assert } from "./assert.ts";
import type { System } from "./system.ts";
import type { Task, TaskHandle } from "./task.ts";
import { WaitQueue } from "./wait.ts";

export interface HeldLock {
  readonly name: string;
  readonly lockClass: number;
}

/** The order in which lock classes were ever taken, one inside the other. One per System. */
export class LockOrder {
  private readonly names: string[] = [];
  private readonly numbers = new Map<string, number>();
  /** By outer class: the inner classes, and the task that first took one so. */
  private readonly inside: Map<number, string>[] = [];

  /** The number of a class, given on first use. */
  classOf(name: string): number {
    let number = this.numbers.get(name);
    if (number === undefined) {
      number = this.names.length;
      this.numbers.set(name, number);
      this.names.push(name);
      this.inside.push(new Map());
    }
    return number;
  }

  /** Records that `taken` is about to be taken by `task`. Throws if some other path takes them the other way round. */
  record(task: TaskHandle, taken: HeldLock): void {
    for (const outer of task.held) {
      assert(outer !== taken, () => `${task.name} takes ${taken.name} twice`);
      if (outer.lockClass === taken.lockClass || this.inside[outer.lockClass].has(taken.lockClass)) continue;
      const circle = this.path(taken.lockClass, outer.lockClass);
      assert(
        circle === undefined,
        () => `lock order: ${task.name} takes ${taken.name} inside ${outer.name}, but ${this.describe(circle!)}`,
      );
      this.inside[outer.lockClass].set(taken.lockClass, task.name);
    }
  }

  /** Every recorded pair, `[outer, inner]`. */
  pairs(): [string, string][] {
    return this.inside.flatMap((inner, outer) =>
      [...inner.keys()].map((c): [string, string] => [this.names[outer], this.names[c]]),
    );
  }

  /** Classes from one to another, each recorded inside the one before; undefined if there is no such chain. */
  private path(from: number, to: number): number[] | undefined {
    const cameFrom = new Map<number, number>([[from, from]]);
    for (const at of cameFrom.keys()) {
      if (at === to) {
        const path = [at];
        while (path[0] !== from) path.unshift(cameFrom.get(path[0])!);
        return path;
      }
      for (const next of this.inside[at].keys()) if (!cameFrom.has(next)) cameFrom.set(next, at);
    }
    return undefined;
  }

  /** `"attach took iommu.group inside iommufd.ioas"`, for each step of a path. */
  private describe(path: readonly number[]): string {
    return path
      .slice(1)
      .map((inner, i) => `${this.inside[path[i]].get(inner)} took ${this.names[inner]} inside ${this.names[path[i]]}`)
      .join(", ");
  }
}

abstract class Lock implements HeldLock {
  readonly name: string;
  readonly lockClass: number;
  protected readonly system: System;
  protected readonly queue: WaitQueue;

  constructor(system: System, name: string) {
    this.system = system;
    this.name = name;
    this.lockClass = system.lockOrder.classOf(name);
    this.queue = new WaitQueue(system, name);
  }

  protected taker(): TaskHandle {
    const task = this.system.tasks.current;
    assert(task !== undefined, () => `${this.name} taken outside of a task`);
    return task;
  }

  protected hold(task: TaskHandle): void {
    // A list of one is smaller than the room that a first push makes.
    if (task.held.length === 0) task.held = [this];
    else task.held.push(this);
  }

  protected drop(task: TaskHandle): void {
    const { held } = task;
    if (held[held.length - 1] === this) {
      held.pop();
      return;
    }
    const index = held.lastIndexOf(this);
    assert(index >= 0, () => `${task.name} releases ${this.name} without holding it`);
    held.splice(index, 1);
  }

  /** True if the running task holds this lock, in whatever way. */
  protected heldByCurrent(): boolean {
    return this.system.tasks.current?.held.includes(this) ?? false;
  }
}

/** One holder at a time. */
export class Mutex extends Lock {
  private owner: TaskHandle | undefined;

  *take(): Task<void> {
    const { tasks, lockOrder } = this.system;
    if (tasks.exploring) yield* tasks.point();
    const task = this.taker();
    lockOrder.record(task, this);
    if (this.owner !== undefined) yield* this.queue.untilUninterrupted(() => this.owner === undefined);
    this.owner = task;
    this.hold(task);
  }

  /**
   * {@link take} without a generator, for hot paths: false, and nothing happened, if it could block or be preempted.
   *
   *     if (!lock.tryTake()) yield* lock.take();
   */
  tryTake(): boolean {
    if (this.system.tasks.exploring || this.owner !== undefined) return false;
    const task = this.taker();
    this.system.lockOrder.record(task, this);
    this.owner = task;
    this.hold(task);
    return true;
  }

  release(): void {
    const task = this.taker();
    assert(
      this.owner === task,
      () => `${task.name} releases ${this.name}, which ${this.owner?.name ?? "nobody"} holds`,
    );
    this.drop(task);
    this.owner = undefined;
    this.queue.wake();
  }

  /** The current task has it. */
  get isMine(): boolean {
    return this.owner !== undefined && this.owner === this.system.tasks.current;
  }

  assertHeld(): void {
    assert(this.isMine, () => `${this.name} must be held`);
  }
}

/** Many readers or one writer; writers that wait go before new readers. */
export class RwLock extends Lock {
  private readers = 0;
  private writer: TaskHandle | undefined;
  private writersWaiting = 0;

  *takeRead(): Task<void> {
    const { tasks, lockOrder } = this.system;
    if (tasks.exploring) yield* tasks.point();
    const task = this.taker();
    lockOrder.record(task, this);
    if (!this.admitsReaders()) yield* this.queue.untilUninterrupted(() => this.admitsReaders());
    this.readers++;
    this.hold(task);
  }

  /**
   * {@link takeRead} without a generator, for hot paths: false, and nothing happened, if it could block or be preempted.
   *
   *     if (!lock.tryTakeRead()) yield* lock.takeRead();
   */
  tryTakeRead(): boolean {
    if (this.system.tasks.exploring || !this.admitsReaders()) return false;
    const task = this.taker();
    this.system.lockOrder.record(task, this);
    this.readers++;
    this.hold(task);
    return true;
  }

  *takeWrite(): Task<void> {
    const { tasks, lockOrder } = this.system;
    if (tasks.exploring) yield* tasks.point();
    const task = this.taker();
    lockOrder.record(task, this);
    const free = (): boolean => this.writer === undefined && this.readers === 0;
    if (!free()) {
      this.writersWaiting++;
      try {
        yield* this.queue.untilUninterrupted(free);
      } finally {
        this.writersWaiting--;
      }
    }
    this.writer = task;
    this.hold(task);
  }

  releaseRead(): void {
    const task = this.taker();
    assert(
      this.readers > 0 && this.writer === undefined,
      () => `${task.name} releases ${this.name}, which has no reader`,
    );
    this.drop(task);
    this.readers--;
    this.queue.wake();
  }

  releaseWrite(): void {
    const task = this.taker();
    assert(this.writer === task, () => `${task.name} releases ${this.name}, which it does not hold for writing`);
    this.drop(task);
    this.writer = undefined;
    this.queue.wake();
  }

  private admitsReaders(): boolean {
    return this.writer === undefined && this.writersWaiting === 0;
  }

  /** Held for reading or writing. */
  assertHeld(): void {
    assert(this.heldByCurrent(), () => `${this.name} must be held`);
  }

  assertHeldWrite(): void {
    assert(
      this.writer !== undefined && this.writer === this.system.tasks.current,
      () => `${this.name} must be held for writing`,
    );
  }
}
