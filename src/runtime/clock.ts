// Runs in a browser.
/** Time, in nanoseconds since the System began. Nothing else in the rooms below `host` may ask for the time. */
export interface Clock {
  now(): number;
  /** Calls `callback` once after `delay` nanoseconds; returns what cancels it. */
  after(delay: number, callback: () => void): () => void;
}

/** Time that passes only when told to: two runs with the same inputs are the same run. */
export class SimulatedClock implements Clock {
  private time = 0;
  private readonly alarms: { at: number; callback: () => void }[] = [];

  now(): number {
    return this.time;
  }

  after(delay: number, callback: () => void): () => void {
    const alarm = { at: this.time + delay, callback };
    const later = this.alarms.findIndex((other) => other.at > alarm.at);
    this.alarms.splice(later < 0 ? this.alarms.length : later, 0, alarm);
    return () => {
      const index = this.alarms.indexOf(alarm);
      if (index >= 0) this.alarms.splice(index, 1);
    };
  }

  /** Lets `duration` nanoseconds pass and calls what falls due, in order. A callback may let more time pass. */
  advance(duration: number): void {
    const until = this.time + duration;
    while (this.alarms.length > 0 && this.alarms[0].at <= until) {
      const alarm = this.alarms.shift()!;
      this.time = Math.max(this.time, alarm.at);
      alarm.callback();
    }
    this.time = Math.max(this.time, until);
  }
}
