// Runs in a browser.
export * from "./assert.ts";
export * from "./clock.ts";
export * from "./errno.ts";
export * from "./events.ts";
export * from "./failure.ts";
export { LockOrder, Mutex, RwLock } from "./locks.ts";
export * from "./random.ts";
export * from "./refcount.ts";
export * from "./system.ts";
export * from "./task.ts";
export * from "./wait.ts";
