/** Judging what a failure leaves. */
import { expect } from "vitest";
import { Refusal } from "./errno.ts";
import type { System } from "./system.ts";

export interface FallibleOperation {
  /** Throws a Refusal where it fails. */
  act(): void;
  /** Takes back what {@link act} did. Cannot fail. */
  undo(): void;
  /** Everything that must be as it was when {@link act} failed, or was undone: as plain data. */
  state(): unknown;
}

/**
 * Runs an operation with its first failure point failing, then its second, and so on, until it reaches fewer. Each run ends
 * in a Refusal that leaves everything as it was; or it goes on all the same, and undoing it does. Before that it runs once
 * without a failure: what it makes once and keeps is there then. Returns the names of the points that failed.
 */
export function sweepFailures(system: System, { act, undo, state }: FallibleOperation): string[] {
  act();
  undo();
  const failed: string[] = [];
  for (;;) {
    const before = state();
    let reached = 0;
    let name: string | undefined;
    system.failures.inject((point) => {
      if (++reached !== failed.length + 1) return false;
      name = point;
      return true;
    });
    let refusal: unknown;
    try {
      act();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      refusal = error;
    } finally {
      system.failures.inject(undefined);
    }
    if (refusal === undefined) undo();
    expect({ after: name, state: state() }).toEqual({ after: name, state: before });
    if (name === undefined) {
      expect(refusal, "it succeeds when nothing fails").toBeUndefined();
      return failed;
    }
    failed.push(name);
  }
}
