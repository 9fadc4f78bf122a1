// Runs in a browser.
/** OPTION (reference 3.4): accounting of a context, huge pages of an IOAS. Only `val64` is written back. */
import { CAP_SYS_RESOURCE } from "../memory/index.ts";
import { EBUSY, EINVAL, EOPNOTSUPP, EPERM, refuse, type Task } from "../runtime/index.ts";
import { OPTION_HUGE_PAGES, OPTION_OP_GET, OPTION_OP_SET, OPTION_RLIMIT_MODE, Option } from "../uapi/index.ts";
import type { CallOf } from "./call.ts";
import { Ioas } from "./ioas.ts";
import { refuseReserved } from "./ioas-commands.ts";

export function option(call: CallOf<"OPTION">): Task<void> | undefined {
  const { command } = call;
  refuseReserved(command.reserved);
  switch (command.option_id) {
    case OPTION_RLIMIT_MODE:
      rlimitMode(call);
      return undefined;
    case OPTION_HUGE_PAGES:
      return hugePages(call);
    default:
      return refuse(EOPNOTSUPP, () => `option ${command.option_id} is neither RLIMIT_MODE (0) nor HUGE_PAGES (1)`);
  }
}

function rlimitMode(call: CallOf<"OPTION">): void {
  const { command, context, process } = call;
  if (command.object_id !== 0) refuse(EOPNOTSUPP, () => "RLIMIT_MODE belongs to the whole file: object_id must be 0");
  switch (command.op) {
    case OPTION_OP_GET:
      respondValue(call, context.perProcessAccounting);
      return;
    case OPTION_OP_SET:
      if (!process.capable(CAP_SYS_RESOURCE)) refuse(EPERM, () => `${process.label} lacks CAP_SYS_RESOURCE`);
      if (!context.objects.isEmpty) refuse(EBUSY, () => "RLIMIT_MODE can be set only before there are objects");
      context.perProcessAccounting = toBoolean(command.val64);
      return;
    default:
      refuseOp(command.op);
  }
}

function* hugePages(call: CallOf<"OPTION">): Task<void> {
  const { command, context } = call;
  const ioas = context.objects.use(command.object_id, Ioas);
  try {
    switch (command.op) {
      case OPTION_OP_GET:
        respondValue(call, ioas.space.usesHugePages);
        return;
      case OPTION_OP_SET:
        yield* ioas.space.setHugePages(toBoolean(command.val64));
        return;
      default:
        refuseOp(command.op);
    }
  } finally {
    context.objects.release(ioas);
  }
}

function respondValue({ command, process, argument }: CallOf<"OPTION">, value: boolean): void {
  command.val64 = value ? 1n : 0n;
  const { val64 } = Option.offsets;
  process.memory.write(argument + val64, command.$bytes.subarray(val64, Option.endOf("val64")));
}

function toBoolean(value: bigint): boolean {
  if (value > 1n) refuse(EINVAL, () => `value ${value} is neither 0 nor 1`);
  return value === 1n;
}

function refuseOp(op: number): never {
  refuse(EOPNOTSUPP, () => `op ${op} is neither SET (0) nor GET (1)`);
}
