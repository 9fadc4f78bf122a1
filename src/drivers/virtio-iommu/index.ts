// Runs in a browser.
export { VirtioIommuDriver } from "./driver.ts";
export { explainFault, type FaultRecord } from "./fault-record.ts";
export type { VirtioIommuInstance, VirtioIommuOptions } from "./instance.ts";
