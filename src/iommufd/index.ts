// Runs in a browser.
export { Access, type AccessUser } from "./access.ts";
export type { Call } from "./call.ts";
export { compatIoas, ensureCompatIoas } from "./container.ts";
export { IommufdContext, type IommufdOptions } from "./context.ts";
export { type DeviceUser, devicesUsers, IommufdDevice } from "./device.ts";
export { type ExtensionCommand, extensionCommand, type IommufdExtension } from "./extension.ts";
export { Hwpt, PagingHwpt } from "./hwpt.ts";
export { Ioas } from "./ioas.ts";
export { NestedHwpt } from "./nested-hwpt.ts";
export { IommufdObject, type ObjectKind, type ObjectTable } from "./objects.ts";
