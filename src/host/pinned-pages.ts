import type { FrameRun, PhysicalMemory } from "../memory/index.ts";

/** Page numbers of one group: 2 MiB. */
const GROUP = 512;

/** Consecutive pages that are pinned as consecutive frames, or (`pfn` undefined) not pinned. */
export interface PageRun {
  readonly first: number;
  readonly length: number;
  readonly pfn: number | undefined;
}

/** The frame of each pinned page of an address space. Arrays of 512 frames, where there are any. */
export class PinnedPages {
  private readonly groups = new Map<number, { frames: Float64Array; used: number }>();
  /** How many pages are pinned. */
  size = 0;

  /** Pins pages: the frames of those that are pinned already, and what `adopt` makes for the others. All or none. */
  pin(
    memory: PhysicalMemory,
    page: number,
    count: number,
    adopt: (first: number, length: number) => number,
  ): FrameRun[] {
    const runs: FrameRun[] = [];
    try {
      for (const { first, length, pfn } of this.runs(page, count)) {
        const run = { pfn: pfn ?? adopt(first, length), count: length };
        memory.pin(run);
        runs.push(run);
      }
    } catch (error) {
      memory.unpin(runs);
      throw error;
    }
    return runs;
  }

  /** Covers `count` pages from `page` on, in order, with runs as long as they come. */
  *runs(page: number, count: number): Iterable<PageRun> {
    for (let at = page, end = page + count; at < end; ) {
      const pfn = this.get(at);
      let length = 1;
      for (; at + length < end; length++) {
        const next = this.get(at + length);
        if (next !== (pfn === undefined ? undefined : pfn + length)) break;
      }
      yield { first: at, length, pfn };
      at += length;
    }
  }

  /** Those of the {@link runs} that are pinned. Skips groups that have none. */
  *heldRuns(page: number, count: number): Iterable<PageRun & { readonly pfn: number }> {
    if (this.size === 0) return;
    for (let at = page, end = page + count; at < end; ) {
      const next = Math.min(end, (Math.floor(at / GROUP) + 1) * GROUP);
      if (this.groups.has(Math.floor(at / GROUP))) {
        for (const run of [...this.runs(at, next - at)]) if (run.pfn !== undefined) yield { ...run, pfn: run.pfn };
      }
      at = next;
    }
  }

  get(page: number): number | undefined {
    const pfn = this.groups.get(Math.floor(page / GROUP))?.frames[page % GROUP];
    return pfn === undefined || pfn < 0 ? undefined : pfn;
  }

  set(page: number, count: number, pfn: number): void {
    for (let i = 0; i < count; i++) {
      const index = Math.floor((page + i) / GROUP);
      let group = this.groups.get(index);
      if (group === undefined) {
        group = { frames: new Float64Array(GROUP).fill(-1), used: 0 };
        this.groups.set(index, group);
      }
      const slot = (page + i) % GROUP;
      if (group.frames[slot] < 0) {
        group.used++;
        this.size++;
      }
      group.frames[slot] = pfn + i;
    }
  }

  clear(page: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const index = Math.floor((page + i) / GROUP);
      const group = this.groups.get(index);
      if (group === undefined) continue;
      const slot = (page + i) % GROUP;
      if (group.frames[slot] < 0) continue;
      group.frames[slot] = -1;
      this.size--;
      if (--group.used === 0) this.groups.delete(index);
    }
  }
}
