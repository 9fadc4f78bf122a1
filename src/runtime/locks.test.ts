import { describe, expect, test } from "vitest";
import { Completion, Mutex, RwLock, System, type Task } from "./index.ts";

describe("a mutex", () => {
  test("has one holder at a time, under every schedule of three tasks", () => {
    // Counts through the choices as through the digits of a number.
    for (let schedule = 0; schedule < 200; schedule++) {
      const system = new System();
      const lock = new Mutex(system, "lock");
      let digits = schedule;
      system.tasks.exploring = true;
      system.tasks.choose = (ready) => {
        const choice = digits % ready.length;
        digits = Math.floor(digits / ready.length);
        return choice;
      };
      let inside = 0;
      let passed = 0;
      function* worker(): Task<void> {
        yield* lock.take();
        expect(++inside).toBe(1);
        yield* system.tasks.point();
        inside--;
        passed++;
        lock.release();
      }
      for (const name of ["a", "b", "c"]) system.tasks.spawn(name, worker());
      system.tasks.drain();
      expect(passed).toBe(3);
    }
  });

  test("is taken once by a task, released by its holder, and outside of tasks not at all", () => {
    const system = new System();
    const lock = new Mutex(system, "lock");
    function* twice(): Task<void> {
      yield* lock.take();
      try {
        yield* lock.take();
      } finally {
        lock.release();
      }
    }
    expect(() => system.run("twice", twice())).toThrow("twice takes lock twice");
    function* release(): Task<void> {
      lock.release();
    }
    expect(() => system.run("thief", release())).toThrow("thief releases lock, which nobody holds");
    expect(() => lock.take().next()).toThrow("lock taken outside of a task");
  });

  test("assertHeld asks for the running task, not for anybody", () => {
    const system = new System();
    const lock = new Mutex(system, "lock");
    const gate = new Completion(system, "gate");
    function* holder(): Task<void> {
      yield* lock.take();
      lock.assertHeld();
      yield* gate.wait();
      lock.release();
    }
    function* other(): Task<void> {
      lock.assertHeld();
    }
    expect(() => lock.assertHeld()).toThrow("lock must be held");
    system.tasks.start("holder", holder());
    expect(() => system.run("other", other())).toThrow("lock must be held");
    gate.complete();
    system.tasks.drain();
    expect(system.tasks.unfinished.size).toBe(0);
  });
});

describe("the order of locks", () => {
  function* nested(...locks: Mutex[]): Task<void> {
    const taken: Mutex[] = [];
    try {
      for (const lock of locks) {
        yield* lock.take();
        taken.push(lock);
      }
    } finally {
      for (const lock of taken.reverse()) lock.release();
    }
  }

  test("taking them the other way round is reported with both, and who did it before", () => {
    const system = new System();
    const ioas = new Mutex(system, "iommufd.ioas");
    const group = new Mutex(system, "iommu.group");
    system.run("attach", nested(group, ioas));
    expect(() => system.run("map", nested(ioas, group))).toThrow(
      "lock order: map takes iommu.group inside iommufd.ioas, but attach took iommufd.ioas inside iommu.group",
    );
    expect(system.lockOrder.pairs()).toEqual([["iommu.group", "iommufd.ioas"]]);
  });

  test("a circle over three classes is reported with all its steps, whatever the objects", () => {
    const system = new System();
    const locks = (): [Mutex, Mutex, Mutex] => [new Mutex(system, "a"), new Mutex(system, "b"), new Mutex(system, "c")];
    const [a, b] = locks();
    system.run("one", nested(a, b));
    const [, b2, c2] = locks();
    system.run("two", nested(b2, c2));
    const [a3, , c3] = locks();
    expect(() => system.run("three", nested(c3, a3))).toThrow(
      "lock order: three takes a inside c, but one took b inside a, two took c inside b",
    );
  });

  test("the same order again and again is fine, and so are two locks of one class", () => {
    const system = new System();
    const a = new Mutex(system, "a");
    const b = new Mutex(system, "b");
    const b2 = new Mutex(system, "b");
    for (let i = 0; i < 3; i++) system.run("again", nested(a, b, b2));
    system.run("turned", nested(b2, b));
  });
});

