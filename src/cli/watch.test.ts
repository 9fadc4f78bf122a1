import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import type { ClientCall } from "../inspect/index.ts";
import { Watch } from "./watch.ts";

const nothing = new Uint8Array(0);
const call: ClientCall = {
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

test.skipIf(!existsSync("/dev/full"))("a trace that finds no room is told once, and stops nobody", () => {
  let said = "";
  const watch = new Watch(
    { out: () => undefined, err: (text) => void (said += text), colours: false },
    { trace: "/dev/full" },
  );
  for (let i = 0; i < 2000; i++) watch.call(call);
  watch.finish();
  expect(said).toBe("uiommu: the trace /dev/full is cut off: no space left on device\n");
});
