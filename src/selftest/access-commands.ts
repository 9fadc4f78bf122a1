// Runs in a browser.
/** What a test does as the driver of a mediated device would: pin, read and write what an IOAS maps (reference 4.7). */
import { ownFile, PAGE_SIZE, type PhysicalMemory, type Process } from "../memory/index.ts";
import { EBADE, EBADFD, EMFILE, ENOMEM, EOPNOTSUPP, Refusal, refuse } from "../runtime/index.ts";
import {
  ACCESS_NEEDS_PIN,
  ACCESS_SLOW_PATH,
  ACCESS_SYZ,
  ACCESS_WRITE,
  TestAccessPages,
  TestAccessReplaceIoas,
  TestAccessRw,
  TestCreateAccess,
  TestDestroyAccessPages,
} from "../uapi/index.ts";
import { AccessFile } from "./access-file.ts";
import { type Operation, operation } from "./call.ts";
import { ClientFrames } from "./client-frames.ts";
import { iovaOf } from "./numbered-areas.ts";

/** Bytes of one ACCESS_PAGES or ACCESS_RW. */
const LONGEST = 16n * 2n ** 20n;
const PAGE = BigInt(PAGE_SIZE);
/** Where short ACCESS_RW carry their bytes: a new array costs more than all else that they do, and none of them blocks. */
const carried = new Uint8Array(PAGE_SIZE);

export const createAccess: Operation = operation(TestCreateAccess, function* ({ call, test }) {
  const { context, process, argument } = call;
  refuseUnknown(test.flags, ACCESS_NEEDS_PIN);
  const file = new AccessFile(context, (test.flags & ACCESS_NEEDS_PIN) !== 0);
  try {
    yield* file.access.attach(test.id);
    call.respond();
    process.installFile(file, argument + TestCreateAccess.offsets.out_access_fd);
  } catch (error) {
    yield* file.release();
    if (!(error instanceof Refusal && error.errno === EMFILE)) throw error;
    refuse(ENOMEM, () => error.reason);
  }
});

/** Pins a range, and compares its pages with the client's at `uptr`, if that is given. */
export const accessPages: Operation = operation(TestAccessPages, ({ call, test }) => {
  const { context, process } = call;
  const { flags, length, uptr } = test;
  refuseLong(length);
  refuseUnknown(flags, ACCESS_WRITE | ACCESS_SYZ);
  const file = accessFileOf(process, test.id);
  const { access } = file;
  if (!access.pins) refuse(EOPNOTSUPP, () => `${access.label} was created without NEEDS_PIN`);
  const iova = iovaOf(access.attached, flags, test.iova);
  const frames = access.pin(process, iova, length, (flags & ACCESS_WRITE) !== 0);
  try {
    if (uptr !== 0n) comparePages(process, context.memory, frames, { iova, length, uptr });
    test.out_access_pages_id = file.add(iova, length);
  } catch (error) {
    access.unpin(iova, length);
    throw error;
  }
  try {
    call.respond();
  } catch (error) {
    file.remove(test.out_access_pages_id);
    throw error;
  }
  return undefined;
});

export const destroyAccessPages: Operation = operation(TestDestroyAccessPages, ({ call, test }) => {
  accessFileOf(call.process, test.id).remove(test.access_pages_id);
  return undefined;
});

export const accessRw: Operation = operation(TestAccessRw, ({ call, test }) => {
  const { process } = call;
  const { flags, length, uptr } = test;
  refuseLong(length);
  refuseUnknown(flags, ACCESS_WRITE | ACCESS_SLOW_PATH | ACCESS_SYZ);
  const { access } = accessFileOf(process, test.id);
  const bytes = length <= carried.length ? carried.subarray(0, Number(length)) : new Uint8Array(Number(length));
  const slow = (flags & ACCESS_SLOW_PATH) !== 0;
  if ((flags & ACCESS_WRITE) !== 0) {
    process.memory.read(uptr, bytes);
    access.write(process, iovaOf(access.attached, flags, test.iova), bytes, { slow });
  } else {
    access.read(process, iovaOf(access.attached, flags, test.iova), bytes, { slow });
    process.memory.write(uptr, bytes);
  }
  return undefined;
});

export const accessReplaceIoas: Operation = operation(TestAccessReplaceIoas, function* ({ call, test }) {
  yield* accessFileOf(call.process, test.id).access.replace(test.ioas_id);
});

/** Refusal EBADFD for a descriptor that is none of an access. */
function accessFileOf(process: Process, fd: number): AccessFile {
  try {
    const file = ownFile(process, fd);
    if (file instanceof AccessFile) return file;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
  }
  return refuse(EBADFD, () => `descriptor ${fd} of ${process.label} is no access`);
}

/**
 * Page by page, for as many pages as the range of IOVAs touches. Refusals: EFAULT where the client has no page, EBADE where
 * it has another one than was pinned, or one more.
 */
function comparePages(
  process: Process,
  memory: PhysicalMemory,
  frames: readonly number[],
  { iova, length, uptr }: { iova: bigint; length: bigint; uptr: bigint },
): void {
  const offset = iova % PAGE;
  const pages = (offset + length + PAGE - 1n) / PAGE;
  const start = uptr - offset;
  const client = new ClientFrames(process, memory, start + pages * PAGE);
  for (let index = 0; index < Number(pages); index++) {
    const address = start + BigInt(index) * PAGE;
    const pfn = Math.floor(client.physicalOf(address) / PAGE_SIZE);
    if (pfn !== frames[index]) {
      refuse(EBADE, () => `page ${index} of the range is not the client's page at 0x${address.toString(16)}`);
    }
  }
}

function refuseLong(length: bigint): void {
  if (length > LONGEST) refuse(ENOMEM, () => `${length} bytes are more than ${LONGEST}`);
}

function refuseUnknown(flags: number, known: number): void {
  const unknown = flags & ~known;
  if (unknown !== 0) refuse(EOPNOTSUPP, () => `unknown flags 0x${(unknown >>> 0).toString(16)}`);
}
