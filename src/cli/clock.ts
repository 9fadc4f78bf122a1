import type { Clock } from "../runtime/index.ts";

/** What a timer of Node can count, in milliseconds: 24 days. Longer ones are as long. */
const LONGEST = 2 ** 31 - 1;

/** Real time: what a machine lives in that serves real programs. Its alarms do not keep the process alive. */
export class RealTimeClock implements Clock {
  /** Called after each alarm: what it made ready has to run. */
  afterAlarm: () => void = () => undefined;
  private readonly origin = performance.now();

  now(): number {
    return (performance.now() - this.origin) * 1e6;
  }

  after(delay: number, callback: () => void): () => void {
    const timer = setTimeout(
      () => {
        callback();
        this.afterAlarm();
      },
      Math.min(delay / 1e6, LONGEST),
    ).unref();
    return () => clearTimeout(timer);
  }
}
