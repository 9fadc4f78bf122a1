// Runs in a browser.

export { LibraryClient } from "./client.ts";
export * from "./description.ts";
export type { MachineFault, MachineIommu } from "./iommus.ts";
export { buildMachine, Machine, type MachineOptions } from "./machine.ts";
export { describeMachine, summarizeMachine } from "./picture.ts";
export { PlatformDevice } from "./platform.ts";
