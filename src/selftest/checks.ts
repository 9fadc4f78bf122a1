// Runs in a browser.
/** What a test asks of page tables, pins and caches, and the writes that it lets a device make (reference 4.1). */
import { MockNestedDomain, MockPagingDomain, mockStateOf } from "../drivers/mock/index.ts";
import { NestedHwpt, PagingHwpt } from "../iommufd/index.ts";
import { PAGE_SIZE } from "../memory/index.ts";
import { EINVAL, EIO, EOVERFLOW, refuse } from "../runtime/index.ts";
import { TestCheckIotlb, TestCheckMap, TestCheckRefs, TestDevCheckCache, TestDirty } from "../uapi/index.ts";
import { type Operation, operation } from "./call.ts";
import { ClientFrames } from "./client-frames.ts";
import { findMockDevice } from "./mock-devices.ts";

const PAGE = BigInt(PAGE_SIZE);
const MAX = 2n ** 64n - 1n;
/** Bits of one bitmap of DIRTY. */
const MOST_DIRTY_BITS = 2n ** 27n;

/** Each page of the HWPT's smallest size must translate to where the client's page is. */
export const checkMap: Operation = operation(TestCheckMap, ({ call, test }) => {
  const { context, process } = call;
  const { domain, label } = context.objects.find(test.id, PagingHwpt);
  const { iova, length, uptr } = test;
  const step = BigInt(domain.pageSizes[0]);
  if (iova % step !== 0n || length % step !== 0n || uptr % step !== 0n || uptr + length > MAX) {
    refuse(EINVAL, () => `iova, length or address is no multiple of ${step}, or the end is beyond 64 bits`);
  }
  const frames = new ClientFrames(process, context.memory, uptr + length);
  for (let done = 0n; done < length; done += step) {
    const expected = frames.physicalOf(uptr + done);
    const found = domain.translate(iova + done);
    if (found !== expected) {
      refuse(EINVAL, () => {
        const what = found === undefined ? "is not mapped" : `is at 0x${found.toString(16)}`;
        return `0x${(iova + done).toString(16)} of ${label} ${what}, the client's page at 0x${expected.toString(16)}`;
      });
    }
  }
  return undefined;
});

/** Each page of the client must be pinned so many times. */
export const checkRefs: Operation = operation(TestCheckRefs, ({ call, test }) => {
  const { context, process } = call;
  const { length, uptr, refs } = test;
  if (length % PAGE !== 0n || uptr % PAGE !== 0n || uptr + length > MAX) {
    refuse(EINVAL, () => `address or length is no multiple of ${PAGE}, or the end is beyond 64 bits`);
  }
  const frames = new ClientFrames(process, context.memory, uptr + length);
  for (let at = uptr; at < uptr + length; at += PAGE) {
    const pins = context.memory.pinCount(frames.physicalOf(at) / PAGE_SIZE);
    if (pins !== refs) refuse(EIO, () => `the page at 0x${at.toString(16)} is pinned ${pins} times, not ${refs}`);
  }
  return undefined;
});

export const checkIotlb: Operation = operation(TestCheckIotlb, ({ call, test }) => {
  const { domain, label } = call.context.objects.find(test.id, NestedHwpt);
  if (!(domain instanceof MockNestedDomain)) refuse(EINVAL, () => `${label} is not of the mock IOMMU`);
  checkWord(domain.iotlb, test.word, test.iotlb, label);
  return undefined;
});

export const devCheckCache: Operation = operation(TestDevCheckCache, ({ call, test }) => {
  const device = findMockDevice(call.context, test.id);
  checkWord(mockStateOf(device).cache, test.word, test.cache, device.label);
  return undefined;
});

/** Marks what a device wrote to: a bit for each page of a bitmap. What is not mapped is skipped, but counted. */
export const dirty: Operation = operation(TestDirty, ({ call, test }) => {
  const { context, process } = call;
  const { iova, length, page_size: pageSize, uptr } = test;
  if (pageSize === 0n || length === 0n || iova % pageSize !== 0n || length % pageSize !== 0n || uptr === 0n) {
    refuse(EINVAL, () => `iova or length is 0 or no multiple of page size ${pageSize}, or there is no bitmap`);
  }
  const bits = length / pageSize;
  if (bits > MOST_DIRTY_BITS) refuse(EOVERFLOW, () => `${bits} pages are more than ${MOST_DIRTY_BITS}`);
  const { domain, label } = context.objects.find(test.id, PagingHwpt);
  if (!(domain instanceof MockPagingDomain) || !domain.isTracking) {
    return refuse(EINVAL, () => `dirty tracking of ${label} is off`);
  }
  const bitmap = new Uint8Array(Math.ceil(Number(bits) / 8));
  process.memory.read(uptr, bitmap);
  let marked = 0n;
  for (let bit = 0n; bit < bits; bit++) {
    const byte = bitmap[Number(bit / 8n)];
    if (((byte >> Number(bit % 8n)) & 1) === 0) continue;
    domain.markDirty(iova + bit * pageSize);
    marked++;
  }
  test.out_nr_dirty = marked;
  call.respond();
  return undefined;
});

function checkWord(cache: Uint32Array, word: number, expected: number, label: string): void {
  if (word >= cache.length) refuse(EINVAL, () => `${label} has ${cache.length} cache words, none of number ${word}`);
  if (cache[word] !== expected) {
    refuse(EINVAL, () => `cache word ${word} of ${label} is 0x${cache[word].toString(16)}`);
  }
}
