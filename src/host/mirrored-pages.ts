import { BusError, type FrameBacking, PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";

/** How a client's memory is read and written; false where nothing is. */
export interface ClientMemory {
  peek(address: number, into: Uint8Array): boolean;
  poke(address: number, from: Uint8Array): boolean;
}

/**
 * Frames that show pages of a client as they are now, not as they were when somebody looked: nothing is pinned. They are
 * for those who hear of changes; a page that is about to change loses its frame.
 */
export class MirroredPages {
  private readonly client: ClientMemory;
  private readonly memory: PhysicalMemory;
  /** By page number. */
  private readonly frames = new Map<number, number>();

  constructor(client: ClientMemory, memory: PhysicalMemory) {
    this.client = client;
    this.memory = memory;
  }

  /** The frame of a page, the same one until it is dropped. Refusal ENOMEM. */
  frameOf(page: number): number {
    let pfn = this.frames.get(page);
    if (pfn === undefined) {
      pfn = this.memory.adopt(new CurrentPage(this.client, page), 1);
      this.frames.set(page, pfn);
    }
    return pfn;
  }

  /** Pages from number `page` up to `end` have no frames any more. */
  drop(page: number, end: number): void {
    if (end - page < this.frames.size) for (let at = page; at < end; at++) this.dropOne(at);
    else for (const at of [...this.frames.keys()]) if (at >= page && at < end) this.dropOne(at);
  }

  private dropOne(page: number): void {
    const pfn = this.frames.get(page);
    if (pfn === undefined) return;
    this.frames.delete(page);
    this.memory.drop(pfn, 1);
  }
}

/** What is at a page of a client when somebody looks. Where nothing is, nothing answers on the bus. */
class CurrentPage implements FrameBacking {
  private readonly client: ClientMemory;
  private readonly address: number;

  constructor(client: ClientMemory, page: number) {
    this.client = client;
    this.address = page * PAGE_SIZE;
  }

  read(page: number, offset: number, into: Uint8Array): void {
    const at = this.address + page * PAGE_SIZE + offset;
    if (!this.client.peek(at, into)) throw new BusError(at);
  }

  write(page: number, offset: number, from: Uint8Array): void {
    const at = this.address + page * PAGE_SIZE + offset;
    if (!this.client.poke(at, from)) throw new BusError(at);
  }
}
