// Runs in a browser.
import { ENOSPC, refuse } from "../runtime/index.ts";
import type { InterruptController, Message, RequesterId } from "./dma.ts";

interface Block {
  readonly requester: RequesterId;
  readonly first: number;
  readonly count: number;
  readonly handler: (index: number) => void;
}

/**
 * Turns writes to its doorbell into calls. A message works only for the requester that it was given to, as with
 * interrupt remapping or an ITS.
 */
export class MsiController implements InterruptController {
  readonly doorbell: { readonly start: bigint; readonly last: bigint };
  private readonly limit: number;
  /** By data; the messages of one block share an entry. */
  private readonly messages = new Map<number, Block>();
  /** All data below it are taken. */
  private lowestFree = 0;

  /** `messages`: how many there are in all; data are 16 bits wide. */
  constructor(doorbell: { readonly start: bigint; readonly last: bigint }, options: { messages?: number } = {}) {
    this.doorbell = doorbell;
    this.limit = options.messages ?? 0x10000;
  }

  /** Messages given out. */
  get allocated(): number {
    return this.messages.size;
  }

  allocate(requester: RequesterId, handler: (index: number) => void, count = 1): Message {
    const start = Math.floor(this.lowestFree / count) * count;
    for (let first = start; first + count <= this.limit; first += count) {
      if (this.isTaken(first, count)) continue;
      const block: Block = { requester, first, count, handler };
      for (let data = first; data < first + count; data++) this.messages.set(data, block);
      if (first <= this.lowestFree) this.lowestFree = first + count;
      return { address: this.doorbell.start, data: first };
    }
    return refuse(ENOSPC, () => `the interrupt controller has no ${count} consecutive messages left`);
  }

  free({ data }: Message): void {
    const block = this.messages.get(data);
    if (block === undefined) return;
    for (let each = block.first; each < block.first + block.count; each++) this.messages.delete(each);
    this.lowestFree = Math.min(this.lowestFree, block.first);
  }

  deliver(requester: RequesterId, _address: bigint, data: number): void {
    const block = this.messages.get(data);
    if (block?.requester === requester) block.handler(data - block.first);
  }

  private isTaken(first: number, count: number): boolean {
    for (let data = first; data < first + count; data++) if (this.messages.has(data)) return true;
    return false;
  }
}
