// Runs in a browser.
/** HWPT_ALLOC, and what is done to a HWPT: dirty tracking, invalidation (reference 3.7, 3.9, 3.10). */
import { PAGE_SIZE } from "../memory/index.ts";
import { EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW, refuse, type Task } from "../runtime/index.ts";
import {
  DIRTY_BITMAP_NO_CLEAR,
  DIRTY_TRACKING_ENABLE,
  HWPT_ALLOC_PASID,
  HWPT_DATA_NONE,
  HWPT_FAULT_ID_VALID,
} from "../uapi/index.ts";
import type { CallOf } from "./call.ts";
import { ClientData } from "./client-data.ts";
import { IommufdDevice } from "./device.ts";
import { abandonPagingHwpt, buildPagingHwpt, PagingHwpt } from "./hwpt.ts";
import { Ioas } from "./ioas.ts";
import { refuseReserved } from "./ioas-commands.ts";
import type { IommufdObject } from "./objects.ts";
import { MAX_IOVA } from "./reserved.ts";

/** Entries of one invalidation. */
const MAX_INVALIDATIONS = 2 ** 19;

export function* hwptAlloc(call: CallOf<"HWPT_ALLOC">): Task<void> {
  const { context, command, process } = call;
  refuseReserved(command.reserved);
  const { data_type: type, data_len: length } = command;
  if ((type === HWPT_DATA_NONE) !== (length === 0)) {
    refuse(EINVAL, () => `data type ${type} and data length ${length}: one is given, the other not`);
  }
  const device = context.objects.use(command.dev_id, IommufdDevice);
  let parent: IommufdObject | undefined;
  try {
    parent = context.objects.tryUse(command.pt_id);
    if (parent instanceof Ioas) {
      const data = length === 0 ? undefined : new ClientData(process, type, command.data_uptr, length);
      yield* allocateOnIoas(call, parent, device, data);
    } else if (parent instanceof PagingHwpt) {
      refuseNested(parent, device, command.flags, length);
    } else {
      const { pt_id: id } = command;
      refuse(
        EINVAL,
        () => `id ${id} is ${parent?.label ?? "nothing"}: a HWPT is made on an IOAS, a paging HWPT or a vIOMMU`,
      );
    }
  } finally {
    if (parent !== undefined) context.objects.release(parent);
    context.objects.release(device);
  }
}

function* allocateOnIoas(
  call: CallOf<"HWPT_ALLOC">,
  ioas: Ioas,
  device: IommufdDevice,
  data: ClientData | undefined,
): Task<void> {
  const { context, command, process } = call;
  const { flags, fault_id: faultId } = command;
  yield* ioas.mutex.take();
  try {
    const hwpt = yield* buildPagingHwpt(context, { ioas, device, flags, data, automatic: false });
    try {
      yield* hwpt.link(process);
      if ((flags & HWPT_FAULT_ID_VALID) !== 0) refuse(ENOENT, () => `id ${faultId} is no fault queue`);
      command.out_hwpt_id = hwpt.id;
      call.respond();
    } catch (error) {
      yield* abandonPagingHwpt(context, hwpt);
      throw error;
    }
    context.objects.publish(hwpt);
  } finally {
    ioas.mutex.release();
  }
}

/** A HWPT on a paging HWPT: refused, as no driver has an operation for nested domains. */
function refuseNested(parent: PagingHwpt, device: IommufdDevice, flags: number, length: number): never {
  const unknown = flags & ~(HWPT_FAULT_ID_VALID | HWPT_ALLOC_PASID);
  if (unknown !== 0) refuse(EOPNOTSUPP, () => `flags 0x${(unknown >>> 0).toString(16)} are not for nested HWPTs`);
  if (length === 0) refuse(EOPNOTSUPP, () => "a nested HWPT needs the data of its driver");
  const { driver } = device.device.iommu!.instance;
  refuse(EOPNOTSUPP, () => `driver ${driver.name} has no nested domains to put on ${parent.label}`);
}

export function hwptSetDirtyTracking({ context, command }: CallOf<"HWPT_SET_DIRTY_TRACKING">): undefined {
  const unknown = command.flags & ~DIRTY_TRACKING_ENABLE;
  if (unknown !== 0) refuse(EOPNOTSUPP, () => `unknown flags 0x${(unknown >>> 0).toString(16)}`);
  refuseDirtyTracking(context.objects.find(command.hwpt_id, PagingHwpt));
}

export function hwptGetDirtyBitmap({ context, command }: CallOf<"HWPT_GET_DIRTY_BITMAP">): undefined {
  const unknown = command.flags & ~DIRTY_BITMAP_NO_CLEAR;
  if (unknown !== 0) refuse(EOPNOTSUPP, () => `unknown flags 0x${(unknown >>> 0).toString(16)}`);
  refuseReserved(command.reserved);
  const hwpt = context.objects.find(command.hwpt_id, PagingHwpt);
  const { iova, length, page_size: pageSize } = command;
  const end = iova + BigInt.asUintN(64, length - 1n) + 1n;
  if (end - 1n > MAX_IOVA) refuse(EOVERFLOW, () => `iova + length exceeds 64 bits`);
  const { alignment } = hwpt.ioas.space;
  if (iova % BigInt(alignment) !== 0n || end % BigInt(alignment) !== 0n) {
    refuse(EINVAL, () => `iova and length are no multiples of ${alignment}, the alignment of ${hwpt.ioas.label}`);
  }
  if (pageSize === 0n) refuse(EINVAL, () => "page_size is 0");
  if ((iova & (pageSize - 1n)) !== 0n || (end & (pageSize - 1n)) !== 0n) {
    refuse(EINVAL, () => `iova and length have bits of page_size - 1 (0x${(pageSize - 1n).toString(16)})`);
  }
  refuseDirtyTracking(hwpt);
}

/** Refuses what needs a domain that tracks dirty pages: the interface of drivers has no such operation. */
function refuseDirtyTracking(hwpt: PagingHwpt): never {
  refuse(EOPNOTSUPP, () =>
    hwpt.dirtyTracking
      ? `${hwpt.domain.label} of ${hwpt.label} has no operation to track dirty pages`
      : `${hwpt.label} was allocated without DIRTY_TRACKING`,
  );
}

/** `entry_num`, the entries done, is written back on every return. */
export function hwptInvalidate(call: CallOf<"HWPT_INVALIDATE">): undefined {
  const { context, command } = call;
  const { entry_num: count, entry_len: length, hwpt_id: id } = command;
  command.entry_num = 0;
  try {
    refuseReserved(command.reserved);
    if (count !== 0 && (command.data_uptr === 0n || length === 0 || length > PAGE_SIZE || count > MAX_INVALIDATIONS)) {
      refuse(EINVAL, () => `${count} entries of ${length} bytes at 0x${command.data_uptr.toString(16)}`);
    }
    const object = context.objects.any(id);
    refuse(
      EINVAL,
      () => `${object.label} is neither a nested HWPT nor a vIOMMU: it has no caches of a client's tables`,
    );
  } finally {
    call.respond();
  }
}
