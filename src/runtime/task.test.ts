import { describe, expect, test } from "vitest";
import { Completion, EINTR, Mutex, Refusal, System, type Task, type TaskHandle, WaitQueue } from "./index.ts";

/** A task that does something and never blocks. */
function* just<T>(action: () => T): Task<T> {
  return action();
}

describe("running tasks", () => {
  test("run gives the task's value, or throws its error", () => {
    const system = new System();
    expect(
      system.run(
        "value",
        just(() => 42),
      ),
    ).toBe(42);
    expect(() =>
      system.run(
        "error",
        just(() => {
          throw new Refusal(5, () => "broken");
        }),
      ),
    ).toThrow(Refusal);
    expect(system.tasks.current).toBeUndefined();
    expect(system.tasks.unfinished.size).toBe(0);
  });

  test("a task runs until it blocks; preemption points do not stop it unless somebody explores", () => {
    const system = new System();
    const log: string[] = [];
    function* walker(name: string): Task<void> {
      for (let i = 0; i < 2; i++) {
        log.push(`${name}${i}`);
        yield* system.tasks.point();
      }
    }
    system.tasks.spawn("a", walker("a"));
    system.tasks.spawn("b", walker("b"));
    system.tasks.drain();
    expect(log).toEqual(["a0", "a1", "b0", "b1"]);

    log.length = 0;
    system.tasks.exploring = true;
    system.tasks.choose = (ready) => ready.length - 1;
    system.tasks.spawn("a", walker("a"));
    system.tasks.spawn("b", walker("b"));
    system.tasks.drain();
    expect(log).toEqual(["b0", "b1", "a0", "a1"]);

    log.length = 0;
    system.tasks.choose = undefined;
    system.tasks.spawn("a", walker("a"));
    system.tasks.spawn("b", walker("b"));
    system.tasks.drain();
    expect(log).toEqual(["a0", "b0", "a1", "b1"]);
  });

  test("a checker sees every ready task, and a choice that is none is its bug", () => {
    const system = new System();
    const seen: string[][] = [];
    system.tasks.choose = (ready) => {
      seen.push(ready.map((task) => task.name));
      return 0;
    };
    system.tasks.spawn(
      "a",
      just(() => undefined),
    );
    system.tasks.spawn(
      "b",
      just(() => undefined),
    );
    system.tasks.drain();
    expect(seen).toEqual([["a", "b"], ["b"]]);
    system.tasks.choose = () => 3;
    expect(() =>
      system.run(
        "c",
        just(() => undefined),
      ),
    ).toThrow("choose() gave 3 of 1");
  });

  test("start runs at once outside of a task, and later when called from one", () => {
    const system = new System();
    const log: string[] = [];
    const handle = system.tasks.start(
      "outside",
      just(() => log.push("outside")),
      (outcome) => log.push(`done ${outcome.ok}`),
    );
    expect(log).toEqual(["outside", "done true"]);
    expect(handle.outcome).toEqual({ ok: true, value: 1 });
    system.run(
      "outer",
      just(() => {
        system.tasks.start(
          "inner",
          just(() => log.push("inner")),
        );
        log.push("outer");
      }),
    );
    expect(log.slice(2)).toEqual(["outer", "inner"]);
  });

  test("an error that nobody hears of comes out of drain", () => {
    const system = new System();
    const fail = (): never => {
      throw new Error("unheard");
    };
    system.tasks.spawn("silent", just(fail));
    expect(() => system.tasks.drain()).toThrow("unheard");
    const errors: unknown[] = [];
    system.tasks.start("heard", just(fail), (outcome) => errors.push(outcome.ok));
    expect(errors).toEqual([false]);
  });

  test("a deadlock names every task, where it waits and what it holds", () => {
    const system = new System();
    const left = new Mutex(system, "left");
    const never = new WaitQueue(system, "never");
    function* holder(): Task<void> {
      yield* left.take();
      yield* never.until(() => false);
    }
    system.tasks.spawn("holder", holder());
    expect(() => system.run("waiter", left.take())).toThrow(
      "deadlock: holder waits at never holding left; waiter waits at left",
    );
  });

  test("a task that ends holding a lock is reported, with the error that ended it", () => {
    const system = new System();
    const lock = new Mutex(system, "lock");
    function* careless(): Task<void> {
      yield* lock.take();
      throw new Error("first");
    }
    expect(() => system.run("careless", careless())).toThrow("careless ended after Error: first holding lock");
  });

  test("draining from inside a task is our bug", () => {
    const system = new System();
    expect(() =>
      system.run(
        "outer",
        just(() => system.tasks.drain()),
      ),
    ).toThrow("from inside task outer");
  });
});