describe("a read-write lock", () => {
  test("lets readers in together; a writer that waits goes before readers that come later", () => {
    const system = new System();
    const lock = new RwLock(system, "lock");
    const log: string[] = [];
    const leave = new Map<string, Completion>();
    function* reader(name: string): Task<void> {
      yield* lock.takeRead();
      log.push(`${name} in`);
      lock.assertHeld();
      expect(() => lock.assertHeldWrite()).toThrow("held for writing");
      yield* leave.get(name)!.wait();
      lock.releaseRead();
    }
    function* writer(name: string): Task<void> {
      yield* lock.takeWrite();
      log.push(`${name} in`);
      lock.assertHeld();
      lock.assertHeldWrite();
      yield* leave.get(name)!.wait();
      lock.releaseWrite();
    }
    for (const name of ["r1", "r2", "w", "r3"]) {
      leave.set(name, new Completion(system, name));
      system.tasks.start(name, name === "w" ? writer(name) : reader(name));
    }
    const goes = (name: string): string[] => {
      leave.get(name)!.complete();
      system.tasks.drain();
      return log;
    };
    expect(log).toEqual(["r1 in", "r2 in"]);
    expect(goes("r1")).toEqual(["r1 in", "r2 in"]);
    expect(goes("r2")).toEqual(["r1 in", "r2 in", "w in"]);
    expect(goes("w")).toEqual(["r1 in", "r2 in", "w in", "r3 in"]);
    goes("r3");
    expect(system.tasks.unfinished.size).toBe(0);
  });

  test("is taken for reading without a generator only where nobody waits and nobody explores", () => {
    const system = new System();
    const lock = new RwLock(system, "lock");
    const written = new Completion(system, "written");
    const tried = (): boolean =>
      system.run(
        "reader",
        (function* (): Task<boolean> {
          if (!lock.tryTakeRead()) return false;
          lock.assertHeld();
          lock.releaseRead();
          return true;
        })(),
      );
    expect(tried()).toBe(true);
    system.tasks.start(
      "writer",
      (function* (): Task<void> {
        yield* lock.takeWrite();
        yield* written.wait();
        lock.releaseWrite();
      })(),
    );
    expect(tried()).toBe(false);
    written.complete();
    system.tasks.drain();
    expect(tried()).toBe(true);
    system.tasks.exploring = true;
    expect(tried()).toBe(false);
  });

  test("never has a writer beside anybody else, under many schedules", () => {
    for (let seed = 1; seed <= 100; seed++) {
      const system = new System({ seed });
      const lock = new RwLock(system, "lock");
      system.tasks.exploring = true;
      system.tasks.choose = (ready) => system.random.below(ready.length);
      let readers = 0;
      let writers = 0;
      function* reader(): Task<void> {
        yield* lock.takeRead();
        readers++;
        yield* system.tasks.point();
        expect(writers).toBe(0);
        readers--;
        lock.releaseRead();
      }
      function* writer(): Task<void> {
        yield* lock.takeWrite();
        writers++;
        yield* system.tasks.point();
        expect([readers, writers]).toEqual([0, 1]);
        writers--;
        lock.releaseWrite();
      }
      for (let i = 0; i < 6; i++) system.tasks.spawn(`task ${i}`, i % 3 === 0 ? writer() : reader());
      system.tasks.drain();
      expect(system.tasks.unfinished.size).toBe(0);
    }
  });

  test("releasing what one does not hold that way is our bug", () => {
    const system = new System();
    const lock = new RwLock(system, "lock");
    function* wrong(): Task<void> {
      yield* lock.takeRead();
      try {
        lock.releaseWrite();
      } finally {
        lock.releaseRead();
      }
    }
    expect(() => system.run("wrong", wrong())).toThrow("does not hold for writing");
    function* none(): Task<void> {
      lock.releaseRead();
    }
    expect(() => system.run("none", none())).toThrow("which has no reader");
  });
});
