// Runs in a browser.
/** VIOMMU_ALLOC, VDEVICE_ALLOC, HW_QUEUE_ALLOC: what a guest gets of an IOMMU (reference 3.12). */
import { PAGE_SIZE } from "../memory/index.ts";
import {
  EEXIST,
  EFAULT,
  EINVAL,
  ENOENT,
  ENOMEM,
  EOPNOTSUPP,
  EOVERFLOW,
  ERANGE,
  refuse,
  type Task,
} from "../runtime/index.ts";
import { Access } from "./access.ts";
import type { CallOf } from "./call.ts";
import { ClientData } from "./client-data.ts";
import { IommufdDevice } from "./device.ts";
import { HwQueue } from "./hw-queue.ts";
import { PagingHwpt } from "./hwpt.ts";
import { refuseWithoutNesting } from "./nested-hwpt.ts";
import { refuseFlags, refuseTypeZero } from "./queue-commands.ts";
import { MAX_IOVA } from "./reserved.ts";
import { Vdevice } from "./vdevice.ts";
import { IommufdViommu } from "./viommu.ts";

const PAGE = BigInt(PAGE_SIZE);
/** Pages of a hardware queue: a list of so many does not fit in memory. */
const MAX_QUEUE_PAGES = 2n ** 28n;

export function* viommuAlloc(call: CallOf<"VIOMMU_ALLOC">): Task<void> {
  const { context, command, process } = call;
  const { type, data_len: length } = command;
  const { objects } = context;
  refuseFlags(command.flags);
  refuseTypeZero(type);
  const bound = objects.use(command.dev_id, IommufdDevice);
  try {
    const { device } = bound;
    const { driver } = device.iommu!.instance;
    if (!(driver.supportsViommu?.(device, type) ?? false) || driver.allocateViommu === undefined) {
      refuse(EOPNOTSUPP, () => `driver ${driver.name} has no vIOMMUs of type ${type} for ${device.label}`);
    }
    const hwpt = objects.use(command.hwpt_id, PagingHwpt);
    try {
      refuseWithoutNesting(hwpt);
      const data = length === 0 ? undefined : new ClientData(process, type, command.data_uptr, length);
      const id = objects.reserve();
      try {
        const viommu = new IommufdViommu(id, context, type, hwpt);
        yield* viommu.build((services) => driver.allocateViommu!(device, hwpt.domain, type, data, services));
        command.out_viommu_id = id;
        yield* respondOrDestroy(call, viommu);
        objects.publish(viommu);
      } catch (error) {
        objects.abort(id);
        throw error;
      }
    } finally {
      objects.release(hwpt);
    }
  } finally {
    objects.release(bound);
  }
}

export function* vdeviceAlloc(call: CallOf<"VDEVICE_ALLOC">): Task<void> {
  const { context, command } = call;
  const { objects } = context;
  const viommu = objects.use(command.viommu_id, IommufdViommu);
  try {
    const device = objects.use(command.dev_id, IommufdDevice);
    yield* device.igroup.lock.take();
    try {
      checkVdevice(viommu, device, command.virt_id);
      const id = objects.reserve();
      try {
        const vdevice = new Vdevice(id, viommu, device, command.virt_id);
        yield* vdevice.build();
        command.out_vdevice_id = id;
        yield* respondOrDestroy(call, vdevice);
        objects.publish(vdevice);
      } catch (error) {
        objects.abort(id);
        throw error;
      }
    } finally {
      device.igroup.lock.release();
      objects.release(device);
    }
  } finally {
    objects.release(viommu);
  }
}

export function* hwQueueAlloc(call: CallOf<"HW_QUEUE_ALLOC">): Task<void> {
  const { context, command } = call;
  const { length, nesting_parent_iova: iova, type } = command;
  const { objects } = context;
  refuseFlags(command.flags);
  refuseTypeZero(type);
  if (length === 0n) refuse(EINVAL, () => "length is 0");
  if (iova + length - 1n > MAX_IOVA) refuse(EOVERFLOW, () => `iova + length exceeds 64 bits`);
  const viommu = objects.use(command.viommu_id, IommufdViommu);
  try {
    const { driver } = viommu;
    if (!(driver.hasQueues?.(type) ?? false) || driver.allocateQueue === undefined) {
      refuse(EOPNOTSUPP, () => `${driver.label} has no hardware queues of type ${type}`);
    }
    const id = objects.reserve();
    try {
      const hwQueue = yield* buildHwQueue(call, viommu, id);
      command.out_hw_queue_id = id;
      yield* respondOrDestroy(call, hwQueue);
      objects.publish(hwQueue);
    } catch (error) {
      objects.abort(id);
      throw error;
    }
  } finally {
    objects.release(viommu);
  }
}

function checkVdevice(viommu: IommufdViommu, device: IommufdDevice, virtualId: bigint): void {
  if (device.device.iommu!.instance !== viommu.driver.instance) {
    refuse(EINVAL, () => `${device.label} is behind another IOMMU than ${viommu.label}, ${viommu.driver.label}`);
  }
  if (device.isLeaving) refuse(ENOENT, () => `${device.label} is being unbound`);
  const { vdevice } = device;
  if (vdevice !== undefined) refuse(EEXIST, () => `${device.label} has ${vdevice.label} already`);
  const other = viommu.vdevices.get(virtualId);
  if (other !== undefined) {
    refuse(EEXIST, () => `0x${virtualId.toString(16)} is ${other.device.label} on ${viommu.label} already`);
  }
}

/** Pins the queue's memory by an access of its own, in the areas of the parent's IOAS, and lets the driver take it. */
function* buildHwQueue(call: CallOf<"HW_QUEUE_ALLOC">, viommu: IommufdViommu, id: number): Task<HwQueue> {
  const { context, command, process } = call;
  const { length, nesting_parent_iova: iova, type, index } = command;
  const offset = iova % PAGE;
  if (offset + length + PAGE - 1n > MAX_IOVA) refuse(ERANGE, () => `${length} bytes cannot be rounded up to pages`);
  const pages = (offset + length + PAGE - 1n) / PAGE;
  if (pages >= MAX_QUEUE_PAGES) refuse(ENOMEM, () => `${pages} pages: no list can hold so many`);
  const user = { label: `hardware queue ${id}` };
  const access = context.objects.create((id) => new Access(id, context, user, { pins: true, holdsContext: false }));
  try {
    yield* access.attach(viommu.hwpt.ioas.id);
    const frames = access.pin(process, iova - offset, pages * PAGE, false, true);
    try {
      refuseScattered(frames);
      const physical = frames[0] * PAGE_SIZE + Number(offset);
      const queue = yield* viommu.driver.allocateQueue!({ type, index, iova, length, physical });
      return new HwQueue(id, { viommu, type, queue, access, iova: iova - offset, length: pages * PAGE });
    } catch (error) {
      access.unpin(iova - offset, pages * PAGE, true);
      throw error;
    }
  } catch (error) {
    yield* access.destroyByUser();
    throw error;
  }
}

function refuseScattered(frames: readonly number[]): void {
  for (let i = 1; i < frames.length; i++) {
    if (frames[i] !== frames[0] + i) refuse(EFAULT, () => `page ${i} of the queue does not follow in physical memory`);
  }
}

/** Answers; what was built goes again if the answer cannot be written. */
function* respondOrDestroy(call: { respond(): void }, object: { destroy(): Task<void> }): Task<void> {
  try {
    call.respond();
  } catch (error) {
    yield* object.destroy();
    throw error;
  }
}
