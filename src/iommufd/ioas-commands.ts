// Runs in a browser.
/** IOAS_ALLOC, IOVA_RANGES, ALLOW_IOVAS, VFIO_IOAS: an IOAS and where it may be mapped (reference 3.4). */
import type { AddressSpace } from "../memory/index.ts";
import { EINVAL, EMSGSIZE, ENODEV, EOPNOTSUPP, IntervalSet, refuse } from "../runtime/index.ts";
import { IovaRange as IovaRangeStruct, VFIO_IOAS_CLEAR, VFIO_IOAS_GET, VFIO_IOAS_SET } from "../uapi/index.ts";
import type { CallOf } from "./call.ts";
import { Ioas } from "./ioas.ts";
import { hexRange, type IovaRange } from "./reserved.ts";

export function ioasAlloc(call: CallOf<"IOAS_ALLOC">): undefined {
  const { context, command } = call;
  if (command.flags !== 0) refuse(EOPNOTSUPP, () => `flags 0x${command.flags.toString(16)}: IOAS_ALLOC has none`);
  context.objects.create((id) => {
    command.out_ioas_id = id;
    call.respond();
    return new Ioas(context, id);
  });
}

/** Writes as many ranges as the client has room for, one by one, and how many there are. EMSGSIZE if that is more. */
export function ioasIovaRanges(call: CallOf<"IOAS_IOVA_RANGES">): undefined {
  const { context, command, process } = call;
  refuseReserved(command.reserved);
  const { space } = context.objects.find(command.ioas_id, Ioas);
  const room = command.num_iovas;
  const ranges = space.usableRanges();
  for (const [index, { start, last }] of ranges.slice(0, room).entries()) {
    const entry = new IovaRangeStruct();
    entry.start = start;
    entry.last = last;
    process.memory.write(entryAddress(command.allowed_iovas, index), entry.$bytes);
  }
  command.num_iovas = ranges.length;
  command.out_iova_alignment = BigInt(space.alignment);
  call.respond();
  if (ranges.length > room) refuse(EMSGSIZE, () => `there are ${ranges.length} ranges, room was for ${room}`);
}

export function ioasAllowIovas({ context, command, process }: CallOf<"IOAS_ALLOW_IOVAS">): undefined {
  refuseReserved(command.reserved);
  const { space } = context.objects.find(command.ioas_id, Ioas);
  const seen = new IntervalSet();
  const ranges: IovaRange[] = [];
  for (let index = 0; index < command.num_iovas; index++) {
    const range = readRange(process.memory, command.allowed_iovas, index);
    const { start, last } = range;
    if (start >= last) refuse(EINVAL, () => `entry ${index}: ${hexRange(start, last)} does not hold two bytes`);
    if (seen.intersects(start, last))
      refuse(EINVAL, () => `entry ${index}: ${hexRange(start, last)} overlaps an earlier one`);
    seen.add(start, last);
    ranges.push(range);
  }
  space.allow(ranges);
}

/** The IOAS that VFIO container ioctls on this file work on. */
export function vfioIoas(call: CallOf<"VFIO_IOAS">): undefined {
  const { context, command } = call;
  refuseReserved(command.reserved);
  switch (command.op) {
    case VFIO_IOAS_GET: {
      const ioas = context.compatIoas ?? refuse(ENODEV, () => "this file has no compatibility IOAS");
      command.ioas_id = ioas.id;
      call.respond();
      return;
    }
    case VFIO_IOAS_SET:
      context.compatIoas = context.objects.find(command.ioas_id, Ioas);
      return;
    case VFIO_IOAS_CLEAR:
      context.compatIoas = undefined;
      return;
    default:
      refuse(EOPNOTSUPP, () => `op ${command.op} is none of GET (0), SET (1), CLEAR (2)`);
  }
}

export function refuseReserved(reserved: number): void {
  if (reserved !== 0) refuse(EOPNOTSUPP, () => `reserved field is 0x${reserved.toString(16)}, not 0`);
}

function readRange(memory: AddressSpace, array: bigint, index: number): IovaRange {
  const entry = new IovaRangeStruct();
  memory.read(entryAddress(array, index), entry.$bytes);
  return { start: entry.start, last: entry.last };
}

function entryAddress(array: bigint, index: number): bigint {
  return BigInt.asUintN(64, array + BigInt(index * IovaRangeStruct.size));
}
