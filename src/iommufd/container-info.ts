// Runs in a browser.
/**
 * IOMMU_GET_INFO of a container, byte by byte (reference 3.14): a head, and behind it a chain of two capabilities as far
 * as the client's buffer goes. A buffer that is too small gets parts of them, though the head then names none.
 */
import { PAGE_SIZE, type Process } from "../memory/index.ts";
import { EINVAL, refuse } from "../runtime/index.ts";
import {
  DmaAvailCapability,
  IOMMU_INFO_CAP_DMA_AVAIL,
  IOMMU_INFO_CAP_IOVA_RANGE,
  IOMMU_INFO_CAPS,
  IOMMU_INFO_PGSIZES,
  IommuType1Info,
  IovaRangeCapability,
  IovaRangeEntry,
} from "../uapi/index.ts";
import type { Ioas } from "./ioas.ts";
import { MAX_IOVA } from "./reserved.ts";

const PAGE = BigInt(PAGE_SIZE);
const MINIMUM = IommuType1Info.endOf("iova_pgsizes");
/** Where the capabilities lie: the first has 12 bytes, and 4 that nobody writes. */
const AVAIL_AT = IommuType1Info.size;
const RANGES_AT = AVAIL_AT + 16;

/** Refusals in order: EFAULT, EINVAL (argsz), those of `ioasOf`, EFAULT. */
export function writeInfo(process: Process, argument: number, ioasOf: () => Ioas): void {
  const info = new IommuType1Info();
  process.memory.read(argument, info.$bytes.subarray(0, MINIMUM));
  const room = info.argsz;
  if (room < MINIMUM) refuse(EINVAL, () => `argsz ${room} is below ${MINIMUM}`);
  const ioas = ioasOf();
  const ranges = ioas.space.usableRanges();
  const needed = RANGES_AT + IovaRangeCapability.size + ranges.length * IovaRangeEntry.size;
  writeCapabilities(process, argument, room, ranges);
  info.argsz = needed;
  info.flags = IOMMU_INFO_PGSIZES | IOMMU_INFO_CAPS;
  info.iova_pgsizes = pageSizesOf(ioas);
  info.cap_offset = room >= needed ? AVAIL_AT : 0;
  process.memory.write(argument, info.$bytes.subarray(0, Math.min(room, IommuType1Info.size)));
}

function writeCapabilities(
  { memory }: Process,
  argument: number,
  room: number,
  ranges: readonly { readonly start: bigint; readonly last: bigint }[],
): void {
  if (room < AVAIL_AT + DmaAvailCapability.size) return;
  const avail = new DmaAvailCapability();
  avail.id = IOMMU_INFO_CAP_DMA_AVAIL;
  avail.version = 1;
  avail.avail = 0xffffffff;
  memory.write(argument + AVAIL_AT, avail.$bytes);
  if (room < RANGES_AT) return;
  const first = RANGES_AT + IovaRangeCapability.size;
  const fitting = Math.floor(Math.max(0, room - first) / IovaRangeEntry.size);
  for (const [index, { start, last }] of ranges.slice(0, fitting).entries()) {
    const entry = new IovaRangeEntry();
    entry.start = start;
    entry.end = last;
    memory.write(argument + first + index * IovaRangeEntry.size, entry.$bytes);
  }
  if (fitting >= ranges.length && room >= first) {
    const header = new IovaRangeCapability();
    header.id = IOMMU_INFO_CAP_IOVA_RANGE;
    header.version = 1;
    header.nr_iovas = ranges.length;
    memory.write(argument + RANGES_AT, header.$bytes);
  }
  avail.next = RANGES_AT;
  const { next, avail: behind } = DmaAvailCapability.offsets;
  memory.write(argument + AVAIL_AT + next, avail.$bytes.subarray(next, behind));
}

/** As a mask: what every linked HWPT has, where smaller pages than the CPU's count as one of those. */
function pageSizesOf({ hwpts, space }: Ioas): bigint {
  let sizes = MAX_IOVA;
  for (const { domain } of hwpts) {
    sizes &= domain.pageSizes.reduce((mask, size) => mask + BigInt(size), 0n);
  }
  if (sizes % PAGE !== 0n) sizes = sizes - (sizes % PAGE) + (((sizes / PAGE) & 1n) === 0n ? PAGE : 0n);
  const alignment = BigInt(space.alignment);
  return sizes < alignment ? alignment : sizes;
}
