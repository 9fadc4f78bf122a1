// Runs in a browser.
/** HWPT_ALLOC (reference 3.7). */
import { EINVAL, refuse, type Task } from "../runtime/index.ts";
import { HWPT_DATA_NONE, HWPT_FAULT_ID_VALID } from "../uapi/index.ts";
import type { CallOf } from "./call.ts";
import { ClientData } from "./client-data.ts";
import { IommufdDevice } from "./device.ts";
import { FaultQueue } from "./fault-queue.ts";
import { abandonPagingHwpt, buildPagingHwpt, type Hwpt, PagingHwpt } from "./hwpt.ts";
import { Ioas } from "./ioas.ts";
import { refuseReserved } from "./ioas-commands.ts";
import { abandonNestedHwpt, buildNestedHwpt, type NestingParent } from "./nested-hwpt.ts";
import type { IommufdObject } from "./objects.ts";
import { IommufdViommu } from "./viommu.ts";

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
    const data = length === 0 ? undefined : new ClientData(process, type, command.data_uptr, length);
    if (parent instanceof Ioas) {
      yield* allocateOnIoas(call, parent, device, data);
    } else if (parent instanceof PagingHwpt || parent instanceof IommufdViommu) {
      yield* allocateNested(call, parent, device, data);
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
  yield* ioas.mutex.take();
  try {
    const hwpt = yield* buildPagingHwpt(context, { ioas, device, flags: command.flags, data, automatic: false });
    try {
      yield* hwpt.link(process);
      finish(call, hwpt);
    } catch (error) {
      yield* abandonPagingHwpt(context, hwpt);
      throw error;
    }
    context.objects.publish(hwpt);
  } finally {
    ioas.mutex.release();
  }
}

function* allocateNested(
  call: CallOf<"HWPT_ALLOC">,
  parent: NestingParent,
  device: IommufdDevice,
  data: ClientData | undefined,
): Task<void> {
  const { context, command } = call;
  const hwpt = yield* buildNestedHwpt(context, { parent, device, flags: command.flags, data });
  try {
    finish(call, hwpt);
  } catch (error) {
    yield* abandonNestedHwpt(context, hwpt);
    throw error;
  }
  context.objects.publish(hwpt);
}

/** The last steps that can fail. ENOENT: no such fault queue. EFAULT. */
function finish(call: CallOf<"HWPT_ALLOC">, hwpt: Hwpt): void {
  const { context, command } = call;
  if ((command.flags & HWPT_FAULT_ID_VALID) !== 0) {
    hwpt.useFaultQueue(context.objects.find(command.fault_id, FaultQueue));
  }
  command.out_hwpt_id = hwpt.id;
  call.respond();
}
