// Runs in a browser.
/**
 * The ioctls of `/dev/iommu`: one row each, with number, struct and the smallest size that is accepted (reference 3.3).
 * Field names are those of the C structs. A `reserved…` field must be zero unless said otherwise.
 */
import { bytes, defineStruct, type Fields, type Struct, type StructView, s32, u8, u16, u32, u64 } from "./struct.ts";

export const Destroy = defineStruct("iommu_destroy", { size: u32, id: u32 });
export const IoasAlloc = defineStruct("iommu_ioas_alloc", { size: u32, flags: u32, out_ioas_id: u32 });
export const IovaRange = defineStruct("iommu_iova_range", { start: u64, last: u64 });
export const IoasAllowIovas = defineStruct("iommu_ioas_allow_iovas", {
  size: u32,
  ioas_id: u32,
  num_iovas: u32,
  reserved: u32,
  allowed_iovas: u64,
});
export const IoasCopy = defineStruct("iommu_ioas_copy", {
  size: u32,
  flags: u32,
  dst_ioas_id: u32,
  src_ioas_id: u32,
  length: u64,
  dst_iova: u64,
  src_iova: u64,
});
export const IoasIovaRanges = defineStruct("iommu_ioas_iova_ranges", {
  size: u32,
  ioas_id: u32,
  num_iovas: u32,
  reserved: u32,
  allowed_iovas: u64,
  out_iova_alignment: u64,
});
export const IoasMap = defineStruct("iommu_ioas_map", {
  size: u32,
  flags: u32,
  ioas_id: u32,
  reserved: u32,
  user_va: u64,
  length: u64,
  iova: u64,
});
export const IoasUnmap = defineStruct("iommu_ioas_unmap", { size: u32, ioas_id: u32, iova: u64, length: u64 });
export const Option = defineStruct("iommu_option", {
  size: u32,
  option_id: u32,
  op: u16,
  reserved: u16,
  object_id: u32,
  val64: u64,
});
export const VfioIoas = defineStruct("iommu_vfio_ioas", { size: u32, ioas_id: u32, op: u16, reserved: u16 });
/** `reserved2` is not looked at. */
export const HwptAlloc = defineStruct("iommu_hwpt_alloc", {
  size: u32,
  flags: u32,
  dev_id: u32,
  pt_id: u32,
  out_hwpt_id: u32,
  reserved: u32,
  data_type: u32,
  data_len: u32,
  data_uptr: u64,
  fault_id: u32,
  reserved2: u32,
});
/** `data_type` is the type asked for on the way in, the type given on the way out. */
export const GetHwInfo = defineStruct("iommu_hw_info", {
  size: u32,
  flags: u32,
  dev_id: u32,
  data_len: u32,
  data_uptr: u64,
  data_type: u32,
  out_max_pasid_log2: u8,
  reserved: bytes(3),
  out_capabilities: u64,
});
/** `reserved` is not looked at. */
export const HwptSetDirtyTracking = defineStruct("iommu_hwpt_set_dirty_tracking", {
  size: u32,
  flags: u32,
  hwpt_id: u32,
  reserved: u32,
});
export const HwptGetDirtyBitmap = defineStruct("iommu_hwpt_get_dirty_bitmap", {
  size: u32,
  hwpt_id: u32,
  flags: u32,
  reserved: u32,
  iova: u64,
  length: u64,
  page_size: u64,
  data: u64,
});
export const HwptInvalidate = defineStruct("iommu_hwpt_invalidate", {
  size: u32,
  hwpt_id: u32,
  data_uptr: u64,
  data_type: u32,
  entry_len: u32,
  entry_num: u32,
  reserved: u32,
});
export const FaultQueueAlloc = defineStruct("iommu_fault_alloc", {
  size: u32,
  flags: u32,
  out_fault_id: u32,
  out_fault_fd: u32,
});
export const IoasMapFile = defineStruct("iommu_ioas_map_file", {
  size: u32,
  flags: u32,
  ioas_id: u32,
  fd: s32,
  start: u64,
  length: u64,
  iova: u64,
});
/** `reserved` is not looked at. */
export const ViommuAlloc = defineStruct("iommu_viommu_alloc", {
  size: u32,
  flags: u32,
  type: u32,
  dev_id: u32,
  hwpt_id: u32,
  out_viommu_id: u32,
  data_len: u32,
  reserved: u32,
  data_uptr: u64,
});
export const VdeviceAlloc = defineStruct("iommu_vdevice_alloc", {
  size: u32,
  viommu_id: u32,
  dev_id: u32,
  out_vdevice_id: u32,
  virt_id: u64,
});
export const IoasChangeProcess = defineStruct("iommu_ioas_change_process", { size: u32, reserved: u32 });
export const VeventqAlloc = defineStruct("iommu_veventq_alloc", {
  size: u32,
  flags: u32,
  viommu_id: u32,
  type: u32,
  veventq_depth: u32,
  out_veventq_id: u32,
  out_veventq_fd: u32,
  reserved: u32,
});
export const HwQueueAlloc = defineStruct("iommu_hw_queue_alloc", {
  size: u32,
  flags: u32,
  viommu_id: u32,
  type: u32,
  index: u32,
  out_hw_queue_id: u32,
  nesting_parent_iova: u64,
  length: u64,
});

