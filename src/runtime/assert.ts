// Runs in a browser.
/** Our own bug: what was expected, and the values that were found instead. Never caused by a client alone. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/**
 * Throws at once if `condition` is false. Always on: keep the condition cheap.
 * `detail` may be a closure where making the text costs something.
 */
export function assert(condition: boolean, detail: string | (() => string)): asserts condition {
  if (!condition) throw new AssertionError(typeof detail === "string" ? detail : detail());
}

/** Marks a place that the types or an earlier check exclude. */
export function unreachable(detail: string): never {
  throw new AssertionError(`unreachable: ${detail}`);
}
