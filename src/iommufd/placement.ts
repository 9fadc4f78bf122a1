// Runs in a browser.
/** Where a mapping goes whose IOVA the kernel chooses (reference 3.5, "Automatic placement"). */
import { PAGE_SIZE } from "../memory/index.ts";
import {
  bigintOf,
  EINVAL,
  ENOSPC,
  EOVERFLOW,
  type IntervalMap,
  lowWordOf,
  numberOf,
  refuse,
} from "../runtime/index.ts";
import { type IovaRange, MAX_IOVA } from "./reserved.ts";

const PAGE = BigInt(PAGE_SIZE);
/** Linux with transparent huge pages: the alignment that is worth having. */
const HUGE_PAGE_SIZE = 2 ** 21;
const LONGEST = 2n ** 63n - 2n;
/** Neither the first nor the last page is ever chosen. */
const wholeSpace: readonly IovaRange[] = [{ start: PAGE, last: MAX_IOVA - PAGE }];

export interface PlacementRequest {
  /** Bytes, above 0. */
  readonly length: bigint;
  /** Address of the memory in its source: the IOVA gets its offset in the page, and as much of its alignment as fits. */
  readonly address: bigint;
  /** Of the IOAS, in bytes. */
  readonly alignment: number;
  /** Allowed ranges, ascending and apart; empty: all. */
  readonly allowed: readonly IovaRange[];
}

/**
 * The lowest address where the range fits between what is occupied. Refusals: EOVERFLOW (too long for any space), EINVAL
 * (the memory is less aligned than the IOAS asks), ENOSPC.
 */
export function placeAutomatically(occupied: IntervalMap<unknown>, request: PlacementRequest): bigint {
  const { length, address, alignment } = request;
  if (length > LONGEST) refuse(EOVERFLOW, () => `length 0x${length.toString(16)} is 2^63 - 1 or more`);
  const align = alignmentOf(address, length);
  if (align < alignment) {
    refuse(
      EINVAL,
      () => `memory at 0x${address.toString(16)} allows IOVAs aligned to ${align}, the IOAS wants ${alignment}`,
    );
  }
  const step = bigintOf(align);
  const offset = address % PAGE;
  const fitIn = (range: IovaRange): bigint | undefined => {
    const aligned = ((range.start + step - 1n) / step) * step;
    if (aligned > MAX_IOVA) return undefined;
    const start = aligned | offset;
    return start < range.last && range.last - start >= length - 1n ? start : undefined;
  };
  const windows = request.allowed.length === 0 ? wholeSpace : request.allowed.map(clipToWholeSpace);
  for (const window of windows) {
    const start = fitIn(window);
    if (start === undefined) continue;
    const place = occupied.firstHole(start, window.last, length, fitIn);
    if (place !== undefined) return place;
  }
  return refuse(ENOSPC, () =>
    request.allowed.length === 0
      ? `no gap between areas and reserved ranges takes 0x${length.toString(16)} bytes aligned to 0x${align.toString(16)}`
      : `no gap in the allowed ranges takes 0x${length.toString(16)} bytes aligned to 0x${align.toString(16)}`,
  );
}

function clipToWholeSpace({ start, last }: IovaRange): IovaRange {
  return { start: start < PAGE ? PAGE : start, last: last > MAX_IOVA - PAGE ? MAX_IOVA - PAGE : last };
}

/** The largest power of two that both the address and the rounded-up length have, at most a huge page. */
function alignmentOf(address: bigint, length: bigint): number {
  const size = length >= HUGE_PAGE_SIZE ? HUGE_PAGE_SIZE : 1 << (32 - Math.clz32(numberOf(length) - 1));
  const low = lowWordOf(address) & (HUGE_PAGE_SIZE - 1);
  return low === 0 ? size : Math.min(size, low & -low);
}
