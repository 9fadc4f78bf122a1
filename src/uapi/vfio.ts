// Runs in a browser.
/**
 * The ioctls of a VFIO device file: numbers, structs, flags (reference 5.2 to 5.7). Field names are those of the C
 * structs; the numbers are `_IO(';', 100 + n)`.
 */
import { defineStruct, s32, u8, u16, u32, u64 } from "./struct.ts";

const BASE = 0x3b64;
export const VFIO_DEVICE_GET_INFO: number = BASE + 7;
export const VFIO_DEVICE_GET_REGION_INFO: number = BASE + 8;
export const VFIO_DEVICE_GET_IRQ_INFO: number = BASE + 9;
export const VFIO_DEVICE_SET_IRQS: number = BASE + 10;
export const VFIO_DEVICE_RESET: number = BASE + 11;
export const VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: number = BASE + 12;
export const VFIO_DEVICE_PCI_HOT_RESET: number = BASE + 13;
export const VFIO_DEVICE_IOEVENTFD: number = BASE + 16;
export const VFIO_DEVICE_FEATURE: number = BASE + 17;
export const VFIO_DEVICE_BIND: number = BASE + 18;
export const VFIO_DEVICE_ATTACH: number = BASE + 19;
export const VFIO_DEVICE_DETACH: number = BASE + 20;

/** What people call the requests of a device file, by number. The same numbers mean other things on other files. */
export const vfioDeviceRequests: ReadonlyMap<number, string> = new Map(
  Object.entries({
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_GET_REGION_INFO,
    VFIO_DEVICE_GET_IRQ_INFO,
    VFIO_DEVICE_SET_IRQS,
    VFIO_DEVICE_RESET,
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
    VFIO_DEVICE_PCI_HOT_RESET,
    VFIO_DEVICE_IOEVENTFD,
    VFIO_DEVICE_FEATURE,
    VFIO_DEVICE_BIND,
    VFIO_DEVICE_ATTACH,
    VFIO_DEVICE_DETACH,
  }).map(([name, number]) => [number, name]),
);

export const BindIommufd = defineStruct("vfio_device_bind_iommufd", {
  argsz: u32,
  flags: u32,
  iommufd: s32,
  out_devid: u32,
  token_uuid_ptr: u64,
});
export const BIND_FLAG_TOKEN = 1;

export const AttachIommufdPt = defineStruct("vfio_device_attach_iommufd_pt", {
  argsz: u32,
  flags: u32,
  pt_id: u32,
  pasid: u32,
});
export const DetachIommufdPt = defineStruct("vfio_device_detach_iommufd_pt", { argsz: u32, flags: u32, pasid: u32 });
/** For attach and detach: `pasid` is meant, not the device's own traffic. */
export const ATTACH_FLAG_PASID = 1;

export const DeviceInfo = defineStruct("vfio_device_info", {
  argsz: u32,
  flags: u32,
  num_regions: u32,
  num_irqs: u32,
  cap_offset: u32,
  pad: u32,
});
export const DEVICE_FLAG_RESET = 1;
export const DEVICE_FLAG_PCI = 2;

export const RegionInfo = defineStruct("vfio_region_info", {
  argsz: u32,
  flags: u32,
  index: u32,
  cap_offset: u32,
  size: u64,
  offset: u64,
});
export const REGION_FLAG_READ = 1;
export const REGION_FLAG_WRITE = 2;
export const REGION_ROM = 6;
export const REGION_CONFIG = 7;
export const REGION_VGA = 8;
export const REGION_COUNT = 9;
/** A region's place in the file is its index times this. */
export const REGION_STRIDE: number = 2 ** 40;

export const IrqInfo = defineStruct("vfio_irq_info", { argsz: u32, flags: u32, index: u32, count: u32 });
export const IRQ_FLAG_EVENTFD = 1;
export const IRQ_FLAG_MASKABLE = 2;
export const IRQ_FLAG_AUTOMASKED = 4;
export const IRQ_FLAG_NORESIZE = 8;
export const IRQ_INTX = 0;
export const IRQ_MSI = 1;
export const IRQ_MSIX = 2;
export const IRQ_ERR = 3;
export const IRQ_REQ = 4;
export const IRQ_COUNT = 5;

/** Followed by `count` values of the data type that the flags name. */
export const IrqSet = defineStruct("vfio_irq_set", { argsz: u32, flags: u32, index: u32, start: u32, count: u32 });
export const IRQ_SET_DATA_NONE = 1;
export const IRQ_SET_DATA_BOOL = 2;
export const IRQ_SET_DATA_EVENTFD = 4;
export const IRQ_SET_ACTION_MASK = 8;
export const IRQ_SET_ACTION_UNMASK = 16;
export const IRQ_SET_ACTION_TRIGGER = 32;

/** Followed by `count` {@link PciDependentDevice}. */
export const PciHotResetInfo = defineStruct("vfio_pci_hot_reset_info", { argsz: u32, flags: u32, count: u32 });
export const PciDependentDevice = defineStruct("vfio_pci_dependent_device", {
  devid: u32,
  segment: u16,
  bus: u8,
  devfn: u8,
});
export const HOT_RESET_FLAG_DEV_ID = 1;
export const HOT_RESET_FLAG_DEV_ID_OWNED = 2;
export const DEVID_OWNED = 0;
export const DEVID_NOT_OWNED = 0xffffffff;

/** Followed by `count` file descriptors of groups. */
export const PciHotReset = defineStruct("vfio_pci_hot_reset", { argsz: u32, flags: u32, count: u32 });

export const IoEventFd = defineStruct("vfio_device_ioeventfd", {
  argsz: u32,
  flags: u32,
  offset: u64,
  data: u64,
  fd: s32,
  reserved: u32,
});

/** Followed by the feature's own data. */
export const Feature = defineStruct("vfio_device_feature", { argsz: u32, flags: u32 });
export const FEATURE_MASK = 0xffff;
export const FEATURE_GET = 0x10000;
export const FEATURE_SET = 0x20000;
export const FEATURE_PROBE = 0x40000;
export const FEATURE_PCI_VF_TOKEN = 0;
export const FEATURE_LOW_POWER_ENTRY = 3;
export const FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP = 4;
export const FEATURE_LOW_POWER_EXIT = 5;
export const FEATURE_MIG_PRECOPY_INFO_V2 = 12;
export const LowPowerEntryWithWakeup = defineStruct("vfio_device_low_power_entry_with_wakeup", {
  wakeup_eventfd: s32,
  reserved: u32,
});
