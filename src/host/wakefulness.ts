/**
 * Waiting awake. To sleep and be woken costs each side 10 to 20 µs where a processor idles meanwhile: more than all else
 * that a call takes. So while one call follows the other, the host looks for the next request for a moment before it
 * sleeps, and tells the client to look for its reply likewise (REPLY_AWAKE).
 *
 * Nobody else pays for it: only calls that follow each other closely are waited for, and only while no more tasks want to
 * run than there are processors. With one processor never: who looks there keeps the other from running.
 */
import { openSync, readSync } from "node:fs";
import { availableParallelism } from "node:os";

/** In milliseconds: a request so soon after an answer is one of many. */
const SOON = 0.1;
/** As long the next one is waited for. */
const WAIT = 0.05;
/** So often it is looked who else wants to run. */
const GLANCE = 5;

export interface Surroundings {
  readonly processors: number;
  /** Tasks of this computer that run or want to. */
  runnable(): number;
  /** Milliseconds. */
  now(): number;
}

export class Wakefulness {
  private readonly around: Surroundings;
  private answeredAt = Number.NEGATIVE_INFINITY;
  private lookedAt = Number.NEGATIVE_INFINITY;
  private awakeUntil = 0;
  private isIdle = false;
  private isAwake = false;
  private isTurning = false;

  constructor(around: Surroundings = new ThisComputer()) {
    this.around = around;
  }

  /** A request is here. True if whoever made it should wait for its answer awake. */
  heard(): boolean {
    const { around } = this;
    const now = around.now();
    this.isAwake = around.processors > 1 && now - this.answeredAt < SOON && this.hasIdleProcessor(now);
    return this.isAwake;
  }

  /** It is answered. Until when the next one is waited for awake; the past, if not at all. */
  answered(): number {
    this.answeredAt = this.around.now();
    if (!this.isAwake) return 0;
    this.awakeUntil = this.answeredAt + WAIT;
    if (!this.isTurning) this.turn();
    return this.awakeUntil;
  }

  /** The event loop does not sleep while there is something to do at its next turn. */
  private readonly turn = (): void => {
    this.isTurning = this.around.now() < this.awakeUntil;
    if (this.isTurning) setImmediate(this.turn);
  };

  private hasIdleProcessor(now: number): boolean {
    if (now - this.lookedAt >= GLANCE) {
      this.lookedAt = now;
      this.isIdle = this.around.runnable() <= this.around.processors;
    }
    return this.isIdle;
  }
}

class ThisComputer implements Surroundings {
  readonly processors: number = availableParallelism();
  private readonly text = Buffer.alloc(64);
  private file: number | undefined;

  /** The fourth field of /proc/loadavg begins with it. */
  runnable(): number {
    try {
      this.file ??= openSync("/proc/loadavg", "r");
      const length = readSync(this.file, this.text, 0, this.text.length, 0);
      return Number.parseInt(this.text.toString("latin1", 0, length).split(" ")[3], 10);
    } catch {
      return Number.POSITIVE_INFINITY;
    }
  }

  now(): number {
    return performance.now();
  }
}
