// Runs in a browser.
export { VfioDevice } from "./device.ts";
export { DeviceFile } from "./device-file.ts";
export { VfioPciDriver } from "./driver.ts";
export { VfioGroup } from "./group.ts";
export { vfioNodes } from "./sysfs.ts";
