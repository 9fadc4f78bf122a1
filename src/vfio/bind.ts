// Runs in a browser.
import type { Process } from "../memory/index.ts";
import { EINVAL, refuse } from "../runtime/index.ts";
import { BIND_FLAG_TOKEN, BindIommufd, copyIn, type StructView, VFIO_DEVICE_BIND } from "../uapi/index.ts";

const row = {
  name: "VFIO_DEVICE_BIND",
  number: VFIO_DEVICE_BIND,
  minimum: BindIommufd.endOf("out_devid"),
} as const;

export type BindRequest = StructView<typeof BindIommufd.fields>;

/** The struct of a BIND_IOMMUFD, as far as it can be checked by itself (reference 5.2). */
export function readBind(process: Process, argument: number): BindRequest {
  const request = new BindIommufd();
  copyIn(process.memory, argument, VFIO_DEVICE_BIND, row, request.$bytes);
  const { iommufd, flags } = request;
  if (iommufd < 0) refuse(EINVAL, () => `iommufd is ${iommufd}, no file descriptor`);
  if (flags & ~BIND_FLAG_TOKEN) refuse(EINVAL, () => `flags 0x${flags.toString(16)} has unknown bits`);
  return request;
}
