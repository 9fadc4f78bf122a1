// Runs in a browser.
import type { System } from "./system.ts";
import type { Suspension, Task, TaskHandle } from "./task.ts";

/** Tasks that wait for a condition. */
export class WaitQueue implements Suspension {
  readonly name: string;
  private readonly system: System;
  private waiters: TaskHandle[] = [];

  constructor(system: System, name: string) {
    this.system = system;
    this.name = name;
  }

  /** Returns when `condition` is true; it is asked now and after every {@link wake}. */
  *until(condition: () => boolean): Task<void> {
    while (!condition()) {
      const task = this.system.tasks.current;
      if (task === undefined) throw new Error(`${this.name}: waiting outside of a task`);
      this.waiters.push(task);
      try {
        yield this;
      } finally {
        const index = this.waiters.indexOf(task);
        if (index >= 0) this.waiters.splice(index, 1);
      }
    }
  }

  /** Lets every waiter ask its condition again. */
  wake(): void {
    if (this.waiters.length === 0) return;
    const woken = this.waiters;
    this.waiters = [];
    for (const task of woken) this.system.tasks.wake(task);
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
