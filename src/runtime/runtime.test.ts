import { describe, expect, test } from "vitest";
import {
  AssertionError,
  assert,
  EACCES,
  EINVAL,
  ENOMEM,
  type Event,
  errnoName,
  Random,
  RefCount,
  Refusal,
  refuse,
  SimulatedClock,
  System,
  unreachable,
} from "./index.ts";

describe("errors", () => {
  test("a refusal says its errno and, only when asked, its reason", () => {
    let asked = 0;
    let caught: unknown;
    try {
      refuse(EINVAL, () => {
        asked++;
        return "device is not bound";
      });
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(Refusal);
    expect(caught).not.toBeInstanceOf(Error);
    const refusal = caught as Refusal;
    expect(refusal.errno).toBe(22);
    expect(asked).toBe(0);
    expect(String(refusal)).toBe("EINVAL: device is not bound");
    expect(asked).toBe(1);
  });

  test("errors have their Linux names; unknown ones their number", () => {
    expect([1, 75, 77, 95, 517].map(errnoName)).toEqual(["EPERM", "EOVERFLOW", "EBADFD", "EOPNOTSUPP", "EPROBE_DEFER"]);
    expect(errnoName(999)).toBe("errno 999");
  });

  test("an assertion makes its text only when it fails", () => {
    assert(true, () => unreachable("text was made"));
    expect(() => assert(false, () => "3 is not 4")).toThrow(AssertionError);
    expect(() => assert(false, "plain")).toThrow("plain");
  });
});

describe("reference counts", () => {
  test("name their holders", () => {
    const count = new RefCount("IOAS 2");
    const device = { label: "device 0000:01:00.0" };
    count.get(device);
    count.get(device);
    count.get("mapping");
    expect(count.count).toBe(3);
    expect(count.holders()).toEqual(["device 0000:01:00.0 ×2", "mapping"]);
    expect(count.put(device)).toBe(2);
    expect(count.put(device)).toBe(1);
    expect(count.holders()).toEqual(["mapping"]);
    expect(() => count.put(device)).toThrow("device 0000:01:00.0 puts a reference on IOAS 2 that it does not hold");
  });
});

describe("failure points", () => {
  test("fail when the decider says so, with the errno of the place", () => {
    const { failures } = new System();
    failures.point("a.b.c");
    const seen: string[] = [];
    failures.inject((name) => {
      seen.push(name);
      return seen.length >= 2;
    });
    failures.point("room.thing.allocate");
    const fail = (errno?: number): unknown => {
      try {
        failures.point("room.thing.publish", errno);
      } catch (error) {
        return error;
      }
      return undefined;
    };
    expect(fail()).toMatchObject({ errno: ENOMEM, reason: "failure injected at room.thing.publish" });
    expect(fail(EACCES)).toMatchObject({ errno: EACCES });
    expect(seen).toEqual(["room.thing.allocate", "room.thing.publish", "room.thing.publish"]);
    failures.inject(undefined);
    expect(fail()).toBeUndefined();
  });
});

describe("events", () => {
  test("reach every listener, and are off when nobody listens", () => {
    const { events } = new System();
    expect(events.on).toBe(false);
    const first: Event[] = [];
    const second: Event[] = [];
    const endFirst = events.listen((event) => first.push(event));
    const endSecond = events.listen((event) => second.push(event));
    events.emit({ kind: "a.b.c", id: 1 });
    endFirst();
    expect(events.on).toBe(true);
    events.emit({ kind: "a.b.d" });
    endSecond();
    expect(events.on).toBe(false);
    expect(first).toEqual([{ kind: "a.b.c", id: 1 }]);
    expect(second).toEqual([{ kind: "a.b.c", id: 1 }, { kind: "a.b.d" }]);
  });
});

describe("the simulated clock", () => {
  test("calls what falls due, in order of time and then of asking", () => {
    const clock = new SimulatedClock();
    const log: string[] = [];
    clock.after(20, () => log.push(`late ${clock.now()}`));
    clock.after(10, () => log.push(`early ${clock.now()}`));
    clock.after(10, () => log.push(`second ${clock.now()}`));
    const cancel = clock.after(15, () => log.push("cancelled"));
    cancel();
    cancel();
    clock.advance(9);
    expect(log).toEqual([]);
    clock.advance(11);
    expect(log).toEqual(["early 10", "second 10", "late 20"]);
    expect(clock.now()).toBe(20);
  });

  test("a callback may ask for another, which falls due in the same span, and may let time pass itself", () => {
    const clock = new SimulatedClock();
    const log: number[] = [];
    clock.after(5, () => {
      clock.after(5, () => log.push(clock.now()));
      clock.after(0, () => log.push(clock.now()));
    });
    clock.advance(10);
    expect(log).toEqual([5, 10]);
    clock.after(1, () => clock.advance(100));
    clock.advance(2);
    expect(clock.now()).toBe(111);
  });
});

describe("randomness", () => {
  test("is the same for the same seed, and stays in bounds", () => {
    const draw = (seed: number): number[] => {
      const random = new Random(seed);
      return Array.from({ length: 2000 }, () => random.below(10));
    };
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
    const counts = new Array<number>(10).fill(0);
    for (const value of draw(3)) counts[value]++;
    expect(Math.min(...counts)).toBeGreaterThan(140);
  });
});
