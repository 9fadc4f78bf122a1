// Runs in a browser.
/**
 * The runtime: what every other room stands on, and the only place for what would otherwise be ambient.
 *
 * A `System` owns time (`Clock`), chance (`Random`), tasks, the order of locks, failure points and the stream of events.
 * Nothing in the rooms above, `host` and `cli` aside, has another source of these, so two Systems with the same inputs
 * make the same run, and a checker that decides who runs and what fails has decided everything.
 *
 * What may live here: things that know nothing of IOMMUs. Tasks and what they wait for (`task`, `wait`, `locks`); the
 * two ways to fail (`errno` for what a client did wrong, `assert` for what we did); who refers to what (`refcount`);
 * numbers and ranges (`ids`, `number-set`, `intervals`, `interval-set`, `u64`).
 *
 * Always true:
 * - One task runs at a time, and another one only when it yields: between two yields a task is alone, so plain code
 *   needs no lock. Locks are for what must hold across a yield.
 * - Taking a lock is the only thing about it that blocks; releasing is a plain call, fit for `finally`.
 * - Lock classes have one order in the whole System, found by watching: the first program that goes the other way round
 *   is stopped before it can deadlock. Two locks of one class are not ordered; who takes two says in which order.
 * - A Refusal means that nothing has changed. An AssertionError means that nothing can be relied on any more.
 * - What nobody asks for costs nothing: a reason is a closure, an event is guarded by `events.on`, a failure point and
 *   a point of preemption are one comparison.
 *
 * For a moment false: a task woken up is ready though its condition may be false again when it runs; `until` asks again.
 */
export * from "./assert.ts";
export * from "./clock.ts";
export * from "./errno.ts";
export * from "./events.ts";
export * from "./failure.ts";
export { IdAllocator } from "./ids.ts";
export { IntervalSet } from "./interval-set.ts";
export { type Interval, IntervalMap, type Range } from "./intervals.ts";
export { LockOrder, Mutex, RwLock } from "./locks.ts";
export { NumberSet } from "./number-set.ts";
export * from "./random.ts";
export * from "./refcount.ts";
export * from "./system.ts";
export * from "./task.ts";
export { bigintOf, highWordOf, lowWordOf, numberOf } from "./u64.ts";
export * from "./wait.ts";
