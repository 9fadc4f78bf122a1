// Runs in a browser.
export { IommufdContext, type IommufdOptions } from "./context.ts";
export { type DeviceUser, devicesUsers, IommufdDevice } from "./device.ts";
export { Hwpt, PagingHwpt } from "./hwpt.ts";
export { Ioas } from "./ioas.ts";
export type { ObjectKind } from "./objects.ts";
