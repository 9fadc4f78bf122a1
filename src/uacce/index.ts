// Runs in a browser.
export { UacceDevice } from "./device.ts";
export { UacceDriver } from "./driver.ts";
export { uacceNodes, uaccePath } from "./sysfs.ts";
