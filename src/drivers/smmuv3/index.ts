// Runs in a browser.
export { SmmuV3Driver } from "./driver.ts";
export { type EventRecord, explainEvent } from "./event-record.ts";
export type { SmmuV3Instance, SmmuV3Options } from "./instance.ts";
export type { InterruptLine } from "./registers.ts";
