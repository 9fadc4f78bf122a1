// Runs in a browser.
export { areDmaAliases, type DmaAlias, dmaAliases } from "./aliases.ts";
export * from "./ats.ts";
export type { Bar, BarDescription } from "./bar.ts";
export { PciBus } from "./bus.ts";
export * from "./capabilities.ts";
export { ConfigSpace, type ConfigWidth } from "./config-space.ts";
export { PciDevice } from "./device.ts";
export type { DmaPort, DmaTarget, InterruptController, Message, RequesterId } from "./dma.ts";
export { type KernelDma, type PciDriver, PciDrivers } from "./drivers.ts";
export { PciFunction, type PciIdentity, type PciPlace } from "./function.ts";
export { PciHost, type PciHostOptions, type Window } from "./host.ts";
export { type FunctionKeeper, HotPlug } from "./hot-plug.ts";
export * from "./ids.ts";
export { type AccessControls, accessControls, ISOLATING_CONTROLS, type Isolation, isolationOf } from "./isolation.ts";
export { MsiController } from "./msi-controller.ts";
export { MsixTable } from "./msix-table.ts";
export { PageRequester } from "./page-requester.ts";
export { RecordedFunction, withIsolation, withOfferedIsolation } from "./recorded.ts";
export {
  type ResetMethod,
  type ResetWatch,
  resetFunction,
  resetMethods,
  resetTogether,
  restoreState,
  type SavedState,
  saveState,
  tryResetFunction,
} from "./reset.ts";
export { idsOf, physicalFunctionOf, type VirtualFunctions } from "./sr-iov.ts";
export { parseBoolean } from "./sr-iov-sysfs.ts";
export { devicePath, pciNodes } from "./sysfs.ts";
export { relative } from "./sysfs-files.ts";
export { TranslationCache } from "./translation-cache.ts";
export { enableVectors, type Vectors, vectorCapacity } from "./vectors.ts";
