// Runs in a browser.
/** What a test lets a mock device do: ask for a page, tell the guest an event (reference 4.5, 4.6). */
import { reportMockEvent } from "../drivers/mock/index.ts";
import { NO_PASID, REQUEST_LAST_PAGE, REQUEST_PASID_VALID, reportPageRequest } from "../iommu/index.ts";
import { IommufdDevice } from "../iommufd/index.ts";
import { Refusal } from "../runtime/index.ts";
import { TestTriggerIopf, TestTriggerVevent } from "../uapi/index.ts";
import { type Operation, operation } from "./call.ts";
import { findMockDevice } from "./mock-devices.ts";

/** One request, a group of its own. Whether anybody handles it is not told. */
export const triggerIopf: Operation = operation(TestTriggerIopf, function* ({ call, test }) {
  const { objects } = call.context;
  const bound = objects.use(test.dev_id, IommufdDevice);
  const { pasid, grpid: group, perm: rights, addr: address } = test;
  const flags = REQUEST_LAST_PAGE | (pasid === NO_PASID ? 0 : REQUEST_PASID_VALID);
  try {
    yield* reportPageRequest(bound.device, { flags, pasid, group, rights, address });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
  } finally {
    objects.release(bound);
  }
});

export const triggerVevent: Operation = operation(TestTriggerVevent, ({ call, test }) => {
  reportMockEvent(findMockDevice(call.context, test.dev_id));
  return undefined;
});
