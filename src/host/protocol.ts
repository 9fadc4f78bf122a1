/**
 * What the shim and the host say to each other: the mirror of shim/protocol.h,
 * where each word is explained. A test compares the two.
 */
import { bytes, defineStruct, type Struct, s32, u16, u32, u64 } from "../uapi/index.ts";

export const MAGIC = 0x6d6f6975;
export const VERSION = 1;
export const ARGUMENT_MAX = 64;
export const PAYLOAD_MAX = 4096;

export const HELLO_PRIMARY = 1;
export const HELLO_CONTROL = 2;
export const HELLO_OPEN = 3;
export const HELLO_ADOPT = 4;
export const HELLO_KEEPER = 5;
export const HELLO_BLIND = 6;

export const BLIND_STATIC = 0;
export const BLIND_PRIVILEGED = 1;

const helloFields = {
  magic: u32,
  version: u16,
  kind: u16,
  key: bytes(16),
  cookie: bytes(16),
  inode: u64,
  pid: u32,
  flags: u32,
  token: u32,
  path_length: u32,
} as const;
export const Hello: Struct<typeof helloFields> = defineStruct("uiommu_hello", helloFields);

export const OP_IOCTL = 1;
export const OP_READ = 2;
export const OP_WRITE = 3;
export const OP_SEEK = 4;
export const OP_MMAP = 5;
export const OP_DESCRIBE = 6;
export const OP_SYNC = 7;
export const OP_CHANGING = 8;
export const OP_MOVED = 9;
export const OP_CLOSED = 10;
export const OP_ACCOUNT = 11;
export const OP_CHANGED = 12;

export const CHANGE_CONTENT = 0;
export const CHANGE_VIEW = 1;

const requestFields = {
  operation: u32,
  length: u32,
  inode: u64,
  number: u64,
  argument: u64,
  position: u64,
  generation: u64,
} as const;
export const Request: Struct<typeof requestFields> = defineStruct("uiommu_request", requestFields);

export const REPLY_PINNED = 1;
export const REPLY_DRAIN = 2;
export const REPLY_INSTALL = 4;
export const REPLY_TEXT = 8;
export const REPLY_SEND_FD = 16;
export const REPLY_LOWER = 32;
export const REPLY_BOUND = 64;
export const REPLY_AWAKE = 128;

const replyFields = { result: u64, length: u32, flags: u32, address: u64, token: u32, version: u32 } as const;
export const Reply: Struct<typeof replyFields> = defineStruct("uiommu_reply", replyFields);

export const FILE_DEVICE = 1;
export const FILE_TEXT = 2;
export const FILE_ANONYMOUS = 3;
export const FILE_SILENT = 4;
export const FILE_POLLED = 5;

const descriptionFields = { kind: u32, mode: u32, major: u32, minor: u32, flags: u32, path: bytes(256) } as const;
export const Description: Struct<typeof descriptionFields> = defineStruct("uiommu_description", descriptionFields);

/** A 64-bit field as a number: exact up to 2^53, and above that still far above every address and length there can be. */
export function wide(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getUint32(offset + 4, true) * 2 ** 32;
}

/** A 64-bit field that may be negative. */
export function signedWide(view: DataView, offset: number): number {
  return view.getUint32(offset, true) + view.getInt32(offset + 4, true) * 2 ** 32;
}

/** Stores an integer, of either sign, in 64 bits. */
export function putWide(view: DataView, offset: number, value: number): void {
  view.setInt32(offset, value | 0, true);
  view.setInt32(offset + 4, (value | 0) === value ? value >> 31 : Math.floor(value / 2 ** 32), true);
}

// The helper that holds eventfds: shim/fd-helper.c.
export const HELPER_TAKE = 1;
export const HELPER_RECEIVE = 2;
export const HELPER_SIGNAL = 3;
export const HELPER_RELEASE = 4;
export const HELPER_WATCH = 5;
export const HELPER_LOOK = 6;

const helperFields = { operation: u32, token: u32, pid: u32, fd: s32 } as const;
export const HelperCommand: Struct<typeof helperFields> = defineStruct("uiommu_helper_command", helperFields);
