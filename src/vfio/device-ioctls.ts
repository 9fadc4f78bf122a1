// Runs in a browser.
import type { Process } from "../memory/index.ts";
import { ENOTTY, refuse, type Task } from "../runtime/index.ts";
import {
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_IOEVENTFD,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
} from "../uapi/index.ts";
import type { VfioDevice } from "./device.ts";
import { type HotResetOwner, hotReset, hotResetInfo } from "./hot-reset.ts";
import type { OpenDevice } from "./open-device.ts";

/** What a device file answers however the device was opened; ENOTTY for all else (reference 5.4). */
export function* deviceIoctl(
  opened: OpenDevice,
  device: VfioDevice,
  owner: HotResetOwner,
  process: Process,
  request: number,
  argument: number,
): Task<number> {
  switch (request) {
    case VFIO_DEVICE_GET_INFO:
      opened.getInfo(process, argument);
      return 0;
    case VFIO_DEVICE_GET_REGION_INFO:
      opened.getRegionInfo(process, argument);
      return 0;
    case VFIO_DEVICE_GET_IRQ_INFO:
      opened.getIrqInfo(process, argument);
      return 0;
    case VFIO_DEVICE_SET_IRQS:
      return opened.setIrqs(process, argument);
    case VFIO_DEVICE_RESET:
      yield* opened.reset();
      return 0;
    case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
      hotResetInfo(process, argument, owner);
      return 0;
    case VFIO_DEVICE_PCI_HOT_RESET:
      yield* hotReset(process, argument, owner);
      return 0;
    case VFIO_DEVICE_IOEVENTFD:
      opened.setIoEventFd(process, argument);
      return 0;
    case VFIO_DEVICE_FEATURE:
      opened.feature(device, process, argument);
      return 0;
    default:
      return refuse(ENOTTY, () => `0x${request.toString(16)} is no ioctl of a VFIO device`);
  }
}
