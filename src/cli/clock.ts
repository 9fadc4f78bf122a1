import type { Clock } from "../runtime/index.ts";

/** Real time: what a machine lives in that serves real programs. Its alarms do not keep the process alive. */
export class RealTimeClock implements Clock {
  /** Called after each alarm: what it made ready has to run. */
  afterAlarm: () => void = () => undefined;
  private readonly origin = performance.now();

  now(): number {
    return (performance.now() - this.origin) * 1e6;
  }

  after(delay: number, callback: () => void): () => void {
    const timer = setTimeout(() => {
      callback();
      this.afterAlarm();
    }, delay / 1e6).unref();
    return () => clearTimeout(timer);
  }
}
