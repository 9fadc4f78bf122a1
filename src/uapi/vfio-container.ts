// Runs in a browser.
/**
 * The ioctls of VFIO containers and groups: numbers, structs, flags (reference 3.14 and 5.3). Field names are those of
 * the C structs; the numbers are `_IO(';', 100 + n)`. Some of them mean other things on a VFIO device file.
 */
import { defineStruct, u16, u32, u64 } from "./struct.ts";

const BASE = 0x3b64;

// Containers.
export const VFIO_GET_API_VERSION: number = BASE;
export const VFIO_CHECK_EXTENSION: number = BASE + 1;
export const VFIO_SET_IOMMU: number = BASE + 2;
export const VFIO_IOMMU_GET_INFO: number = BASE + 12;
export const VFIO_IOMMU_MAP_DMA: number = BASE + 13;
export const VFIO_IOMMU_UNMAP_DMA: number = BASE + 14;

// Groups.
export const VFIO_GROUP_GET_STATUS: number = BASE + 3;
export const VFIO_GROUP_SET_CONTAINER: number = BASE + 4;
export const VFIO_GROUP_UNSET_CONTAINER: number = BASE + 5;
export const VFIO_GROUP_GET_DEVICE_FD: number = BASE + 6;

/** What GET_API_VERSION answers. */
export const VFIO_API_VERSION = 0;

/** Extensions; those that are IOMMU types are what SET_IOMMU takes, too. */
export const VFIO_TYPE1_IOMMU = 1;
export const VFIO_TYPE1V2_IOMMU = 3;
export const VFIO_DMA_CC_IOMMU = 4;
export const VFIO_UNMAP_ALL = 9;

/** Followed by capabilities. */
export const IommuType1Info = defineStruct("vfio_iommu_type1_info", {
  argsz: u32,
  flags: u32,
  iova_pgsizes: u64,
  cap_offset: u32,
  pad: u32,
});
export const IOMMU_INFO_PGSIZES = 1;
export const IOMMU_INFO_CAPS = 2;

/** What the capabilities of {@link IommuType1Info} begin with; `next` is an offset from the beginning of the info. */
const capabilityHeader = { id: u16, version: u16, next: u32 } as const;
export const DmaAvailCapability = defineStruct("vfio_iommu_type1_info_dma_avail", { ...capabilityHeader, avail: u32 });
export const IOMMU_INFO_CAP_DMA_AVAIL = 3;
/** Followed by `nr_iovas` {@link IovaRangeEntry}. */
export const IovaRangeCapability = defineStruct("vfio_iommu_type1_info_cap_iova_range", {
  ...capabilityHeader,
  nr_iovas: u32,
  reserved: u32,
});
export const IOMMU_INFO_CAP_IOVA_RANGE = 1;
export const IovaRangeEntry = defineStruct("vfio_iova_range", { start: u64, end: u64 });

export const DmaMap = defineStruct("vfio_iommu_type1_dma_map", {
  argsz: u32,
  flags: u32,
  vaddr: u64,
  iova: u64,
  size: u64,
});
export const DMA_MAP_FLAG_READ = 1;
export const DMA_MAP_FLAG_WRITE = 2;

export const DmaUnmap = defineStruct("vfio_iommu_type1_dma_unmap", { argsz: u32, flags: u32, iova: u64, size: u64 });
export const DMA_UNMAP_FLAG_ALL = 2;

export const GroupStatus = defineStruct("vfio_group_status", { argsz: u32, flags: u32 });
export const GROUP_FLAGS_VIABLE = 1;
export const GROUP_FLAGS_CONTAINER_SET = 2;

/** What people call the requests of a container, by number, and their structs. */
export const vfioContainerRequests: ReadonlyMap<number, { name: string; struct?: unknown }> = new Map([
  [VFIO_GET_API_VERSION, { name: "VFIO_GET_API_VERSION" }],
  [VFIO_CHECK_EXTENSION, { name: "VFIO_CHECK_EXTENSION" }],
  [VFIO_SET_IOMMU, { name: "VFIO_SET_IOMMU" }],
  [VFIO_IOMMU_GET_INFO, { name: "VFIO_IOMMU_GET_INFO", struct: IommuType1Info }],
  [VFIO_IOMMU_MAP_DMA, { name: "VFIO_IOMMU_MAP_DMA", struct: DmaMap }],
  [VFIO_IOMMU_UNMAP_DMA, { name: "VFIO_IOMMU_UNMAP_DMA", struct: DmaUnmap }],
]);

/** Likewise those of a group. No other file has these numbers. */
export const vfioGroupRequests: ReadonlyMap<number, { name: string; struct?: unknown }> = new Map([
  [VFIO_GROUP_GET_STATUS, { name: "VFIO_GROUP_GET_STATUS", struct: GroupStatus }],
  [VFIO_GROUP_SET_CONTAINER, { name: "VFIO_GROUP_SET_CONTAINER" }],
  [VFIO_GROUP_UNSET_CONTAINER, { name: "VFIO_GROUP_UNSET_CONTAINER" }],
  [VFIO_GROUP_GET_DEVICE_FD, { name: "VFIO_GROUP_GET_DEVICE_FD" }],
]);
