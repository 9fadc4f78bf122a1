// Runs in a browser.
/** HWPT_INVALIDATE (reference 3.10): a guest changed its tables, and caches must forget what they were. */
import type { Invalidation } from "../iommu/index.ts";
import { type AddressSpace, PAGE_SIZE, type Process } from "../memory/index.ts";
import { E2BIG, EINVAL, EOPNOTSUPP, refuse, type Task } from "../runtime/index.ts";
import type { CallOf } from "./call.ts";
import { refuseReserved } from "./ioas-commands.ts";
import { NestedHwpt } from "./nested-hwpt.ts";
import type { IommufdObject } from "./objects.ts";
import { IommufdViommu } from "./viommu.ts";

/** Entries of one call. */
const MAX_ENTRIES = 2 ** 19;

/** `entry_num`, the entries done, is written back on every return. */
export function* hwptInvalidate(call: CallOf<"HWPT_INVALIDATE">): Task<void> {
  const { context, command, process } = call;
  const { entry_num: count, entry_len: length, data_uptr: address, data_type: type } = command;
  command.entry_num = 0;
  try {
    refuseReserved(command.reserved);
    if (count !== 0 && (address === 0n || length === 0 || length > PAGE_SIZE || count > MAX_ENTRIES)) {
      refuse(EINVAL, () => `${count} entries of ${length} bytes at 0x${address.toString(16)}`);
    }
    const object = context.objects.useAny(command.hwpt_id);
    const invalidation = new ClientEntries(process, { type, address, entryLength: length, count });
    try {
      yield* invalidate(object, invalidation);
    } finally {
      command.entry_num = invalidation.done;
      context.objects.release(object);
    }
  } finally {
    call.respond();
  }
}

function invalidate(object: IommufdObject, invalidation: Invalidation): Task<void> {
  if (object instanceof NestedHwpt) {
    return object.domain.invalidate?.(invalidation) ?? refuseInvalidation(object.domain.label);
  }
  if (object instanceof IommufdViommu) {
    return object.driver.invalidate?.(invalidation) ?? refuseInvalidation(object.driver.label);
  }
  return refuse(
    EINVAL,
    () => `${object.label} is neither a nested HWPT nor a vIOMMU: it has no caches of a client's tables`,
  );
}

function refuseInvalidation(who: string): never {
  refuse(EOPNOTSUPP, () => `the driver of ${who} invalidates nothing on a client's behalf`);
}

class ClientEntries implements Invalidation {
  readonly type: number;
  readonly entryLength: number;
  readonly count: number;
  done = 0;
  private readonly memory: AddressSpace;
  private readonly address: bigint;

  constructor(process: Process, array: { type: number; address: bigint; entryLength: number; count: number }) {
    this.memory = process.memory;
    this.type = array.type;
    this.address = array.address;
    this.entryLength = array.entryLength;
    this.count = array.count;
  }

  read(index: number, into: Uint8Array): void {
    const entry = new Uint8Array(this.entryLength);
    this.memory.read(BigInt.asUintN(64, this.address + BigInt(index * this.entryLength)), entry);
    const unknown = entry.subarray(into.length).findIndex((byte) => byte !== 0);
    if (unknown >= 0) refuse(E2BIG, () => `entry ${index}: byte ${into.length + unknown} is not zero, and not known`);
    into.fill(0);
    into.set(entry.subarray(0, into.length));
  }
}
