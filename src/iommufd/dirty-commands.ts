// Runs in a browser.
/** HWPT_SET_DIRTY_TRACKING, HWPT_GET_DIRTY_BITMAP (reference 3.9). */
import { EINVAL, EOPNOTSUPP, EOVERFLOW, refuse, type Task } from "../runtime/index.ts";
import { DIRTY_BITMAP_NO_CLEAR, DIRTY_TRACKING_ENABLE } from "../uapi/index.ts";
import type { CallOf } from "./call.ts";
import { DirtyBitmap, granuleOf } from "./dirty-bitmap.ts";
import { PagingHwpt } from "./hwpt.ts";
import { refuseReserved } from "./ioas-commands.ts";
import type { IovaSpace } from "./iova-space.ts";
import { MAX_IOVA } from "./reserved.ts";

/** Enabling begins with nothing dirty, also if tracking was on. */
export function* hwptSetDirtyTracking({ context, command }: CallOf<"HWPT_SET_DIRTY_TRACKING">): Task<void> {
  refuseUnknown(command.flags, DIRTY_TRACKING_ENABLE);
  const hwpt = context.objects.use(command.hwpt_id, PagingHwpt);
  try {
    refuseWithoutTracking(hwpt);
    const { domain, ioas } = hwpt;
    const on = (command.flags & DIRTY_TRACKING_ENABLE) !== 0;
    if (on)
      yield* ioas.space.readDirty(domain, { start: 0n, last: MAX_IOVA, contiguous: false, clear: true }, () => {});
    yield* domain.setDirtyTracking!(on);
    const { events } = context.system;
    if (events.on) events.emit({ kind: "iommufd.hwpt.dirty-tracking", id: hwpt.id, on });
  } finally {
    context.objects.release(hwpt);
  }
}

/** Sets the bits of what is dirty in the areas from `iova` on, up to the first hole. */
export function* hwptGetDirtyBitmap({ context, command, process }: CallOf<"HWPT_GET_DIRTY_BITMAP">): Task<void> {
  refuseUnknown(command.flags, DIRTY_BITMAP_NO_CLEAR);
  refuseReserved(command.reserved);
  const hwpt = context.objects.use(command.hwpt_id, PagingHwpt);
  try {
    const { iova: start, page_size: pageSize } = command;
    const last = checkRange(hwpt.ioas.space, start, command.length, pageSize);
    refuseWithoutTracking(hwpt);
    context.system.failures.point("iommufd.dirty.bitmap");
    const bitmap = new DirtyBitmap(process.memory, command.data, start, granuleOf(pageSize));
    const clear = (command.flags & DIRTY_BITMAP_NO_CLEAR) === 0;
    const range = { start, last, contiguous: true, clear };
    yield* hwpt.ioas.space.readDirty(hwpt.domain, range, (iova, size) => bitmap.set(iova, size));
    bitmap.flush();
  } finally {
    context.objects.release(hwpt);
  }
}

/** The last IOVA. `pageSize` need not be a power of two: its bits below are what must be zero. */
function checkRange(space: IovaSpace, start: bigint, length: bigint, pageSize: bigint): bigint {
  const last = start + BigInt.asUintN(64, length - 1n);
  if (last > MAX_IOVA) refuse(EOVERFLOW, () => "iova + length exceeds 64 bits");
  const alignment = BigInt(space.alignment);
  if (start % alignment !== 0n || (last + 1n) % alignment !== 0n) {
    refuse(EINVAL, () => `iova and length are no multiples of ${alignment}, the alignment of ${space.label}`);
  }
  if (pageSize === 0n) refuse(EINVAL, () => "page_size is 0");
  if ((start & (pageSize - 1n)) !== 0n || ((last + 1n) & (pageSize - 1n)) !== 0n) {
    refuse(EINVAL, () => `iova and length have bits of page_size - 1 (0x${(pageSize - 1n).toString(16)})`);
  }
  return last;
}

function refuseUnknown(flags: number, known: number): void {
  const unknown = flags & ~known;
  if (unknown !== 0) refuse(EOPNOTSUPP, () => `unknown flags 0x${(unknown >>> 0).toString(16)}`);
}

function refuseWithoutTracking(hwpt: PagingHwpt): void {
  if (!hwpt.dirtyTracking) refuse(EOPNOTSUPP, () => `${hwpt.label} was allocated without DIRTY_TRACKING`);
  const { domain } = hwpt;
  if (domain.readDirty === undefined || domain.setDirtyTracking === undefined) {
    refuse(EOPNOTSUPP, () => `${domain.label} of ${hwpt.label} cannot track dirty pages`);
  }
}
