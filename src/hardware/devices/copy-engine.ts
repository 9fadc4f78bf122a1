// Runs in a browser.
/**
 * A copy engine: an accelerator that copies memory, made for shared virtual addressing. docs/accelerator.md is its manual.
 *
 * It has up to 8 queues. Each works through a ring of descriptors {source, destination, length}, one job after the other,
 * and the queues beside each other. The ring is reached without PASID, what a job copies under the PASID of its queue: so
 * a driver that knows nothing of the process's mappings can let it name its own addresses. Control registers and each
 * queue's doorbell lie in pages of their own, so that a process can be given its doorbell and nothing else.
 *
 * An access that meets no translation waits as long as the IOMMU lets it; when it is refused, the job ends with an error
 * and the next one begins. Bytes are moved in pieces, and after a burst of them others have their turn.
 */
import { type Capability, msi, PciDevice } from "../../pci/index.ts";
import type { System } from "../../runtime/index.ts";
import { CopyQueue } from "./copy-queue.ts";

const IDENTIFICATION = 0x000;
const QUEUES = 0x004;
const INTERRUPT_STATUS = 0x008;
/** Where the queues' blocks of registers begin, and the bytes of one. */
const QUEUE_BLOCKS = 0x100;
const QUEUE_BLOCK = 0x40;
/** "COPY" */
const IDENTITY = 0x59504f43;
/** Page 0 has the registers, page 1 + n the doorbell of queue n. */
const PAGE = 4096;
const BAR_SIZE = 0x10000;
export const QUEUES_MAX = 8;

export class CopyEngine extends PciDevice {
  private readonly queues: readonly CopyQueue[];
  /** A bit for each queue that wants attention. */
  private wanting = 0;

  /** `queues`: how many it has, 1 to {@link QUEUES_MAX}; 4 by default. `capabilities`: more of them, behind MSI. */
  constructor(system: System, options: { queues?: number; capabilities?: readonly Capability[] } = {}) {
    super(system, {
      vendor: 0x1234,
      device: 0xc0e1,
      classCode: 0x120000,
      interruptPin: 1,
      capabilities: [msi(), ...(options.capabilities ?? [])],
      bars: [
        {
          index: 0,
          kind: "memory64",
          size: BAR_SIZE,
          read: (offset, size) => this.readRegister(offset, size),
          write: (offset, size, value) => this.writeRegister(offset, size, value),
        },
      ],
    });
    this.queues = Array.from(
      { length: options.queues ?? 4 },
      (_, index) =>
        new CopyQueue({
          system,
          dma: this.dma,
          label: () => `queue ${index} of ${this.name}`,
          attention: () => this.attend(index),
        }),
    );
  }

  protected override reset(): void {
    this.wanting = 0;
    for (const queue of this.queues) queue.reset();
  }

  private attend(index: number): void {
    this.wanting |= 1 << index;
    this.interrupt();
  }

  private readRegister(offset: number, size: number): bigint {
    if (offset >= PAGE) {
      const queue = this.queues[Math.floor(offset / PAGE) - 1];
      return queue === undefined || size !== 4 ? 0n : BigInt(queue.readDoorbell(offset % PAGE));
    }
    if (offset >= QUEUE_BLOCKS) {
      const { queue, register } = this.queueAt(offset);
      return queue === undefined || size < 4 ? 0n : queue.read(register);
    }
    if (size !== 4) return 0n;
    switch (offset) {
      case IDENTIFICATION:
        return BigInt(IDENTITY);
      case QUEUES:
        return BigInt(this.queues.length);
      case INTERRUPT_STATUS:
        return BigInt(this.wanting);
      default:
        return 0n;
    }
  }

  private writeRegister(offset: number, size: number, value: bigint): void {
    if (offset >= PAGE) {
      if (size === 4) this.queues[Math.floor(offset / PAGE) - 1]?.writeDoorbell(offset % PAGE, Number(value));
    } else if (offset >= QUEUE_BLOCKS) {
      const { queue, register } = this.queueAt(offset);
      if (size >= 4) queue?.write(register, value);
    } else if (offset === INTERRUPT_STATUS && size === 4) {
      this.wanting &= ~Number(value);
      if (this.wanting === 0) this.clearInterrupt();
    }
  }

  private queueAt(offset: number): { readonly queue: CopyQueue | undefined; readonly register: number } {
    const at = offset - QUEUE_BLOCKS;
    return { queue: this.queues[Math.floor(at / QUEUE_BLOCK)], register: at % QUEUE_BLOCK };
  }
}
