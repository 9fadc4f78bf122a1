// Runs in a browser.
import type { DmaPort } from "../../pci/index.ts";
import { type System, type Task, WaitQueue } from "../../runtime/index.ts";

/** Registers of a queue, by their offset in its block. */
export const QUEUE_CONTROL = 0x00;
export const QUEUE_STATUS = 0x04;
export const QUEUE_PASID = 0x08;
export const QUEUE_SIZE = 0x0c;
export const QUEUE_RING = 0x10;
/** Registers of a doorbell page. */
export const DOORBELL_TAIL = 0x0;
export const DOORBELL_HEAD = 0x4;
export const DOORBELL_STATUS = 0x8;

export const CONTROL_ENABLE = 0x1;
export const CONTROL_INTERRUPT = 0x2;
export const STATUS_RUNNING = 0x1;
export const STATUS_ERROR = 0x2;
export const PASID_VALID = 0x8000_0000;

/** What a descriptor's status says; 0 until its job is done. */
export const JOB_DONE = 1;
export const JOB_READ_FAULT = 2;
export const JOB_WRITE_FAULT = 3;

export const DESCRIPTOR_SIZE = 32;
const DESCRIPTOR_COPIED = 0x14;
const DESCRIPTOR_FLAGS = 0x1c;
const FLAG_INTERRUPT = 0x1;
/** A ring has at most 2^SIZE_MAX descriptors. */
export const SIZE_MAX = 8;

/** Bytes that are read, then written: what a job has under way. */
const PIECE = 4096;
/** What one job may move before others have a turn, and how long that takes: 4 GiB a second. */
const BURST = 2 ** 18;
const BURST_TIME = 61_035;

const ADDRESSES = 2n ** 64n;

/** What a queue needs of the device that it is a part of. */
export interface QueueContext {
  readonly system: System;
  readonly dma: DmaPort;
  /** For people: `"queue 2 of 0000:00:01.0"`. */
  label(): string;
  /** Software is to look: a job asked for it, or the queue stopped. */
  attention(): void;
}

/**
 * One queue of the copy engine: a ring of descriptors in memory, and the jobs that they describe, one after the other.
 *
 * `head` and `tail` count the jobs done and those submitted since the queue was enabled, modulo 2^32; job n has the
 * descriptor n modulo the size of the ring. Always true: while RUNNING is 0 no access of the queue is under way, and the
 * registers that a job works from stay as they are while it is 1.
 */
export class CopyQueue {
  private readonly context: QueueContext;
  private readonly resting: WaitQueue;
  private control = 0;
  private pasid = 0;
  private size = 0;
  private ring = 0n;
  private head = 0;
  private tail = 0;
  private running = false;
  private failed = false;
  /** Counts resets, so that what was started before one has no effect after it. */
  private era = 0;

  constructor(context: QueueContext) {
    this.context = context;
    this.resting = new WaitQueue(context.system, "rest of a copy queue");
  }

  reset(): void {
    this.era++;
    this.control = this.pasid = this.size = this.head = this.tail = 0;
    this.ring = 0n;
    this.running = this.failed = false;
  }

  private get status(): number {
    return (this.running ? STATUS_RUNNING : 0) | (this.failed ? STATUS_ERROR : 0);
  }

  /** A register of the queue's block. */
  read(register: number): bigint {
    switch (register) {
      case QUEUE_CONTROL:
        return BigInt(this.control);
      case QUEUE_STATUS:
        return BigInt(this.status);
      case QUEUE_PASID:
        return BigInt(this.pasid);
      case QUEUE_SIZE:
        return BigInt(this.size);
      case QUEUE_RING:
        return this.ring;
      default:
        return 0n;
    }
  }

  write(register: number, value: bigint): void {
    if (register === QUEUE_CONTROL) {
      this.setControl(Number(value) & (CONTROL_ENABLE | CONTROL_INTERRUPT));
      return;
    }
    if (this.control & CONTROL_ENABLE || this.running) return;
    switch (register) {
      case QUEUE_PASID:
        this.pasid = (Number(value) & (PASID_VALID | 0xfffff)) >>> 0;
        break;
      case QUEUE_SIZE:
        this.size = Math.min(Number(value), SIZE_MAX);
        break;
      case QUEUE_RING:
        this.ring = value - (value % BigInt(DESCRIPTOR_SIZE));
        break;
    }
  }

  /** A register of the doorbell page, which a process may have. */
  readDoorbell(register: number): number {
    switch (register) {
      case DOORBELL_TAIL:
        return this.tail;
      case DOORBELL_HEAD:
        return this.head;
      case DOORBELL_STATUS:
        return this.status;
      default:
        return 0;
    }
  }

