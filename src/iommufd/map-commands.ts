// Runs in a browser.
/** MAP, MAP_FILE, COPY, UNMAP: what an IOAS shows (reference 3.4). */
import { PROT_READ, PROT_WRITE } from "../iommu/index.ts";
import { type ClientFile, PAGE_SIZE } from "../memory/index.ts";
import {
  DoneTask,
  done,
  EINVAL,
  ENODEV,
  ENOENT,
  EOPNOTSUPP,
  EOVERFLOW,
  numberOf,
  refuse,
  type Task,
} from "../runtime/index.ts";
import { type Command, MAP_FIXED_IOVA, MAP_READABLE, MAP_WRITEABLE } from "../uapi/index.ts";
import type { Slice } from "./area.ts";
import type { CallOf } from "./call.ts";
import type { IommufdContext } from "./context.ts";
import { Ioas } from "./ioas.ts";
import { refuseReserved } from "./ioas-commands.ts";
import type { MapRequest } from "./iova-space.ts";
import { DmaBufPages, FilePages, type PageSet, type PageSource, UserPages } from "./page-set.ts";
import { hexRange, MAX_IOVA } from "./reserved.ts";

const MAP_FLAGS = MAP_FIXED_IOVA | MAP_WRITEABLE | MAP_READABLE;
const PAGE = BigInt(PAGE_SIZE);
const MAX_DMA_BUF_PAGES = 2n ** 32n - 1n;

export function ioasMap(call: CallOf<"IOAS_MAP">): Task<void> {
  const { context, command } = call;
  checkMap(command);
  const ioas = context.objects.find(command.ioas_id, Ioas);
  const mapping = ioas.space.map(userRequest(call));
  if (!(mapping instanceof DoneTask)) return respondMapped(call, context.objects.whileUsed(ioas, mapping));
  command.iova = mapping.value;
  call.respond();
  return done;
}

function* respondMapped(call: CallOf<"IOAS_MAP">, mapping: Task<bigint>): Task<void> {
  call.command.iova = yield* mapping;
  call.respond();
}

export function* ioasMapFile(call: CallOf<"IOAS_MAP_FILE">): Task<void> {
  const { context, command, process } = call;
  const { flags, length, iova, start } = command;
  checkFlags(flags);
  if (iova === MAX_IOVA) refuseMaximum("iova");
  if (length === MAX_IOVA) refuseMaximum("length");
  const prot = protOf(flags);
  const ioas = context.objects.use(command.ioas_id, Ioas);
  try {
    if (length === 0n) refuse(EINVAL, () => "length is 0");
    if (start + length - 1n > MAX_IOVA)
      refuse(EOVERFLOW, () => `start ${hex(start)} + length ${hex(length)} exceeds 64 bits`);
    const source = sourceOf(context, process.file(command.fd), start, length);
    const pages = context.newPageSet(process, source, (flags & MAP_WRITEABLE) !== 0);
    const fixed = (flags & MAP_FIXED_IOVA) !== 0 ? iova : undefined;
    const slices = [sliceAt(pages, start, length)];
    command.iova = yield* ioas.space.map({ slices, length, fixed, prot, caller: process });
  } finally {
    context.objects.release(ioas);
  }
  call.respond();
}

export function* ioasCopy(call: CallOf<"IOAS_COPY">): Task<void> {
  const { context, command, process } = call;
  context.extension?.prepareCopy?.(call);
  const { flags, length, src_iova: from, dst_iova: to } = command;
  checkFlags(flags);
  if (length === MAX_IOVA) refuseMaximum("length");
  if (from === MAX_IOVA) refuseMaximum("src_iova");
  if (to === MAX_IOVA) refuseMaximum("dst_iova");
  const prot = protOf(flags);
  const slices = slicesToCopy(context.objects.find(command.src_ioas_id, Ioas), from, length);
  const ioas = context.objects.use(command.dst_ioas_id, Ioas);
  try {
    const fixed = (flags & MAP_FIXED_IOVA) !== 0 ? to : undefined;
    command.dst_iova = yield* ioas.space.map({ slices, length, fixed, prot, caller: process });
  } finally {
    context.objects.release(ioas);
  }
  call.respond();
}

/** With iova 0 and length 2^64 - 1 everything goes, even if there is nothing. */
export function ioasUnmap(call: CallOf<"IOAS_UNMAP">): Task<void> {
  const { context, command } = call;
  const ioas = context.objects.find(command.ioas_id, Ioas);
  const { iova, length } = command;
  const last = iova === 0n && length === MAX_IOVA ? MAX_IOVA : lastToUnmap(iova, length);
  const unmapping = ioas.space.unmap(iova, last);
  if (!(unmapping instanceof DoneTask)) return respondAfter(call, ioas, context.objects.whileUsed(ioas, unmapping));
  respondUnmapped(call, ioas, unmapping.value);
  return done;
}

