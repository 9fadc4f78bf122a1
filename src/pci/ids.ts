// Runs in a browser.
/** Numbers of the PCI Local Bus and PCI Express specifications: registers of the header, capability ids, bits. */

export const CONFIG_SPACE_SIZE = 256;
export const EXTENDED_CONFIG_SPACE_SIZE = 4096;
/** Where the standard header ends and capabilities may begin. */
export const HEADER_SIZE = 64;
export const EXTENDED_CAPABILITIES = 0x100;

export const VENDOR_ID = 0x00;
export const DEVICE_ID = 0x02;
export const COMMAND = 0x04;
export const STATUS = 0x06;
export const REVISION_ID = 0x08;
export const CLASS_CODE = 0x09;
export const CACHE_LINE_SIZE = 0x0c;
export const LATENCY_TIMER = 0x0d;
export const HEADER_TYPE = 0x0e;
export const BIST = 0x0f;
export const BASE_ADDRESS_0 = 0x10;
/** Of a type 1 header: the bus that the bridge is on, the one behind it, the last one below it. */
export const PRIMARY_BUS = 0x18;
export const SECONDARY_BUS = 0x19;
export const SUBORDINATE_BUS = 0x1a;
/** Of a type 1 header: each a base and, behind it, the limit of what the bridge passes down. */
export const IO_BASE = 0x1c;
export const MEMORY_BASE = 0x20;
export const PREFETCHABLE_BASE = 0x24;
export const PREFETCHABLE_BASE_UPPER = 0x28;
export const PREFETCHABLE_LIMIT_UPPER = 0x2c;
export const BRIDGE_CONTROL = 0x3e;
export const SUBSYSTEM_VENDOR_ID = 0x2c;
export const SUBSYSTEM_ID = 0x2e;
export const ROM_ADDRESS = 0x30;
export const CAPABILITY_LIST = 0x34;
/** Where a CardBus bridge has its list of capabilities. */
export const CARDBUS_CAPABILITY_LIST = 0x14;
export const INTERRUPT_LINE = 0x3c;
export const INTERRUPT_PIN = 0x3d;

export const COMMAND_IO = 0x1;
export const COMMAND_MEMORY = 0x2;
export const COMMAND_MASTER = 0x4;
export const COMMAND_SERR = 0x100;
export const COMMAND_INTX_DISABLE = 0x400;
export const STATUS_INTERRUPT = 0x08;
export const STATUS_CAPABILITY_LIST = 0x10;
export const HEADER_TYPE_MULTIFUNCTION = 0x80;
/** The layout of the header: 0 for a function, 1 for a PCI bridge, 2 for a CardBus bridge. */
export const HEADER_TYPE_LAYOUT = 0x7f;
export const HEADER_TYPE_BRIDGE = 1;
export const HEADER_TYPE_CARDBUS = 2;

export const CAPABILITY_PM = 0x01;
export const CAPABILITY_VPD = 0x03;
export const CAPABILITY_MSI = 0x05;
export const CAPABILITY_VENDOR = 0x09;
export const CAPABILITY_EXPRESS = 0x10;
export const CAPABILITY_MSIX = 0x11;
export const CAPABILITY_AF = 0x13;

export const EXTENDED_AER = 0x01;
export const EXTENDED_ACS = 0x0d;
export const EXTENDED_ARI = 0x0e;
export const EXTENDED_ATS = 0x0f;
export const EXTENDED_SR_IOV = 0x10;
export const EXTENDED_PRI = 0x13;
export const EXTENDED_PASID = 0x1b;
