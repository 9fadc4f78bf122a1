// Runs in a browser.
export { IommuCore, type IommuCoreOptions } from "./core.ts";
export type { DefaultDomainType } from "./default-domain.ts";
export { Device, type DeviceIommu, type FirmwareSpec } from "./device.ts";
export * from "./driver.ts";
export { Group, groupOf, NO_PASID } from "./group.ts";
export { groupReasons, kindOf, shortName } from "./group-reasons.ts";
export { type Gap, type Grouping, pciDeviceGroup, singleDeviceGroup } from "./grouping.ts";
export { attachPasid, detachPasid, replacePasid } from "./pasid.ts";
export { groupNodes } from "./sysfs.ts";