describe("waiting", () => {
  test("a waiter goes on when its condition holds, not at every wake", () => {
    const system = new System();
    const queue = new WaitQueue(system, "queue");
    let value = 0;
    const seen: number[] = [];
    function* waiter(): Task<void> {
      yield* queue.until(() => value >= 2);
      seen.push(value);
    }
    system.tasks.start("waiter", waiter());
    for (value = 1; value < 4; value++) {
      queue.wake();
      system.tasks.drain();
    }
    expect(seen).toEqual([2]);
  });

  test("a completion lets everybody through, also those who come later", () => {
    const system = new System();
    const completion = new Completion(system, "done");
    const handles = [1, 2].map((i) => system.tasks.start(`waiter ${i}`, completion.wait()));
    expect(handles.map((handle) => handle.waiting?.name)).toEqual(["done", "done"]);
    completion.complete();
    system.tasks.drain();
    expect(handles.every((handle) => handle.outcome?.ok)).toBe(true);
    expect(completion.isComplete).toBe(true);
    system.run("late", completion.wait());
  });

  test("waiting outside of a task is our bug", () => {
    const completion = new Completion(new System(), "done");
    expect(() => completion.wait().next()).toThrow("outside of a task");
  });
});

describe("interrupting", () => {
  const killed = new Refusal(EINTR, () => "the client was killed");

  test("throws where the task waits: its finally blocks run, and it may wait again there", () => {
    const system = new System();
    const queue = new WaitQueue(system, "queue");
    const cleaned = new Completion(system, "cleaned");
    const log: string[] = [];
    function* client(): Task<void> {
      try {
        yield* queue.until(() => false);
      } finally {
        log.push("cleaning");
        yield* cleaned.wait();
        log.push("clean");
      }
    }
    const outcomes: unknown[] = [];
    const task = system.tasks.start("client", client(), (outcome) => outcomes.push(outcome)) as TaskHandle;
    system.tasks.interrupt(task, killed);
    queue.wake();
    system.tasks.drain();
    expect(log).toEqual(["cleaning"]);
    cleaned.complete();
    system.tasks.drain();
    expect(log).toEqual(["cleaning", "clean"]);
    expect(outcomes).toEqual([{ ok: false, error: killed }]);
    system.tasks.interrupt(task, killed);
    system.tasks.drain();
    expect(outcomes).toHaveLength(1);
  });

  test("never ends the wait for a lock, or one that must go on; it comes at the next wait that allows it", () => {
    const system = new System();
    const lock = new Mutex(system, "lock");
    const gate = new WaitQueue(system, "gate");
    let open = false;
    const log: string[] = [];
    function* holder(): Task<void> {
      yield* lock.take();
      yield* gate.untilUninterrupted(() => open);
      lock.release();
    }
    function* client(): Task<void> {
      yield* lock.take();
      log.push("locked");
      try {
        yield* gate.until(() => false);
      } finally {
        lock.release();
      }
    }
    const first = system.tasks.start("holder", holder()) as TaskHandle;
    const second = system.tasks.start("client", client(), (outcome) => log.push(`ok ${outcome.ok}`)) as TaskHandle;
    system.tasks.interrupt(first, killed);
    system.tasks.interrupt(second, killed);
    system.tasks.drain();
    expect(log).toEqual([]);
    open = true;
    gate.wake();
    system.tasks.drain();
    expect(log).toEqual(["locked", "ok false"]);
    expect(first.outcome?.ok).toBe(true);
  });

  test("comes too late for a task whose condition has come true", () => {
    const system = new System();
    const completion = new Completion(system, "done");
    const task = system.tasks.start("client", completion.wait()) as TaskHandle;
    completion.complete();
    system.tasks.interrupt(task, killed);
    system.tasks.drain();
    expect(task.outcome?.ok).toBe(true);
  });
});
