// Runs in a browser.
/** A call for tests: that opened /dev/iommu. */
import type { ClientCall } from "./index.ts";

const nothing = new Uint8Array(0);

export const openCall: ClientCall = {
  process: { pid: 71 },
  kind: "open",
  file: "/dev/iommu",
  request: 0,
  before: nothing,
  after: nothing,
  result: 0,
  refusal: undefined,
  start: 0,
  duration: 0,
};
