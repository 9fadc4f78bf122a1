import { BusError, type FrameBacking, type FrameRun, PAGE_SIZE, type PhysicalMemory } from "../memory/index.ts";

/** Pages of a group: 2 MiB, what one large leaf of a page table spans. */
const GROUP = 512;

/** How a client's memory is read and written; false where nothing is. */
export interface ClientMemory {
  peek(address: number, into: Uint8Array): boolean;
  poke(address: number, from: Uint8Array): boolean;
}

/** Pages on consecutive frames, from number `page` on. */
export interface MirroredRun extends FrameRun {
  readonly page: number;
}

/**
 * Frames that show pages of a client as they are now, not as they were when somebody looked: nothing is pinned. They are
 * for those who hear of changes. They come in runs and go by whole groups, so a change is told of whole groups, too:
 * {@link mirroredRange}.
 */
export class MirroredPages {
  private readonly client: ClientMemory;
  private readonly memory: PhysicalMemory;
  /** By group, in no order. */
  private readonly groups = new Map<number, MirroredRun[]>();

  constructor(client: ClientMemory, memory: PhysicalMemory) {
    this.client = client;
    this.memory = memory;
  }

  /**
   * The run of frames that a page is in, the same until it is dropped. A new one has as many of the pages from number `from`
   * up to `to` (exclusive) as lie in the same group and have no frame. Refusal ENOMEM.
   */
  around(page: number, from: number, to: number): MirroredRun {
    const group = Math.floor(page / GROUP);
    const runs = this.groups.get(group) ?? [];
    let first = Math.max(from, group * GROUP);
    let end = Math.min(to, (group + 1) * GROUP);
    for (const run of runs) {
      const runEnd = run.page + run.count;
      if (page >= run.page && page < runEnd) return run;
      if (runEnd <= page) first = Math.max(first, runEnd);
      else end = Math.min(end, run.page);
    }
    const count = end - first;
    const pfn = this.memory.adopt(new CurrentPages(this.client, first), count, first);
    const run = { page: first, count, pfn };
    this.groups.set(group, [...runs, run]);
    return run;
  }

  /** Pages from number `page` up to `end`, whole groups, have no frames any more. */
  drop(page: number, end: number): void {
    const [first, last] = [Math.floor(page / GROUP), Math.ceil(end / GROUP) - 1];
    const groups =
      last - first < this.groups.size
        ? Array.from({ length: last - first + 1 }, (_, i) => first + i)
        : this.groups.keys();
    for (const group of [...groups]) if (group >= first && group <= last) this.dropGroup(group);
  }

  private dropGroup(group: number): void {
    for (const { pfn, count } of this.groups.get(group) ?? []) this.memory.drop(pfn, count);
    this.groups.delete(group);
  }
}

/** The bytes of all groups that a range touches; `end` is exclusive. */
export function mirroredRange(start: number, end: number): { readonly start: number; readonly end: number } {
  const size = GROUP * PAGE_SIZE;
  return { start: Math.floor(start / size) * size, end: Math.ceil(end / size) * size };
}

/** What is at pages of a client when somebody looks. Where nothing is, nothing answers on the bus. */
class CurrentPages implements FrameBacking {
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
