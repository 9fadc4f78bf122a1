// Runs in a browser.
import { PAGE_SIZE } from "./types.ts";

/**
 * Hears what happens to the pages of an address space, before it happens (Linux's mmu_notifier). Addresses are in bytes,
 * `end` is exclusive. Nothing here may block: what a listener does is done when it returns.
 */
export interface MmNotifier {
  /**
   * Pages of the range are about to be unmapped, replaced or protected. When this returns nobody uses them any more who
   * learnt of them by {@link AddressSpace.faultIn}; until `invalidateEnd` nobody may learn of them again.
   */
  invalidateStart(start: number, end: number): void;
  /** The change of a range that was told before is over. */
  invalidateEnd(start: number, end: number): void;
  /** The process is gone, or has become another program: so are all pages, when this returns. Called once, and last. */
  release(): void;
}

/** Who listens to an address space, and which of its ranges are being changed. */
export class MmNotifiers {
  private readonly listeners = new Set<MmNotifier>();
  private readonly changes: { readonly start: number; readonly end: number }[] = [];

  /** True if somebody listens. */
  get any(): boolean {
    return this.listeners.size > 0;
  }

  /** What it returns ends that. A change that is under way is not told; {@link isChanging} knows it. */
  watch(listener: MmNotifier): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** True while a page, by its number, is in a range that is being changed. */
  isChanging(page: number): boolean {
    const address = page * PAGE_SIZE;
    return this.changes.some(({ start, end }) => address < end && address + PAGE_SIZE > start);
  }

  invalidateStart(start: number, end: number): void {
    this.changes.push({ start, end });
    for (const listener of [...this.listeners]) listener.invalidateStart(start, end);
  }

  /** Ends a change that was begun with the same range; one that was not is nobody's business. */
  invalidateEnd(start: number, end: number): void {
    const index = this.changes.findIndex((change) => change.start === start && change.end === end);
    if (index < 0) return;
    this.changes.splice(index, 1);
    for (const listener of [...this.listeners]) listener.invalidateEnd(start, end);
  }

  /** Does all of a change at once: `count` pages from number `page` on. */
  during<T>(page: number, count: number, change: () => T): T {
    if (this.listeners.size === 0) return change();
    const start = page * PAGE_SIZE;
    const end = start + count * PAGE_SIZE;
    this.invalidateStart(start, end);
    try {
      return change();
    } finally {
      this.invalidateEnd(start, end);
    }
  }

  /** Everybody hears it once; changes that were under way will not end, and nothing waits for them. */
  release(): void {
    this.changes.length = 0;
    const heard = [...this.listeners];
    this.listeners.clear();
    for (const listener of heard) listener.release();
  }
}
