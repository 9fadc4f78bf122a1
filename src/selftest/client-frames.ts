// Runs in a browser.
import { PAGE_SIZE, type PhysicalMemory, type Process } from "../memory/index.ts";
import { EFAULT, Refusal } from "../runtime/index.ts";

/** Pages of a client that are looked up together. */
const BATCH = 512;
const PAGE = BigInt(PAGE_SIZE);

/** Where a client's pages are right now: looked up in batches, upwards, until some `end`. */
export class ClientFrames {
  private readonly process: Process;
  private readonly memory: PhysicalMemory;
  private readonly lastPage: number;
  private first = 0;
  private frames: readonly number[] = [];

  constructor(process: Process, memory: PhysicalMemory, end: bigint) {
    this.process = process;
    this.memory = memory;
    this.lastPage = Number((end - 1n) / PAGE);
  }

  /** The physical address behind an address below the end. Refusal EFAULT where there is no page. */
  physicalOf(address: bigint): number {
    const page = Number(address / PAGE);
    if (page < this.first || page >= this.first + this.frames.length) this.look(page);
    return this.frames[page - this.first] * PAGE_SIZE + Number(address % PAGE);
  }

  private look(page: number): void {
    const count = Math.min(BATCH, this.lastPage - page + 1);
    this.first = page;
    try {
      this.frames = this.framesOf(page, count);
    } catch (error) {
      if (!(error instanceof Refusal && error.errno === EFAULT) || count === 1) throw error;
      // One of them is absent: those before it are answered all the same.
      this.frames = this.framesOf(page, 1);
    }
  }

  private framesOf(page: number, count: number): number[] {
    const runs = this.process.memory.pin(page, count, false);
    const frames = runs.flatMap((run) => Array.from({ length: run.count }, (_, index) => run.pfn + index));
    this.memory.unpin(runs);
    return frames;
  }
}
