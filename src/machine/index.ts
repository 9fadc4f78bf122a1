// Runs in a browser.

export { LibraryClient } from "./client.ts";
export * from "./description.ts";
export { buildMachine, Machine, type MachineIommu, type MachineOptions } from "./machine.ts";
