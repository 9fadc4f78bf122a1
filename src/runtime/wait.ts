// Runs in a browser.
import { assert } from "./assert.ts";
import type { System } from "./system.ts";
import type { Suspension, Task, TaskHandle } from "./task.ts";

/** Tasks that wait for a condition. */
export class WaitQueue {
  private readonly system: System;
  private readonly interruptible: Suspension;
  private readonly uninterruptible: Suspension;
  private waiters: TaskHandle[] = [];

  constructor(system: System, name: string) {
    this.system = system;
    this.interruptible = { name, interruptible: true };
    this.uninterruptible = { name, interruptible: false };
  }

  get name(): string {
    return this.interruptible.name;
  }

  /** Returns when `condition` is true; it is asked now and after every {@link wake}. Ended by {@link Tasks.interrupt}. */
  *until(condition: () => boolean): Task<void> {
    while (!condition()) yield* this.wait(this.interruptible);
  }

  /** The same for those who must go on to the end: what destroys and gives back waits like this. */
  *untilUninterrupted(condition: () => boolean): Task<void> {
    while (!condition()) yield* this.wait(this.uninterruptible);
  }

  /** Lets every waiter ask its condition again. */
  wake(): void {
    if (this.waiters.length === 0) return;
    const woken = this.waiters;
    this.waiters = [];
    for (const task of woken) this.system.tasks.wake(task);
  }

  private *wait(suspension: Suspension): Task<void> {
    const task = this.system.tasks.current;
    assert(task !== undefined, () => `${this.name}: waiting outside of a task`);
    this.waiters.push(task);
    try {
      yield suspension;
    } finally {
      const index = this.waiters.indexOf(task);
      if (index >= 0) this.waiters.splice(index, 1);
    }
  }
}

/** Something that happens once. */
export class Completion {
  private completed = false;
  private readonly queue: WaitQueue;

  constructor(system: System, name: string) {
    this.queue = new WaitQueue(system, name);
  }

  get isComplete(): boolean {
    return this.completed;
  }

  complete(): void {
    this.completed = true;
    this.queue.wake();
  }

  *wait(): Task<void> {
    yield* this.queue.until(() => this.completed);
  }
}
