// Runs in a browser.
/** The registers of the copy engine, as its manual has them (docs/accelerator.md). */

import type { PciFunction } from "../pci/index.ts";
import { EINVAL, refuse } from "../runtime/index.ts";

const IDENTIFICATION = 0x000;
const IDENTITY = 0x59504f43n;
const QUEUES = 0x004;
const INTERRUPT_STATUS = 0x008;
const QUEUE_BLOCKS = 0x100;
const QUEUE_BLOCK = 0x40;
const CONTROL = 0x00;
const STATUS = 0x04;
const PASID = 0x08;
const SIZE = 0x0c;
const RING = 0x10;
const DOORBELLS = 0x1000;
const DOORBELL = 0x1000;
const TAIL = 0x0;
const HEAD = 0x4;

const CONTROL_ENABLE = 0x1;
const CONTROL_INTERRUPT = 0x2;
const STATUS_RUNNING = 0x1;
const STATUS_ERROR = 0x2;
const PASID_VALID = 0x8000_0000;

/** A descriptor: source, destination, length, copied, status, flags. */
export const DESCRIPTOR_SIZE = 32;
export const DESCRIPTOR_COPIED = 20;
export const FLAG_INTERRUPT = 1;

/** The registers of one copy engine. */
export class CopyRegisters {
  private readonly member: PciFunction;

  /** EINVAL: this is no copy engine. */
  constructor(member: PciFunction) {
    this.member = member;
    if (member.bars[0] === undefined || this.read(IDENTIFICATION) !== Number(IDENTITY)) {
      refuse(EINVAL, () => `${member.name} is no copy engine: its first register is not "COPY"`);
    }
  }

  get queues(): number {
    return this.read(QUEUES);
  }

  /** The queues that want attention, a bit each; they do not any more. */
  takeInterrupts(): number {
    const status = this.read(INTERRUPT_STATUS);
    this.write(INTERRUPT_STATUS, status);
    return status;
  }

  /** The queue begins at the start of an empty ring of 2^`sizeLog2` descriptors. It must be at rest. */
  enable(queue: number, { pasid, ring, sizeLog2 }: { pasid: number; ring: bigint; sizeLog2: number }): void {
    const block = blockOf(queue);
    this.write(block + PASID, PASID_VALID + pasid);
    this.write(block + SIZE, sizeLog2);
    this.member.writeBar(0, block + RING, 8, ring);
    this.write(block + CONTROL, CONTROL_ENABLE | CONTROL_INTERRUPT);
  }

  disable(queue: number): void {
    this.write(blockOf(queue) + CONTROL, 0);
  }

  isRunning(queue: number): boolean {
    return (this.status(queue) & STATUS_RUNNING) !== 0;
  }

  hasFailed(queue: number): boolean {
    return (this.status(queue) & STATUS_ERROR) !== 0;
  }

  status(queue: number): number {
    return this.read(blockOf(queue) + STATUS);
  }

  /** Jobs submitted since the queue was enabled, modulo 2^32. */
  tail(queue: number): number {
    return this.read(doorbellOf(queue) + TAIL);
  }

  ring(queue: number, tail: number): void {
    this.write(doorbellOf(queue) + TAIL, tail);
  }

  /** Jobs done since the queue was enabled, modulo 2^32. */
  head(queue: number): number {
    return this.read(doorbellOf(queue) + HEAD);
  }

  private read(offset: number): number {
    return Number(this.member.readBar(0, offset, 4));
  }

  private write(offset: number, value: number): void {
    this.member.writeBar(0, offset, 4, BigInt(value));
  }
}

function blockOf(queue: number): number {
  return QUEUE_BLOCKS + queue * QUEUE_BLOCK;
}

function doorbellOf(queue: number): number {
  return DOORBELLS + queue * DOORBELL;
}
