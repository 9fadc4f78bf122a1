// Runs in a browser.
export { IommuCore, type IommuCoreOptions } from "./core.ts";
export { Cpu, type CpuOptions } from "./cpu.ts";
export type { DefaultDomainType } from "./default-domain.ts";
export {
  Device,
  type DeviceIommu,
  type DeviceOptions,
  type FirmwareSpec,
  PASID_CONTROL_EXECUTE,
  PASID_CONTROL_PRIVILEGED,
} from "./device.ts";
export { mapDma, unmapDma } from "./dma.ts";
export * from "./driver.ts";
export { addDevice, createGroup, removeDevice } from "./external.ts";
export * from "./faults.ts";
export { setFirmware } from "./firmware.ts";
export { emptyGather, extendGather, liesApart, newGather, type UnmapGather } from "./gather.ts";
export { Group, groupOf, NO_PASID, unuseDefaultDomain, useDefaultDomain } from "./group.ts";
export { groupReasons, kindOf, shortName } from "./group-reasons.ts";
export { type Gap, type Grouping, pciDeviceGroup, singleDeviceGroup } from "./grouping.ts";
export { Mm, type MmInvalidation, type MmUser } from "./mm.ts";
export * from "./nesting.ts";
export { attachPasid, detachPasid, replacePasid } from "./pasid.ts";
export { reservedRegionsOf } from "./reserved.ts";
export { finishReset, prepareReset } from "./reset-window.ts";
export { Sva, type SvaHandle } from "./sva.ts";
export { groupNodes } from "./sysfs.ts";
export { type Aperture, TableDomain } from "./table-domain.ts";
