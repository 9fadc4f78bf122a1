// Runs in a browser.
import { IommufdContext } from "../iommufd/index.ts";
import { ownFile, type Process } from "../memory/index.ts";
import { EBADFD, refuse } from "../runtime/index.ts";

/**
 * The iommufd that a descriptor of the client is. EBADF if it is not open, then what `check` refuses, then EBADFD if it is
 * something else.
 */
export function iommufdOf(process: Process, fd: number, check: () => void = () => undefined): IommufdContext {
  const file = ownFile(process, fd);
  check();
  if (file instanceof IommufdContext) return file;
  return refuse(EBADFD, () => `file descriptor ${fd} is not an iommufd`);
}
