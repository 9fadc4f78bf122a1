// Runs in a browser.
/**
 * IOMMU_TEST_CMD: how tests reach what no client may, the mock IOMMU and iommufd's insides (reference 4). A context has it
 * where its machine has the mock bus.
 *
 * Always true: nothing here knows more of iommufd than its face; a device made here is bound, attached and given back as
 * VFIO does it, an access pins and reads as a mediated device's driver does it.
 */
import type { MockBus } from "../drivers/mock/index.ts";
import { extensionCommand, Ioas, type IommufdExtension } from "../iommufd/index.ts";
import { EINVAL, EOPNOTSUPP, EOVERFLOW, refuse } from "../runtime/index.ts";
import * as uapi from "../uapi/index.ts";
import { accessPages, accessReplaceIoas, accessRw, createAccess, destroyAccessPages } from "./access-commands.ts";
import { type Operation, operation } from "./call.ts";
import { checkIotlb, checkMap, checkRefs, devCheckCache, dirty } from "./checks.ts";
import { dmabufGet, dmabufRevoke } from "./dma-buf.ts";
import {
  mockDomain,
  mockDomainReplace,
  pasidAttach,
  pasidCheckHwpt,
  pasidDetach,
  pasidReplace,
} from "./mock-devices.ts";
import { prepareCopy } from "./numbered-areas.ts";
import { triggerIopf, triggerVevent } from "./triggers.ts";

const MAX = 2n ** 64n - 1n;
/** Bytes of Linux's smallest batch of page numbers. */
const LEAST_MEMORY = 12;

/** A range that nobody may map any more, as long as the IOAS lives. */
const addReserved: Operation = operation(uapi.TestAddReserved, ({ call, test }) => {
  const { start, length } = test;
  if (length === 0n) refuse(EINVAL, () => "length is 0");
  const last = start + length - 1n;
  if (last > MAX) refuse(EOVERFLOW, () => "start + length exceeds 64 bits");
  call.context.objects.find(test.id, Ioas).space.reserve(start, last, undefined);
  return undefined;
});

/** How much memory Linux uses to collect page numbers; here they are runs, and need no batches. */
const setTempMemoryLimit: Operation = operation(uapi.TestMemoryLimit, ({ test: { limit } }) => {
  if (limit < LEAST_MEMORY) refuse(EINVAL, () => `${limit} bytes hold no batch; ${LEAST_MEMORY} do`);
  return undefined;
});

/** Adds IOMMU_TEST_CMD to contexts. Its devices come and go on `bus`. */
export function testInterface(bus: MockBus): IommufdExtension {
  const operations = new Map<number, Operation>([
    [uapi.TEST_ADD_RESERVED, addReserved],
    [uapi.TEST_MOCK_DOMAIN, mockDomain(bus)],
    [uapi.TEST_MD_CHECK_MAP, checkMap],
    [uapi.TEST_MD_CHECK_REFS, checkRefs],
    [uapi.TEST_CREATE_ACCESS, createAccess],
    [uapi.TEST_DESTROY_ACCESS_PAGES, destroyAccessPages],
    [uapi.TEST_ACCESS_PAGES, accessPages],
    [uapi.TEST_ACCESS_RW, accessRw],
    [uapi.TEST_SET_TEMP_MEMORY_LIMIT, setTempMemoryLimit],
    [uapi.TEST_MOCK_DOMAIN_REPLACE, mockDomainReplace],
    [uapi.TEST_ACCESS_REPLACE_IOAS, accessReplaceIoas],
    [uapi.TEST_MOCK_DOMAIN_FLAGS, mockDomain(bus)],
    [uapi.TEST_DIRTY, dirty],
    [uapi.TEST_MD_CHECK_IOTLB, checkIotlb],
    [uapi.TEST_TRIGGER_IOPF, triggerIopf],
    [uapi.TEST_DEV_CHECK_CACHE, devCheckCache],
    [uapi.TEST_TRIGGER_VEVENT, triggerVevent],
    [uapi.TEST_PASID_ATTACH, pasidAttach],
    [uapi.TEST_PASID_REPLACE, pasidReplace],
    [uapi.TEST_PASID_DETACH, pasidDetach],
    [uapi.TEST_PASID_CHECK_HWPT, pasidCheckHwpt],
    [uapi.TEST_DMABUF_GET, dmabufGet],
    [uapi.TEST_DMABUF_REVOKE, dmabufRevoke],
  ]);
  const execute: Operation = (call) => {
    const { op } = call.command;
    const run = operations.get(op) ?? refuse(EOPNOTSUPP, () => `there is no test operation ${op}`);
    return run(call);
  };
  return { commands: [extensionCommand(uapi.iommuTestCommand, execute)], prepareCopy };
}
