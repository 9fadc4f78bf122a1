// Runs in a browser.
import { assert } from "../runtime/index.ts";
import { FrameCounts } from "./frame-counts.ts";
import type { FrameRun } from "./types.ts";

/** The pins on frames, and the frames that only pins keep. */
export class Pins {
  private readonly counts = new FrameCounts();
  /** 1 for each frame that was given up while pinned. */
  private readonly kept = new FrameCounts();
  private readonly lost: (pfn: number, count: number) => void;
  private readonly release: (pfn: number, count: number) => void;

  /** `lost` hears of frames that lost their last pin, then `release` takes those of them that were given up. */
  constructor(lost: (pfn: number, count: number) => void, release: (pfn: number, count: number) => void) {
    this.lost = lost;
    this.release = release;
  }

  /** Frames that have a pin. */
  get size(): number {
    return this.counts.size;
  }

  /** Pins on a frame. */
  get(pfn: number): number {
    return this.counts.get(pfn);
  }

  add({ pfn, count }: FrameRun): void {
    this.counts.increment(pfn, count);
  }

  remove({ pfn, count }: FrameRun): void {
    this.counts.decrement(pfn, count, this.afterLast);
  }

  /** The owner is done with these frames: releases those without a pin now, and the others when their last one goes. */
  giveUp(pfn: number, count: number): void {
    // The usual case, and the one that must be fast: a frame of a table.
    if (this.counts.size === 0 || (count === 1 && this.counts.get(pfn) === 0)) {
      this.release(pfn, count);
      return;
    }
    for (const part of this.split({ pfn, count })) {
      if (!part.pinned) {
        this.release(part.pfn, part.count);
        continue;
      }
      this.kept.forEachRun(part.pfn, part.count, (first, _length, kept) => {
        assert(kept === 0, () => `the pinned frame 0x${first.toString(16)} is given up twice`);
      });
      this.kept.increment(part.pfn, part.count);
    }
  }

  /** The frames of a run in order, in parts that are pinned or not. */
  split(run: FrameRun): (FrameRun & { readonly pinned: boolean })[] {
    if (this.counts.size === 0) return [{ pfn: run.pfn, count: run.count, pinned: false }];
    const parts: { pfn: number; count: number; pinned: boolean }[] = [];
    this.counts.forEachRun(run.pfn, run.count, (pfn, count, pins) => {
      const previous = parts.at(-1);
      if (previous !== undefined && previous.pinned === pins > 0) previous.count += count;
      else parts.push({ pfn, count, pinned: pins > 0 });
    });
    return parts;
  }

  private readonly afterLast = (pfn: number, count: number): void => {
    this.lost(pfn, count);
    if (this.kept.size === 0) return;
    this.kept.forEachRun(pfn, count, (first, length, kept) => {
      if (kept === 0) return;
      this.kept.decrement(first, length, () => undefined);
      this.release(first, length);
    });
  };
}
