// Runs in a browser.
import { ENOMEM, Refusal } from "./errno.ts";

/**
 * Named places where an operation can fail: an allocation, a full queue, a
 * device that refuses. Off by default; then a point costs one comparison.
 * Whoever explores failures installs a decider, which sees each point's name
 * as it is reached and says whether it fails now.
 */
export class FailurePoints {
  private decide: ((name: string) => boolean) | undefined;

  /** Installs (or, with undefined, removes) the decider. */
  inject(decide: ((name: string) => boolean) | undefined): void {
    this.decide = decide;
  }

  /** A place that can fail. Throws a Refusal with `errno` when the decider says so. */
  point(name: string, errno: number = ENOMEM): void {
    if (this.decide?.(name)) throw new Refusal(errno, () => `failure injected at ${name}`);
  }
}
