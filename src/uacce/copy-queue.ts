// Runs in a browser.
import { type FileWindow, type MmapRequest, PAGE_SIZE, type PhysicalMemory, type Process } from "../memory/index.ts";
import { EAGAIN, EINVAL, EIO, ENXIO, refuse, type System, type Task, WaitQueue } from "../runtime/index.ts";
import { COPY_PENDING, COPY_SUBMIT, COPY_WAIT, COPY_WAIT_FOREVER, CopySubmit, CopyWait } from "../uapi/index.ts";
import type { AcceleratorQueue, Region } from "./accelerator.ts";
import { type CopyRegisters, DESCRIPTOR_COPIED, DESCRIPTOR_SIZE, FLAG_INTERRUPT } from "./copy-registers.ts";
import type { DmaMemory } from "./dma-memory.ts";
import { DoorbellPage } from "./doorbell-page.ts";

/** The ring fills its page. */
const SIZE_LOG2 = 7;
const ENTRIES = 2 ** SIZE_LOG2;
/** In nanoseconds. */
const MILLISECOND = 1e6;

interface CopyQueueOptions {
  readonly system: System;
  readonly memory: PhysicalMemory;
  readonly registers: CopyRegisters;
  readonly index: number;
  readonly pasid: number;
  readonly ring: DmaMemory;
  /** For people: `"queue 2 of copy_engine-0"`. */
  readonly label: string;
  /** Nobody has the queue any more. */
  readonly onPut: () => void;
}

/**
 * A queue of the copy engine in a process's hands. The process submits jobs by COPY_SUBMIT, or by itself: then it maps the
 * ring (the DUS region) and the doorbell (the MMIO region), and writes both.
 *
 * Always true: a job's number is its place in the sequence since the last start, modulo 2^32; its outcome stays in the
 * ring until as many others were submitted as there are descriptors.
 */
export class CopyEngineQueue implements AcceleratorQueue {
  onUpdate: (() => void) | undefined;
  private readonly options: CopyQueueOptions;
  private readonly changed: WaitQueue;
  private readonly doorbell: DoorbellPage;
  private isStarted = false;
  private isPut = false;
  /** Counts starts and stops: a job's number means nothing in another run. */
  private run = 0;
  /** Jobs whose outcome was told. */
  private told = 0;
  /** The ring is shown to a process. */
  private isShown = false;

  constructor(options: CopyQueueOptions) {
    const { system, memory, registers, index } = options;
    this.options = options;
    this.changed = new WaitQueue(system, "copy job");
    this.doorbell = new DoorbellPage(memory, {
      answers: () => [registers.head(index), registers.status(index)],
      ring: (tail) => {
        if (this.isStarted) registers.ring(index, tail);
      },
    });
  }

  get isUpdated(): boolean {
    const { registers, index } = this.options;
    return this.isStarted && registers.head(index) !== this.told;
  }

  *start(): Task<void> {
    const { registers, index, pasid, ring, system } = this.options;
    system.failures.point("uacce.queue.start", EIO);
    ring.write(0, new Uint8Array(ring.size));
    this.doorbell.reset();
    registers.enable(index, { pasid, ring: ring.iova, sizeLog2: SIZE_LOG2 });
    this.isStarted = true;
    this.run++;
    this.told = 0;
  }

  *stop(): Task<void> {
    const { registers, index } = this.options;
    this.isStarted = false;
    this.run++;
    registers.disable(index);
    this.changed.wake();
    yield* this.changed.untilUninterrupted(() => !registers.isRunning(index));
    this.onUpdate?.();
  }

  *put(): Task<void> {
    this.isPut = true;
    this.changed.wake();
    const { ring, onPut } = this.options;
    yield* ring.unmap();
    if (!this.isShown) ring.free();
    onPut();
  }

  /** The device wants attention for this queue. */
  interrupted(): void {
    this.changed.wake();
    this.onUpdate?.();
  }

