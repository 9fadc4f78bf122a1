// Runs in a browser.
import { type Clock, SimulatedClock } from "./clock.ts";
import { EventStream } from "./events.ts";
import { FailurePoints } from "./failure.ts";
import { LockOrder } from "./locks.ts";
import { Random } from "./random.ts";
import { type Task, Tasks } from "./task.ts";

/**
 * Everything that would otherwise be ambient: time, chance, tasks, lock order,
 * failure points, events. Nothing below `host` reads the time, the environment
 * or a global, so two Systems with the same inputs make the same run.
 */
export class System {
  readonly clock: Clock;
  readonly random: Random;
  readonly tasks: Tasks = new Tasks();
  readonly lockOrder: LockOrder = new LockOrder();
  readonly failures: FailurePoints = new FailurePoints();
  readonly events: EventStream = new EventStream();

  constructor(options: { clock?: Clock; seed?: number } = {}) {
    this.clock = options.clock ?? new SimulatedClock();
    this.random = new Random(options.seed ?? 1);
  }

  /** Runs a task, and all that it sets off, to its end: the way in for library users and tests. */
  run<T>(name: string, code: Task<T>): T {
    return this.tasks.run(name, code);
  }
}
