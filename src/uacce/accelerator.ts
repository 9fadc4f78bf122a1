// Runs in a browser.
import type { FileWindow, MmapRequest, Process } from "../memory/index.ts";
import type { Task } from "../runtime/index.ts";

/** The parts of a queue that a process may map: its registers, and the memory that it shares with the device. */
export type Region = "mmio" | "dus";

/** What the driver of an accelerator offers (Linux's uacce_ops). One for each device. */
export interface Accelerator {
  /** Names the interface that programs find: `"copy_engine_v1"`. */
  readonly api: string;
  /** What it can do, a word each. */
  readonly algorithms: readonly string[];
  /** Bytes; 0 for none. */
  readonly regionSizes: Readonly<Record<Region, number>>;
  /** Queues that nobody has. */
  readonly availableInstances: number;
  /** A queue whose DMA will carry `pasid`. EBUSY: all are taken; ENOMEM. */
  getQueue(pasid: number): Task<AcceleratorQueue>;
}

/** One hardware queue in the hands of an open file. */
export interface AcceleratorQueue {
  /** Told when {@link isUpdated} may have changed. */
  onUpdate: (() => void) | undefined;
  /** There is something that its owner has not asked for. */
  readonly isUpdated: boolean;
  start(): Task<void>;
  /** When it returns, no access of the queue is under way. Cannot fail. */
  stop(): Task<void>;
  /** Gives the queue back; it is stopped. Whoever waits in {@link ioctl} is sent away. Cannot fail. */
  put(): Task<void>;
  map(region: Region, request: MmapRequest): FileWindow;
  /** The driver's own commands. EINVAL for what is none. */
  ioctl(process: Process, request: number, argument: number): Task<number>;
}
