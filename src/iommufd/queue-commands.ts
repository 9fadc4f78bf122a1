// Runs in a browser.
/** Fault queues, vIOMMUs and what belongs to these (reference 3.11, 3.12), as far as no driver and no file serves them. */
import { EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW, refuse } from "../runtime/index.ts";
import type { CallOf } from "./call.ts";
import { IommufdDevice } from "./device.ts";
import { refuseReserved } from "./ioas-commands.ts";
import type { ObjectTable } from "./objects.ts";
import { MAX_IOVA } from "./reserved.ts";

/** Events that a queue may hold. */
const MAX_DEPTH = 2 ** 19;

export function faultQueueAlloc({ command }: CallOf<"FAULT_QUEUE_ALLOC">): undefined {
  refuseFlags(command.flags);
  refuse(EOPNOTSUPP, () => "no fault can be delivered: fault queues are not supported");
}

export function viommuAlloc({ context, command }: CallOf<"VIOMMU_ALLOC">): undefined {
  refuseFlags(command.flags);
  refuseTypeZero(command.type);
  const { device } = context.objects.find(command.dev_id, IommufdDevice);
  const { driver } = device.iommu!.instance;
  refuse(EOPNOTSUPP, () => `driver ${driver.name} has no vIOMMUs, so none of type ${command.type}`);
}

export function vdeviceAlloc({ context, command }: CallOf<"VDEVICE_ALLOC">): undefined {
  refuseWithoutViommu(context.objects, command.viommu_id);
}

export function veventqAlloc({ context, command }: CallOf<"VEVENTQ_ALLOC">): undefined {
  refuseFlags(command.flags);
  refuseReserved(command.reserved);
  refuseTypeZero(command.type);
  const { veventq_depth: depth } = command;
  if (depth === 0 || depth > MAX_DEPTH) refuse(EINVAL, () => `depth ${depth} is not in 1 to ${MAX_DEPTH}`);
  refuseWithoutViommu(context.objects, command.viommu_id);
}

export function hwQueueAlloc({ context, command }: CallOf<"HW_QUEUE_ALLOC">): undefined {
  refuseFlags(command.flags);
  refuseTypeZero(command.type);
  const { length, nesting_parent_iova: iova } = command;
  if (length === 0n) refuse(EINVAL, () => "length is 0");
  if (iova + length - 1n > MAX_IOVA) refuse(EOVERFLOW, () => `iova + length exceeds 64 bits`);
  refuseWithoutViommu(context.objects, command.viommu_id);
}

/** No id is a vIOMMU's: none can be made. */
function refuseWithoutViommu(objects: ObjectTable, id: number): never {
  const object = objects.any(id);
  refuse(ENOENT, () => `${object.label} is no vIOMMU`);
}

function refuseFlags(flags: number): void {
  if (flags !== 0) refuse(EOPNOTSUPP, () => `flags 0x${flags.toString(16)}: there are none`);
}

function refuseTypeZero(type: number): void {
  if (type === 0) refuse(EOPNOTSUPP, () => "type 0 (DEFAULT) is for no driver");
}