/** What a read of a fault queue gives for each page request. */
export const FaultRecord = defineStruct("iommu_hwpt_pgfault", {
  flags: u32,
  dev_id: u32,
  pasid: u32,
  grpid: u32,
  perm: u32,
  reserved: u32,
  addr: u64,
  length: u32,
  cookie: u32,
});
/** What a write to a fault queue answers with. */
export const FaultResponse = defineStruct("iommu_hwpt_page_response", { cookie: u32, code: u32 });
/** What precedes each event that is read from an event queue. */
export const VeventHeader = defineStruct("iommufd_vevent_header", { flags: u32, sequence: u32 });

/** Data of the SMMUv3's driver: words 0 and 1 of a guest's STE, a command of a guest, an event record, ID registers. */
export const HwptArmSmmuv3 = defineStruct("iommu_hwpt_arm_smmuv3", { ste0: u64, ste1: u64 });
export const ViommuArmSmmuv3Invalidate = defineStruct("iommu_viommu_arm_smmuv3_invalidate", { cmd0: u64, cmd1: u64 });
export const VeventArmSmmuv3 = defineStruct("iommu_vevent_arm_smmuv3", { evt0: u64, evt1: u64, evt2: u64, evt3: u64 });
export const HwInfoArmSmmuv3 = defineStruct("iommu_hw_info_arm_smmuv3", {
  flags: u32,
  reserved: u32,
  idr0: u32,
  idr1: u32,
  idr2: u32,
  idr3: u32,
  idr4: u32,
  idr5: u32,
  iidr: u32,
  aidr: u32,
});

/** MAP, MAP_FILE and COPY. */
export const MAP_FIXED_IOVA = 1;
export const MAP_WRITEABLE = 2;
export const MAP_READABLE = 4;

export const OPTION_RLIMIT_MODE = 0;
export const OPTION_HUGE_PAGES = 1;
export const OPTION_OP_SET = 0;
export const OPTION_OP_GET = 1;

export const VFIO_IOAS_GET = 0;
export const VFIO_IOAS_SET = 1;
export const VFIO_IOAS_CLEAR = 2;

export const HWPT_ALLOC_NEST_PARENT = 1;
export const HWPT_ALLOC_DIRTY_TRACKING = 2;
export const HWPT_FAULT_ID_VALID = 4;
export const HWPT_ALLOC_PASID = 8;
export const HWPT_DATA_NONE = 0;
export const HWPT_DATA_ARM_SMMUV3 = 2;

export const HW_INFO_FLAG_INPUT_TYPE = 1;
export const HW_INFO_TYPE_NONE = 0;
export const HW_INFO_TYPE_ARM_SMMUV3 = 2;
export const HW_CAP_DIRTY_TRACKING = 1;
export const HW_CAP_PCI_PASID_EXEC = 2;
export const HW_CAP_PCI_PASID_PRIV = 4;
export const HW_CAP_PCI_ATS_NOT_SUPPORTED = 8;

export const DIRTY_TRACKING_ENABLE = 1;
export const DIRTY_BITMAP_NO_CLEAR = 1;

export const FAULT_PASID_VALID = 1;
export const FAULT_LAST_PAGE = 2;

