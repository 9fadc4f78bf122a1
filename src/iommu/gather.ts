// Runs in a browser.
/** What an unmap removed and the hardware may still remember. Emptied by {@link PagingDomain.sync}. */
export interface UnmapGather {
  /** The IOVA range to invalidate; nothing yet while `last < start`. */
  start: bigint;
  last: bigint;
  /** Size of the leaves removed, if all had the same; 0 if not. */
  leafSize: number;
  /** Frames of tables that became empty: freed once the hardware forgot them. */
  readonly freedTables: number[];
}

export function newGather(): UnmapGather {
  return { start: 1n, last: 0n, leafSize: 0, freedTables: [] };
}

/** Nothing is gathered, and nothing to free. The frames of tables are the caller's to free before. */
export function emptyGather(gather: UnmapGather): void {
  gather.start = 1n;
  gather.last = 0n;
  gather.leafSize = 0;
  if (gather.freedTables.length > 0) gather.freedTables.length = 0;
}

/** A gather is one range: what does not touch it has to wait until it is emptied. */
export function liesApart({ start, last }: UnmapGather, iova: bigint, size: number): boolean {
  return start <= last && (iova > last + 1n || iova + BigInt(size) < start);
}

/** Adds a range that touches what was gathered, or begins with it. */
export function extendGather(gather: UnmapGather, start: bigint, last: bigint): void {
  const isFirst = gather.last < gather.start;
  if (isFirst || start < gather.start) gather.start = start;
  if (isFirst || last > gather.last) gather.last = last;
}
