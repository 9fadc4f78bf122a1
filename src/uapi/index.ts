// Runs in a browser.
export { copyIn, copyOut } from "./copy.ts";
export * from "./iommufd.ts";
export * from "./iommufd-test.ts";
export { decodeRequest, type FieldValue, type RequestPlace, requestName, requestSize } from "./names.ts";
export * from "./struct.ts";
export * from "./uacce.ts";
export * from "./vfio.ts";
export * from "./vfio-container.ts";
