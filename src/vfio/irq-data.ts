// Runs in a browser.
import type { EventFd, Process } from "../memory/index.ts";
import { EBADF, EINVAL, ENOTTY, refuse } from "../runtime/index.ts";
import {
  IRQ_SET_ACTION_MASK,
  IRQ_SET_ACTION_TRIGGER,
  IRQ_SET_ACTION_UNMASK,
  IRQ_SET_DATA_BOOL,
  IRQ_SET_DATA_EVENTFD,
  IRQ_SET_DATA_NONE,
  IrqSet,
} from "../uapi/index.ts";

/** What a SET_IRQS carries for each of its vectors: nothing, a truth, or a file descriptor (−1: none). */
export type IrqData =
  | { readonly type: "none" }
  | { readonly type: "bool"; readonly values: readonly boolean[] }
  | { readonly type: "eventfd"; readonly fds: readonly number[] };

/** A SET_IRQS request that passed the checks of its form (reference 5.6). */
export interface IrqRequest {
  readonly index: number;
  readonly action: "mask" | "unmask" | "trigger";
  readonly start: number;
  readonly count: number;
  readonly data: IrqData;
}

const ALL_FLAGS = 63;
const actions: ReadonlyMap<number, IrqRequest["action"]> = new Map([
  [IRQ_SET_ACTION_MASK, "mask"],
  [IRQ_SET_ACTION_UNMASK, "unmask"],
  [IRQ_SET_ACTION_TRIGGER, "trigger"],
]);
const sizes: ReadonlyMap<number, number> = new Map([
  [IRQ_SET_DATA_NONE, 0],
  [IRQ_SET_DATA_BOOL, 1],
  [IRQ_SET_DATA_EVENTFD, 4],
]);

/**
 * Reads the struct at `argument` and what follows it. `available` says how many vectors an index has. Refusals in this
 * order: EFAULT, EINVAL (form, range, data), EFAULT (data), ENOTTY (not exactly one action).
 */
export function readIrqRequest(
  process: Process,
  argument: number,
  indexes: number,
  available: (index: number) => number,
): IrqRequest {
  const header = new IrqSet();
  process.memory.read(argument, header.$bytes);
  const { argsz, flags, index, start, count } = header;
  if (argsz < IrqSet.size) refuse(EINVAL, () => `argsz ${argsz} is below ${IrqSet.size}`);
  if (index >= indexes) refuse(EINVAL, () => `there is no interrupt index ${index}; there are ${indexes}`);
  if (count >= 0xffffffff - start) refuse(EINVAL, () => `start ${start} plus count ${count} wraps around`);
  if (flags & ~ALL_FLAGS) refuse(EINVAL, () => `flags 0x${flags.toString(16)} has unknown bits`);
  const vectors = available(index);
  if (start >= vectors || start + count > vectors) {
    refuse(EINVAL, () => `vectors ${start} to ${start + count} of index ${index}, which has ${vectors}`);
  }
  const type = flags & 7;
  const size = sizes.get(type);
  if (size === undefined) refuse(EINVAL, () => `flags 0x${flags.toString(16)} names not exactly one data type`);
  if (argsz - IrqSet.size < count * size) {
    refuse(EINVAL, () => `argsz ${argsz} leaves no room for ${count} values of ${size} bytes`);
  }
  const bytes = new Uint8Array(count * size);
  if (bytes.length > 0) process.memory.read(argument + IrqSet.size, bytes);
  const action = actions.get(flags & 56);
  if (action === undefined) refuse(ENOTTY, () => `flags 0x${flags.toString(16)} names not exactly one action`);
  return { index, action, start, count, data: irqData(type, bytes) };
}

function irqData(type: number, bytes: Uint8Array): IrqData {
  if (type === IRQ_SET_DATA_NONE) return { type: "none" };
  if (type === IRQ_SET_DATA_BOOL) return { type: "bool", values: [...bytes].map((byte) => byte !== 0) };
  const view = new DataView(bytes.buffer);
  return { type: "eventfd", fds: Array.from({ length: bytes.length / 4 }, (_, at) => view.getInt32(at * 4, true)) };
}

/** The vectors of a NONE or BOOL request that are meant. */
export function chosenVectors({ start, count, data }: IrqRequest): number[] {
  const all = Array.from({ length: count }, (_, at) => start + at);
  return data.type === "bool" ? all.filter((_, at) => data.values[at]) : all;
}

/** The eventfd behind a descriptor. EBADF if it is not open, EINVAL if it is something else. */
export function eventFd(process: Process, fd: number): EventFd {
  if (fd < 0) refuse(EBADF, () => `${fd} is no file descriptor`);
  const file = process.file(fd);
  return file.kind === "eventfd" ? file.event : refuse(EINVAL, () => `file descriptor ${fd} is not an eventfd`);
}
