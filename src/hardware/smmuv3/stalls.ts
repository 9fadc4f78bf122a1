// Runs in a browser.
/**
 * Stalled transactions (IHI 0070 §3.12.2, §4.7, §5.5): each holds a tag (STAG) from its fault until software resumes or
 * terminates it. The access itself waits as a task; here is what the hardware keeps of it.
 */
import { type System, type Task, WaitQueue } from "../../runtime/index.ts";
import type { Transaction } from "./faults.ts";

/** What becomes of a stalled transaction: translated again, ended with an abort, or ended as if it had been harmless. */
export type StallOutcome = "retry" | "abort" | "ignore";

interface Stalled {
  readonly transaction: Transaction;
  readonly record: Uint32Array;
  outcome: StallOutcome | undefined;
  /** Told if it ends without having been translated. */
  readonly failed: () => void;
}

export class Stalls {
  private readonly maximum: number;
  private readonly abortsOnly: boolean;
  private readonly forgetEvent: (record: Uint32Array) => boolean;
  private readonly tags = new Map<number, Stalled>();
  private readonly changed: WaitQueue;
  private nextTag = 0;

  /**
   * `abortsOnly`: a terminated transaction is always aborted (IDR0.TERM_MODEL). `forgetEvent` withdraws the event of a
   * transaction that ended before its record was written; false if it is written.
   */
  constructor(
    system: System,
    options: { maximum: number; abortsOnly: boolean; forgetEvent: (record: Uint32Array) => boolean },
  ) {
    const { maximum, abortsOnly, forgetEvent } = options;
    this.maximum = maximum;
    this.abortsOnly = abortsOnly;
    this.forgetEvent = forgetEvent;
    this.changed = new WaitQueue(system, "stalled transaction");
  }

  /** Transactions that hold a tag. */
  get size(): number {
    return this.tags.size;
  }

  /** False: no tag is free, and what faults next has to wait for one. */
  get hasRoom(): boolean {
    return this.tags.size < this.maximum;
  }

  /** Reserves the next free tag. */
  allocateTag(): number {
    while (this.tags.has(this.nextTag)) this.nextTag = (this.nextTag + 1) % this.maximum;
    const tag = this.nextTag;
    this.nextTag = (tag + 1) % this.maximum;
    return tag;
  }

  park(tag: number, transaction: Transaction, record: Uint32Array, failed: () => void): void {
    this.tags.set(tag, { transaction, record, outcome: undefined, failed });
  }

  /** CMD_RESUME (§4.7.1): no effect unless the tag is in use by that stream. What CD.A says does not matter. */
  resume(streamId: number, tag: number, action: StallOutcome): void {
    const stalled = this.tags.get(tag);
    if (stalled === undefined || stalled.transaction.streamId !== streamId) return;
    this.end(stalled, action === "ignore" && this.abortsOnly ? "abort" : action);
    this.changed.wake();
  }

  /** Those whose event could not be written are translated again, as if they came now (§4.7.3). */
  retryUnrecorded(): void {
    for (const stalled of this.tags.values()) {
      if (stalled.outcome === undefined && this.forgetEvent(stalled.record)) stalled.outcome = "retry";
    }
    this.changed.wake();
  }

  /** CMD_STALL_TERM (§4.7.2): aborts all of a stream; without a stream, of every one (SMMUEN was cleared, §6.3.9.6). */
  terminate(streamId?: number): void {
    for (const stalled of this.tags.values()) {
      if (streamId === undefined || stalled.transaction.streamId === streamId) this.end(stalled, "abort");
    }
    this.changed.wake();
  }

  /** Waits until the transaction with `tag` is resumed or ended, and gives its tag back. */
  *wait(tag: number): Task<StallOutcome> {
    const stalled = this.tags.get(tag)!;
    yield* this.changed.until(() => stalled.outcome !== undefined);
    this.tags.delete(tag);
    this.changed.wake();
    return stalled.outcome!;
  }

  /** Waits until a tag is free. */
  *waitForRoom(): Task<void> {
    yield* this.changed.until(() => this.hasRoom);
  }

  private end(stalled: Stalled, outcome: StallOutcome): void {
    if (stalled.outcome !== undefined) return;
    stalled.outcome = outcome;
    this.forgetEvent(stalled.record);
    if (outcome !== "retry") stalled.failed();
  }
}
