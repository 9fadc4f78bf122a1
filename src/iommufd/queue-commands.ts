// Runs in a browser.
/** FAULT_QUEUE_ALLOC and VEVENTQ_ALLOC: queues that a client reads as files (reference 3.11, 3.12). */
import { EEXIST, EINVAL, EOPNOTSUPP, refuse, type Task } from "../runtime/index.ts";
import { FaultQueueAlloc, VeventqAlloc } from "../uapi/index.ts";
import type { CallOf } from "./call.ts";
import { EventQueue } from "./event-queue.ts";
import { FaultQueue } from "./fault-queue.ts";
import { refuseReserved } from "./ioas-commands.ts";
import type { RecordQueue } from "./record-file.ts";
import { IommufdViommu } from "./viommu.ts";

/** Events that a queue may hold. */
const MAX_DEPTH = 2 ** 19;

export function* faultQueueAlloc(call: CallOf<"FAULT_QUEUE_ALLOC">): Task<void> {
  const { context, command } = call;
  refuseFlags(command.flags);
  const id = context.objects.reserve();
  command.out_fault_id = id;
  yield* giveFile(call, new FaultQueue(context, id), FaultQueueAlloc.offsets.out_fault_fd);
}

export function* veventqAlloc(call: CallOf<"VEVENTQ_ALLOC">): Task<void> {
  const { context, command } = call;
  const { type, veventq_depth: depth } = command;
  refuseFlags(command.flags);
  refuseReserved(command.reserved);
  refuseTypeZero(type);
  if (depth === 0 || depth > MAX_DEPTH) refuse(EINVAL, () => `depth ${depth} is not in 1 to ${MAX_DEPTH}`);
  const viommu = context.objects.use(command.viommu_id, IommufdViommu);
  try {
    if (viommu.eventQueues.has(type)) {
      refuse(EEXIST, () => `${viommu.label} has a queue for events of type ${type} already`);
    }
    const id = context.objects.reserve();
    command.out_veventq_id = id;
    yield* giveFile(call, new EventQueue(viommu, id, type, depth), VeventqAlloc.offsets.out_veventq_fd);
  } finally {
    context.objects.release(viommu);
  }
}

/** Answers, gives the client a descriptor of the queue, whose number goes to `offset`, and publishes it; or takes it back. */
function* giveFile(
  call: CallOf<"FAULT_QUEUE_ALLOC"> | CallOf<"VEVENTQ_ALLOC">,
  queue: RecordQueue,
  offset: number,
): Task<void> {
  const { context, process } = call;
  queue.open();
  try {
    call.respond();
    process.installFile(queue, call.argument + offset);
  } catch (error) {
    yield* queue.abandon();
    context.objects.abort(queue.id);
    throw error;
  }
  context.objects.publish(queue);
}

export function refuseFlags(flags: number): void {
  if (flags !== 0) refuse(EOPNOTSUPP, () => `flags 0x${flags.toString(16)}: there are none`);
}

export function refuseTypeZero(type: number): void {
  if (type === 0) refuse(EOPNOTSUPP, () => "type 0 (DEFAULT) is for no driver");
}
