// Runs in a browser.
/**
 * The ioctls of a VFIO container (type1), which every iommufd answers too (reference 3.14). They work on the
 * *compatibility IOAS* of the file: the one that VFIO_IOAS SET names, or that was made when a group was given this file
 * as its container.
 *
 * Type 1 promises that what was mapped in one piece can be unmapped in parts: then an IOAS has no huge pages, and its
 * areas are cut where a client unmaps from or up to the middle of one.
 */
import { PROT_READ, PROT_WRITE } from "../iommu/index.ts";
import type { Process } from "../memory/index.ts";
import { EINVAL, ENODEV, ENOTTY, EOVERFLOW, refuse, type Task } from "../runtime/index.ts";
import {
  DMA_MAP_FLAG_READ,
  DMA_MAP_FLAG_WRITE,
  DMA_UNMAP_FLAG_ALL,
  DmaMap,
  DmaUnmap,
  VFIO_API_VERSION,
  VFIO_CHECK_EXTENSION,
  VFIO_DMA_CC_IOMMU,
  VFIO_GET_API_VERSION,
  VFIO_IOMMU_GET_INFO,
  VFIO_IOMMU_MAP_DMA,
  VFIO_IOMMU_UNMAP_DMA,
  VFIO_SET_IOMMU,
  VFIO_TYPE1_IOMMU,
  VFIO_TYPE1V2_IOMMU,
  VFIO_UNMAP_ALL,
} from "../uapi/index.ts";
import { writeInfo } from "./container-info.ts";
import type { IommufdContext } from "./context.ts";
import { Ioas } from "./ioas.ts";
import { lastOf, sliceAt } from "./map-commands.ts";
import { UserPages } from "./page-set.ts";
import { MAX_IOVA } from "./reserved.ts";

/** An ioctl that is no command of iommufd. ENOTTY if it is none of a container either. */
export function* containerIoctl(
  context: IommufdContext,
  process: Process,
  request: number,
  argument: number,
): Task<number> {
  switch (request) {
    case VFIO_GET_API_VERSION:
      return VFIO_API_VERSION;
    case VFIO_CHECK_EXTENSION:
      return checkExtension(context, argument);
    case VFIO_SET_IOMMU:
      yield* setIommu(context, argument);
      return 0;
    case VFIO_IOMMU_GET_INFO:
      writeInfo(process, argument, () => compatIoas(context));
      return 0;
    case VFIO_IOMMU_MAP_DMA:
      yield* mapDma(context, process, argument);
      return 0;
    case VFIO_IOMMU_UNMAP_DMA:
      yield* unmapDma(context, process, argument);
      return 0;
    default:
      return refuse(ENOTTY, () => `0x${request.toString(16)} is no ioctl of iommufd, and none of a VFIO container`);
  }
}

/** The compatibility IOAS; made if there is none, as for a group that gets this file as its container. ENOMEM. */
export function ensureCompatIoas(context: IommufdContext): Ioas {
  return (context.compatIoas ??= context.objects.create((id) => new Ioas(context, id)));
}

/** ENODEV if the file has none. */
export function compatIoas(context: IommufdContext): Ioas {
  const ioas = context.compatIoas;
  if (ioas === undefined || !context.objects.isPublished(ioas)) {
    refuse(ENODEV, () => `${context.label} has no compatibility IOAS: give it to a group as container first`);
  }
  return ioas;
}

/** `code` with the compatibility IOAS, which lives until that has ended. */
function* withCompatIoas(context: IommufdContext, code: (ioas: Ioas) => Task<unknown>): Task<void> {
  const ioas = compatIoas(context);
  context.objects.useAny(ioas.id);
  try {
    yield* code(ioas);
  } finally {
    context.objects.release(ioas);
  }
}

/** 1 if there is such an extension, 0 if not. ENODEV where that depends on an IOAS and there is none. */
function checkExtension(context: IommufdContext, extension: number): number {
  switch (extension) {
    case VFIO_TYPE1_IOMMU:
    case VFIO_TYPE1V2_IOMMU:
    case VFIO_UNMAP_ALL:
      return 1;
    case VFIO_DMA_CC_IOMMU:
      return compatIoas(context).hwpts.every((hwpt) => hwpt.enforcesCoherency) ? 1 : 0;
    default:
      return 0;
  }
}

/** Type 1 v2 leaves huge pages as they are. */
function* setIommu(context: IommufdContext, type: number): Task<void> {
  if (type !== VFIO_TYPE1_IOMMU && type !== VFIO_TYPE1V2_IOMMU) {
    refuse(EINVAL, () => `IOMMU type ${type} is neither TYPE1 (1) nor TYPE1v2 (3)`);
  }
  yield* withCompatIoas(context, function* ({ space }) {
    if (type === VFIO_TYPE1_IOMMU) yield* space.setHugePages(false);
  });
}

/** Flags 0 are allowed: an area that nobody may read or write, until a page table should hold it. */
function* mapDma(context: IommufdContext, process: Process, argument: number): Task<void> {
  const command = readArgument(process, argument, new DmaMap(), DMA_MAP_FLAG_READ | DMA_MAP_FLAG_WRITE);
  const { flags, vaddr: address, iova, size: length } = command;
  const prot =
    ((flags & DMA_MAP_FLAG_READ) !== 0 ? PROT_READ : 0) | ((flags & DMA_MAP_FLAG_WRITE) !== 0 ? PROT_WRITE : 0);
  yield* withCompatIoas(context, ({ space }) => {
    if (address + length > MAX_IOVA) {
      refuse(EOVERFLOW, () => `vaddr 0x${address.toString(16)} + size 0x${length.toString(16)} exceeds 64 bits`);
    }
    const pages = context.newPageSet(process, new UserPages(process), (flags & DMA_MAP_FLAG_WRITE) !== 0);
    const slices = [sliceAt(pages, address, length)];
    return space.map({ slices, length, fixed: iova, prot, caller: process });
  });
}

/** Nothing mapped is no error. The bytes that went are told to the client also where an error ended it. */
function* unmapDma(context: IommufdContext, process: Process, argument: number): Task<void> {
  const command = readArgument(process, argument, new DmaUnmap(), DMA_UNMAP_FLAG_ALL);
  const { flags, iova, size } = command;
  yield* withCompatIoas(context, function* ({ space }) {
    const all = (flags & DMA_UNMAP_FLAG_ALL) !== 0;
    if (all && (iova !== 0n || size !== 0n)) refuse(EINVAL, () => "ALL goes with iova 0 and size 0");
    if (!all && !space.usesHugePages) {
      const before = iova === 0n ? [] : [iova - 1n];
      yield* space.cut([BigInt.asUintN(64, iova + size - 1n), ...before]);
    }
    const removed = { bytes: 0n };
    try {
      yield* space.unmap(iova, all ? MAX_IOVA : lastOf(iova, size), removed);
    } finally {
      command.size = removed.bytes;
      process.memory.write(argument, command.$bytes);
    }
  });
}

/** Reads a struct whose first two fields are `argsz` and `flags`. EFAULT; EINVAL: argsz too small, unknown flags. */
function readArgument<V extends { argsz: number; flags: number; $bytes: Uint8Array }>(
  process: Process,
  argument: number,
  view: V,
  flags: number,
): V {
  process.memory.read(argument, view.$bytes);
  const { length } = view.$bytes;
  if (view.argsz < length) refuse(EINVAL, () => `argsz ${view.argsz} is below ${length}`);
  const unknown = view.flags & ~flags;
  if (unknown !== 0) refuse(EINVAL, () => `unknown flags 0x${(unknown >>> 0).toString(16)}`);
  return view;
}
