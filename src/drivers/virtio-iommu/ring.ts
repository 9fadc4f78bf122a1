// Runs in a browser.
/**
 * A split virtqueue (virtio 1.2, §2.7) from the driver's side, in one page of memory.
 *
 * It moves indexes of descriptors: what they describe is up to its user, who also says when the device is told.
 */
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import { ENODEV, refuse } from "../../runtime/index.ts";
import {
  QUEUE_DESC,
  QUEUE_DEVICE,
  QUEUE_DRIVER,
  QUEUE_NOTIFY,
  QUEUE_NUM,
  QUEUE_NUM_MAX,
  QUEUE_READY,
  QUEUE_SEL,
} from "./registers.ts";

export const DESC_NEXT = 1;
export const DESC_WRITE = 2;
const AVAIL_NO_INTERRUPT = 1;

/** What one page holds: 2 KiB of descriptors, 260 bytes of the available ring, 1028 bytes of the used ring. */
const SIZE_MAX = 128;
const AVAIL = 2048;
const USED = 2560;

export class Ring {
  /** Descriptors, a power of two. */
  readonly size: number;
  private readonly memory: PhysicalMemory;
  private readonly registers: RegisterBlock;
  private readonly queue: number;
  private readonly pfn: number;
  private readonly base: number;
  private readonly flags: number;
  /** The entries of the available ring: two are one word of memory. */
  private readonly heads: Uint16Array;
  /** Free-running, 16 bits. */
  private offered = 0;
  private returned = 0;

  /** Refusals: ENODEV if the device has no such queue, ENOMEM. */
  constructor(memory: PhysicalMemory, registers: RegisterBlock, options: { queue: number; interrupts: boolean }) {
    const { queue, interrupts } = options;
    this.memory = memory;
    this.registers = registers;
    this.queue = queue;
    this.flags = interrupts ? 0 : AVAIL_NO_INTERRUPT;
    registers.write32(QUEUE_SEL, queue);
    const maximum = registers.read32(QUEUE_NUM_MAX);
    if (maximum < 2) refuse(ENODEV, () => `queue ${queue} of the device has ${maximum} entries`);
    this.size = Math.min(SIZE_MAX, 2 ** (31 - Math.clz32(maximum)));
    this.heads = new Uint16Array(this.size);
    this.pfn = memory.allocate();
    this.base = this.pfn * 4096;
  }

  /** Tells the device where the ring is. Refusal ENODEV if it does not take it. */
  program(): void {
    const { registers, base } = this;
    this.memory.writeWord(base + AVAIL, this.flags);
    registers.write32(QUEUE_SEL, this.queue);
    registers.write32(QUEUE_NUM, this.size);
    for (const [register, offset] of [
      [QUEUE_DESC, 0],
      [QUEUE_DRIVER, AVAIL],
      [QUEUE_DEVICE, USED],
    ]) {
      const address = base + offset;
      registers.write32(register, address % 2 ** 32);
      registers.write32(register + 4, Math.floor(address / 2 ** 32));
    }
    registers.write32(QUEUE_READY, 1);
    if (registers.read32(QUEUE_READY) !== 1) refuse(ENODEV, () => `the device does not take queue ${this.queue}`);
  }

  /** The device must have been reset. */
  free(): void {
    this.memory.free(this.pfn);
  }

  describe(index: number, address: number, length: number, flags: number, next = 0): void {
    const at = this.base + index * 16;
    this.memory.writeWord(at, address % 2 ** 32);
    this.memory.writeWord(at + 4, Math.floor(address / 2 ** 32));
    this.memory.writeWord(at + 8, length);
    this.memory.writeWord(at + 12, next * 2 ** 16 + flags);
  }

  setLength(index: number, length: number): void {
    this.memory.writeWord(this.base + index * 16 + 8, length);
  }

  /** Makes the chain that begins at `head` available. The device looks for it at the next {@link notify}. */
  offer(head: number): void {
    const place = this.offered & (this.size - 1);
    this.heads[place] = head;
    const pair = place & ~1;
    this.memory.writeWord(this.base + AVAIL + 4 + pair * 2, this.heads[pair] + this.heads[pair + 1] * 2 ** 16);
    this.offered = (this.offered + 1) & 0xffff;
    this.memory.writeWord(this.base + AVAIL, this.flags + this.offered * 2 ** 16);
  }

  notify(): void {
    this.registers.write32(QUEUE_NOTIFY, this.queue);
  }

  /** The head of a chain that the device is done with; undefined if there is none. */
  takeReturned(): number | undefined {
    const used = this.base + USED;
    if (this.memory.readWord(used) >>> 16 === this.returned) return undefined;
    const head = this.memory.readWord(used + 4 + (this.returned & (this.size - 1)) * 8);
    this.returned = (this.returned + 1) & 0xffff;
    return head;
  }
}
