// Runs in a browser.
export { PasidTable, type PasidTableChange } from "./table.ts";
export type { Context, PasidTableDevice, PasidTableUser, PasidTableVendor, VendorTable } from "./vendor.ts";
export { ArmContext, type ArmPageTable, type AsidHolder } from "./vendors/arm/context.ts";
export { contextDescriptorKind } from "./vendors/arm/context-descriptor.ts";
export { type ArmContextTable, LOG2_LEAF_ENTRIES_MAX } from "./vendors/arm/context-table.ts";
export { ArmContexts, type ArmContextsOptions, type Share, type SharedMemory } from "./vendors/arm/contexts.ts";
export * from "./vendors/arm/entry-writer.ts";
export * from "./vendors/arm/fields.ts";
