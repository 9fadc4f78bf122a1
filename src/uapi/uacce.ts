// Runs in a browser.
/**
 * The ioctls of an accelerator's file (reference 9.2), and those that the copy engine adds: docs/accelerator.md has them in
 * C. Numbers are those of `_IO('W', n)` and `_IOWR('W', n, struct)`.
 */
import { defineStruct, type Fields, type Struct, u32, u64 } from "./struct.ts";

const BASE = 0x5700;
const READ_WRITE = 0xc000_0000;

function readWrite(number: number, { size }: Struct<Fields>): number {
  return READ_WRITE + size * 0x1_0000 + BASE + number;
}

/** The queue begins to work. */
export const UACCE_START_Q: number = BASE + 0;
/** The queue stops. */
export const UACCE_PUT_Q: number = BASE + 1;

/** Copy `length` bytes; all addresses are the caller's own. `job` is the answer: what to wait for. */
export const CopySubmit = defineStruct("uiommu_copy_submit", { source: u64, destination: u64, length: u32, job: u32 });
export const COPY_SUBMIT: number = readWrite(0x10, CopySubmit as unknown as Struct<Fields>);

/**
 * What has become of `job`, which is waited for `timeout` milliseconds long: 0 asks, COPY_WAIT_FOREVER sets no end. Answers:
 * `status` is COPY_PENDING or how it ended, `copied` the bytes that it moved.
 */
export const CopyWait = defineStruct("uiommu_copy_wait", { job: u32, timeout: u32, status: u32, copied: u32 });
export const COPY_WAIT: number = readWrite(0x11, CopyWait as unknown as Struct<Fields>);
export const COPY_WAIT_FOREVER = 0xffff_ffff;

/** How a copy ended; the copy engine's own numbers. */
export const COPY_PENDING = 0;
export const COPY_DONE = 1;
export const COPY_READ_FAULT = 2;
export const COPY_WRITE_FAULT = 3;

/** What people call these requests, by number. */
export const uacceRequests: ReadonlyMap<number, string> = new Map([
  [UACCE_START_Q, "UACCE_CMD_START_Q"],
  [UACCE_PUT_Q, "UACCE_CMD_PUT_Q"],
  [COPY_SUBMIT, "COPY_SUBMIT"],
  [COPY_WAIT, "COPY_WAIT"],
]);