  writeDoorbell(register: number, value: number): void {
    if (register !== DOORBELL_TAIL || !(this.control & CONTROL_ENABLE)) return;
    this.tail = value;
    this.run();
  }

  private setControl(control: number): void {
    const begins = !(this.control & CONTROL_ENABLE) && control & CONTROL_ENABLE;
    if (begins && this.running) return;
    this.control = control;
    if (begins) {
      this.head = this.tail = 0;
      this.failed = false;
    }
    this.resting.wake();
  }

  private get isWanted(): boolean {
    return (this.control & CONTROL_ENABLE) !== 0 && !this.failed && this.head !== this.tail;
  }

  private run(): void {
    if (this.running || !this.isWanted) return;
    this.running = true;
    this.context.system.tasks.spawn(`jobs of ${this.context.label()}`, this.doJobs(this.era));
  }

  private *doJobs(era: number): Task<void> {
    while (era === this.era && this.isWanted) {
      const done = yield* this.doJob(era);
      if (era !== this.era) return;
      if (!done) this.failed = true;
    }
    if (era !== this.era) return;
    this.running = false;
    if (this.failed || !(this.control & CONTROL_ENABLE)) this.context.attention();
  }

  /** The job at `head`. False: the ring is not as software promised, or cannot be reached. */
  private *doJob(era: number): Task<boolean> {
    const { dma } = this.context;
    const entries = 2 ** this.size;
    if ((this.tail - this.head) >>> 0 > entries) return false;
    const at = (this.ring + BigInt((this.head % entries) * DESCRIPTOR_SIZE)) % ADDRESSES;
    const descriptor = new Uint8Array(DESCRIPTOR_SIZE);
    if (!(yield* dma.read(at, descriptor)) || era !== this.era) return false;
    const view = new DataView(descriptor.buffer);
    const { status, copied } = yield* this.copy(
      { source: view.getBigUint64(0, true), destination: view.getBigUint64(8, true), length: view.getUint32(16, true) },
      era,
    );
    if (era !== this.era) return false;
    if (status === undefined) return true;
    const answer = new DataView(new ArrayBuffer(8));
    answer.setUint32(0, copied, true);
    answer.setUint32(4, status, true);
    const answerAt = (at + BigInt(DESCRIPTOR_COPIED)) % ADDRESSES;
    if (!(yield* dma.write(answerAt, new Uint8Array(answer.buffer))) || era !== this.era) return false;
    this.head = (this.head + 1) >>> 0;
    if (this.control & CONTROL_INTERRUPT && view.getUint32(DESCRIPTOR_FLAGS, true) & FLAG_INTERRUPT) {
      this.context.attention();
    }
    return true;
  }

  /** Copies piece by piece, upwards. `status` undefined: the queue was disabled before the job was done. */
  private *copy(job: Job, era: number): Task<{ status: number | undefined; copied: number }> {
    const { dma } = this.context;
    const pasid = this.pasid & PASID_VALID ? this.pasid & 0xfffff : undefined;
    const bytes = new Uint8Array(Math.min(PIECE, job.length));
    let copied = 0;
    while (copied < job.length) {
      if (copied > 0 && copied % BURST === 0) yield* this.takeTime();
      if (era !== this.era || !(this.control & CONTROL_ENABLE)) return { status: undefined, copied };
      const piece = bytes.subarray(0, Math.min(PIECE, job.length - copied));
      const from = (job.source + BigInt(copied)) % ADDRESSES;
      const to = (job.destination + BigInt(copied)) % ADDRESSES;
      if (!(yield* dma.read(from, piece, pasid))) return { status: JOB_READ_FAULT, copied };
      if (era !== this.era) return { status: undefined, copied };
      if (!(yield* dma.write(to, piece, pasid))) return { status: JOB_WRITE_FAULT, copied };
      copied += piece.length;
    }
    return { status: JOB_DONE, copied };
  }

  /** A burst takes its time; a queue that is disabled meanwhile does not wait. */
  private *takeTime(): Task<void> {
    let isOver = false;
    const cancel = this.context.system.clock.after(BURST_TIME, () => {
      isOver = true;
      this.resting.wake();
    });
    yield* this.resting.untilUninterrupted(() => isOver || !(this.control & CONTROL_ENABLE));
    cancel();
  }
}

interface Job {
  readonly source: bigint;
  readonly destination: bigint;
  /** Bytes. */
  readonly length: number;
}
