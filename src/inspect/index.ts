// Runs in a browser.
/** Making visible what happens: lines for people (explain.ts) and for programs (trace.ts). Writes nothing itself. */
export type { ClientCall } from "./call.ts";
export { callName, explainCall, explainFault } from "./explain.ts";
export { type TraceLine, traceLine, traceSchema } from "./trace.ts";
