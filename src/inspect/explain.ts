// Runs in a browser.
import { errnoName } from "../runtime/index.ts";
import { requestName } from "../uapi/index.ts";
import { type ClientCall, placeOf } from "./call.ts";

/**
 * Why a call was refused, in one line: `IOAS_MAP: EEXIST: 0x101000-0x101fff overlaps the area … of IOAS 2`.
 * Undefined for a call that succeeded.
 */
export function explainCall(call: ClientCall): string | undefined {
  if (!call.refusal) return undefined;
  return oneLine(`${callName(call)}: ${errnoName(call.refusal.errno)}: ${call.refusal.reason}`);
}

/** What people call it: `IOAS_MAP`, `VFIO_DEVICE_ATTACH`; `ioctl 0x3b7f` if nobody knows it; `read of /dev/iommu`. */
export function callName(call: ClientCall): string {
  const { kind, request, file } = call;
  if (kind !== "ioctl") return `${kind} of ${file}`;
  return requestName(request, placeOf(call), call.before) ?? `ioctl 0x${request.toString(16)} of ${file}`;
}

/** `DMA fault: …`, from the explanation that the IOMMU's model gives. */
export function explainFault(text: string): string {
  return oneLine(`DMA fault: ${text}`);
}

/** A label or a reason may quote what a client chose: no line of ours is broken, or coloured, by it. */
function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what must not get through
  return text.replace(/[\u0000-\u001f\u007f]+/g, " ");
}
