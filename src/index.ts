// Runs in a browser.
/**
 * uiommu: the Linux IOMMU subsystem in user space.
 *
 * The rooms, lowest first; each is a namespace here. `machine.buildMachine(machine.presets.default)` gives a whole one;
 * what serves real processes is in `uiommu/host` and needs Node.
 */
export * as smmuv3Driver from "./drivers/smmuv3/index.ts";
export * as virtioIommuDriver from "./drivers/virtio-iommu/index.ts";
export * as devices from "./hardware/devices/index.ts";
export * as smmuv3 from "./hardware/smmuv3/index.ts";
export * as virtioIommu from "./hardware/virtio-iommu/index.ts";
export * as inspect from "./inspect/index.ts";
export * as iommu from "./iommu/index.ts";
export * as iommufd from "./iommufd/index.ts";
export * as machine from "./machine/index.ts";
export * as memory from "./memory/index.ts";
export * as pagetable from "./pagetable/index.ts";
export * as pci from "./pci/index.ts";
export * as runtime from "./runtime/index.ts";
export * as uacce from "./uacce/index.ts";
export * as uapi from "./uapi/index.ts";
export * as vfio from "./vfio/index.ts";