  /** EINVAL: the length is not the region's, or it is not to be shared. */
  map(region: Region, { length, shared }: MmapRequest): FileWindow {
    const { label, ring } = this.options;
    if (!shared) refuse(EINVAL, () => `the ${region} region of ${label} can only be mapped shared`);
    if (length !== BigInt(PAGE_SIZE))
      refuse(EINVAL, () => `the ${region} region of ${label} is ${PAGE_SIZE} bytes long`);
    if (region === "mmio") return this.doorbell.show();
    this.isShown = true;
    const release = (): void => {
      this.isShown = false;
      if (this.isPut) ring.free();
    };
    return { pfn: ring.pfn, count: ring.count, release };
  }

  *ioctl(process: Process, request: number, argument: number): Task<number> {
    switch (request) {
      case COPY_SUBMIT:
        this.submit(process, argument);
        return 0;
      case COPY_WAIT:
        yield* this.wait(process, argument);
        return 0;
      default:
        return refuse(EINVAL, () => `${this.options.label} has no command 0x${request.toString(16)}`);
    }
  }

  /** Refusals: EFAULT; EINVAL if the queue is not started; EIO if it failed; EAGAIN if the ring is full. */
  private submit(process: Process, argument: number): void {
    const { registers, index, ring, label } = this.options;
    const command = new CopySubmit();
    process.memory.read(argument, command.$bytes);
    this.checkStarted();
    if (registers.hasFailed(index)) refuse(EIO, () => `${label} failed: its ring was not what its doorbell promised`);
    const tail = registers.tail(index);
    if ((tail - registers.head(index)) >>> 0 >= ENTRIES) refuse(EAGAIN, () => `the ring of ${label} is full`);
    command.job = tail;
    process.memory.write(argument, command.$bytes);
    const descriptor = new DataView(new ArrayBuffer(DESCRIPTOR_SIZE));
    descriptor.setBigUint64(0, command.source, true);
    descriptor.setBigUint64(8, command.destination, true);
    descriptor.setUint32(16, command.length, true);
    descriptor.setUint32(28, FLAG_INTERRUPT, true);
    ring.write((tail % ENTRIES) * DESCRIPTOR_SIZE, new Uint8Array(descriptor.buffer));
    registers.ring(index, (tail + 1) >>> 0);
  }

  /**
   * Refusals: EFAULT; EINVAL for a job that was never submitted, or whose descriptor was used again; EIO if the queue failed
   * before the job was done; ENXIO if it was stopped or given back.
   */
  private *wait(process: Process, argument: number): Task<void> {
    const { registers, index, ring, label } = this.options;
    const command = new CopyWait();
    process.memory.read(argument, command.$bytes);
    const { job, timeout } = command;
    this.checkStarted();
    const tail = registers.tail(index);
    const age = (tail - job) >>> 0;
    if (age === 0 || age > Math.min(tail, ENTRIES)) refuse(EINVAL, () => `${label} has no job ${job}`);
    const { run } = this;
    const isDone = (): boolean => ((registers.head(index) - job) | 0) > 0;
    const isOver = (): boolean => isDone() || run !== this.run || this.isPut || registers.hasFailed(index);
    if (timeout > 0) yield* this.waitUntil(isOver, timeout);
    if (run !== this.run || this.isPut) refuse(ENXIO, () => `${label} was stopped before job ${job} was done`);
    const answer = new DataView(new ArrayBuffer(8));
    if (isDone()) {
      ring.read((job % ENTRIES) * DESCRIPTOR_SIZE + DESCRIPTOR_COPIED, new Uint8Array(answer.buffer));
      if (((job + 1 - this.told) | 0) > 0) this.told = (job + 1) >>> 0;
      this.onUpdate?.();
    } else if (registers.hasFailed(index)) {
      refuse(EIO, () => `${label} failed before job ${job} was done`);
    }
    command.copied = answer.getUint32(0, true);
    command.status = answer.getUint32(4, true) || COPY_PENDING;
    process.memory.write(argument, command.$bytes);
  }

  private *waitUntil(isOver: () => boolean, timeout: number): Task<void> {
    let isLate = false;
    const cancel =
      timeout === COPY_WAIT_FOREVER
        ? () => undefined
        : this.options.system.clock.after(timeout * MILLISECOND, () => {
            isLate = true;
            this.changed.wake();
          });
    try {
      yield* this.changed.until(() => isLate || isOver());
    } finally {
      cancel();
    }
  }

  private checkStarted(): void {
    if (!this.isStarted) refuse(EINVAL, () => `${this.options.label} is not started`);
  }
}
