// Runs in a browser.
export * from "./description.ts";
export { LibraryClient } from "./client.ts";
export { buildMachine, Machine, type MachineIommu, type MachineOptions } from "./machine.ts";