function* respondAfter(call: CallOf<"IOAS_UNMAP">, ioas: Ioas, unmapping: Task<bigint>): Task<void> {
  respondUnmapped(call, ioas, yield* unmapping);
}

function respondUnmapped(call: CallOf<"IOAS_UNMAP">, ioas: Ioas, bytes: bigint): void {
  const { command } = call;
  const { iova, length } = command;
  if (bytes === 0n && (iova !== 0n || length !== MAX_IOVA)) refuseUnmapped(ioas, iova, lastOf(iova, length));
  command.length = bytes;
  call.respond();
}

/** What can be wrong whatever the IOAS. */
function checkMap({ flags, reserved, iova, length }: Command<"IOAS_MAP">): void {
  checkFlags(flags);
  refuseReserved(reserved);
  if (iova === MAX_IOVA) refuseMaximum("iova");
  if (length === MAX_IOVA) refuseMaximum("length");
  protOf(flags);
}

function userRequest({ context, command, process }: CallOf<"IOAS_MAP">): MapRequest {
  const { flags, length, iova, user_va: address } = command;
  if (address + length > MAX_IOVA) {
    refuse(EOVERFLOW, () => `user_va ${hex(address)} + length ${hex(length)} exceeds 64 bits`);
  }
  const pages = context.newPageSet(process, new UserPages(process), (flags & MAP_WRITEABLE) !== 0);
  const slices = [sliceAt(pages, address, length)];
  const fixed = (flags & MAP_FIXED_IOVA) !== 0 ? iova : undefined;
  return { slices, length, fixed, prot: protOf(flags), caller: process };
}

function lastToUnmap(iova: bigint, length: bigint): bigint {
  if (iova === MAX_IOVA) refuseMaximum("iova");
  if (length === MAX_IOVA) refuseMaximum("length");
  return lastOf(iova, length);
}

function refuseUnmapped(ioas: Ioas, iova: bigint, last: bigint): never {
  refuse(ENOENT, () => `nothing is mapped in ${hexRange(iova, last)} of ${ioas.label}`);
}

/**
 * Refusals for a dma-buf: EINVAL (too short), EOPNOTSUPP (of another exporter), ENODEV. Any other file
 * will do: what it is matters when its pages are pinned.
 */
function sourceOf(context: IommufdContext, file: ClientFile, start: bigint, length: bigint): PageSource {
  if (file.kind === "eventfd") file.event.release();
  const buffer = file.kind === "ours" ? file.file.dmaBuf : undefined;
  if (buffer === undefined) return new FilePages(context.memory, file);
  const last = start + length - 1n;
  if (BigInt(buffer.size) <= last || length / PAGE >= MAX_DMA_BUF_PAGES) {
    refuse(EINVAL, () => `${hexRange(start, last)} reaches beyond the end of ${buffer.label}, ${buffer.size} bytes`);
  }
  if (!buffer.mappable) refuse(EOPNOTSUPP, () => `${buffer.label} is of an exporter whose dma-bufs cannot be mapped`);
  if (buffer.revoked) refuse(ENODEV, () => `${buffer.label} was taken back`);
  return new DmaBufPages(buffer);
}

function slicesToCopy(source: Ioas, start: bigint, length: bigint): Slice[] {
  return source.space.slicesOf(start, lastOf(start, length));
}

/** The last IOVA of a range. EINVAL: empty; EOVERFLOW. */
export function lastOf(start: bigint, length: bigint): bigint {
  if (length === 0n) refuse(EINVAL, () => "length is 0");
  const last = start + (length - 1n);
  if (last > MAX_IOVA) refuse(EOVERFLOW, () => `iova ${hex(start)} + length ${hex(length)} exceeds 64 bits`);
  return last;
}

/** The part of a page set from byte `address` of its source on. */
export function sliceAt(pages: PageSet, address: bigint, length: bigint): Slice {
  const near = numberOf(address);
  return near <= Number.MAX_SAFE_INTEGER
    ? { pages, page: Math.floor(near / PAGE_SIZE), offset: near & (PAGE_SIZE - 1), length }
    : { pages, page: Number(address / PAGE), offset: Number(address % PAGE), length };
}

function checkFlags(flags: number): void {
  const unknown = flags & ~MAP_FLAGS;
  if (unknown !== 0) refuse(EOPNOTSUPP, () => `unknown flags 0x${(unknown >>> 0).toString(16)}`);
}

function refuseMaximum(field: string): never {
  refuse(EOVERFLOW, () => `${field} is 2^64 - 1`);
}

function protOf(flags: number): number {
  const prot = ((flags & MAP_READABLE) !== 0 ? PROT_READ : 0) | ((flags & MAP_WRITEABLE) !== 0 ? PROT_WRITE : 0);
  if (prot === 0) refuse(EINVAL, () => "neither READABLE nor WRITEABLE");
  return prot;
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