/** Flag of a header without an event: events before the next one were lost. */
export const VEVENTQ_LOST_EVENTS = 1;

/** Types 0 of viommus, event queues and hardware queues are for none. */
export const VIOMMU_TYPE_DEFAULT = 0;
export const VIOMMU_TYPE_ARM_SMMUV3 = 1;
export const VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 = 1;
export const VEVENTQ_TYPE_ARM_SMMUV3 = 1;

/** An ioctl number of iommufd has no direction or size bits: type `;` and the number of the row. */
const IOCTL_TYPE = 0x3b00;

/** One command: what the generic size rule needs to know of it. */
export interface CommandRow<F extends Fields = Fields> {
  /** The whole ioctl number. */
  readonly number: number;
  /** As in C, without `IOMMU_`. */
  readonly name: string;
  readonly struct: Struct<F>;
  /** The smallest accepted `size`: the struct as its first version was. */
  readonly minimum: number;
}

/** The view of a row's struct. */
export type CommandOf<R> = R extends CommandRow<infer F> ? StructView<F> : never;

function row<F extends Fields>(
  nr: number,
  name: string,
  struct: Struct<F>,
  lastOfFirstVersion: keyof F,
): CommandRow<F> {
  return { number: IOCTL_TYPE + nr, name, struct, minimum: struct.endOf(lastOfFirstVersion) };
}

/** Every command of Linux 7.2, by name. */
export const iommufdCommands = {
  DESTROY: row(0x80, "DESTROY", Destroy, "id"),
  IOAS_ALLOC: row(0x81, "IOAS_ALLOC", IoasAlloc, "out_ioas_id"),
  IOAS_ALLOW_IOVAS: row(0x82, "IOAS_ALLOW_IOVAS", IoasAllowIovas, "allowed_iovas"),
  IOAS_COPY: row(0x83, "IOAS_COPY", IoasCopy, "src_iova"),
  IOAS_IOVA_RANGES: row(0x84, "IOAS_IOVA_RANGES", IoasIovaRanges, "out_iova_alignment"),
  IOAS_MAP: row(0x85, "IOAS_MAP", IoasMap, "iova"),
  IOAS_UNMAP: row(0x86, "IOAS_UNMAP", IoasUnmap, "length"),
  OPTION: row(0x87, "OPTION", Option, "val64"),
  VFIO_IOAS: row(0x88, "VFIO_IOAS", VfioIoas, "reserved"),
  HWPT_ALLOC: row(0x89, "HWPT_ALLOC", HwptAlloc, "reserved"),
  GET_HW_INFO: row(0x8a, "GET_HW_INFO", GetHwInfo, "reserved"),
  HWPT_SET_DIRTY_TRACKING: row(0x8b, "HWPT_SET_DIRTY_TRACKING", HwptSetDirtyTracking, "reserved"),
  HWPT_GET_DIRTY_BITMAP: row(0x8c, "HWPT_GET_DIRTY_BITMAP", HwptGetDirtyBitmap, "data"),
  HWPT_INVALIDATE: row(0x8d, "HWPT_INVALIDATE", HwptInvalidate, "reserved"),
  FAULT_QUEUE_ALLOC: row(0x8e, "FAULT_QUEUE_ALLOC", FaultQueueAlloc, "out_fault_fd"),
  IOAS_MAP_FILE: row(0x8f, "IOAS_MAP_FILE", IoasMapFile, "iova"),
  VIOMMU_ALLOC: row(0x90, "VIOMMU_ALLOC", ViommuAlloc, "out_viommu_id"),
  VDEVICE_ALLOC: row(0x91, "VDEVICE_ALLOC", VdeviceAlloc, "virt_id"),
  IOAS_CHANGE_PROCESS: row(0x92, "IOAS_CHANGE_PROCESS", IoasChangeProcess, "reserved"),
  VEVENTQ_ALLOC: row(0x93, "VEVENTQ_ALLOC", VeventqAlloc, "out_veventq_fd"),
  HW_QUEUE_ALLOC: row(0x94, "HW_QUEUE_ALLOC", HwQueueAlloc, "length"),
};

export type CommandName = keyof typeof iommufdCommands;
/** The struct view of a command, by its name. */
export type Command<N extends CommandName> = CommandOf<(typeof iommufdCommands)[N]>;
