// Runs in a browser.
/** What an ioctl is called and what its struct says, for people: traces and explanations. */
import { type CommandRow, iommufdCommands } from "./iommufd.ts";
import { iommuTestCommand, testOperations } from "./iommufd-test.ts";
import type { Fields, Struct } from "./struct.ts";
import { COPY_SUBMIT, COPY_WAIT, CopySubmit, CopyWait, uacceRequests } from "./uacce.ts";
import {
  AttachIommufdPt,
  BindIommufd,
  DetachIommufdPt,
  DeviceInfo,
  Feature,
  IoEventFd,
  IrqInfo,
  IrqSet,
  PciHotReset,
  PciHotResetInfo,
  RegionInfo,
  VFIO_DEVICE_ATTACH,
  VFIO_DEVICE_BIND,
  VFIO_DEVICE_DETACH,
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_IOEVENTFD,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_DEVICE_SET_IRQS,
  vfioDeviceRequests,
} from "./vfio.ts";
import { vfioContainerRequests, vfioGroupRequests } from "./vfio-container.ts";

/** A request by name, and its struct if it has one. */
interface KnownRequest {
  readonly name: string;
  readonly struct: Struct<Fields> | undefined;
}

const known = new Map<number, KnownRequest>();

for (const { number, name, struct } of Object.values(iommufdCommands) as unknown as CommandRow[]) {
  known.set(number, { name, struct });
}

known.set(iommuTestCommand.number, { name: iommuTestCommand.name, struct: iommuTestCommand.struct as Struct<Fields> });

const vfioStructs = new Map<number, unknown>([
  [VFIO_DEVICE_ATTACH, AttachIommufdPt],
  [VFIO_DEVICE_BIND, BindIommufd],
  [VFIO_DEVICE_DETACH, DetachIommufdPt],
  [VFIO_DEVICE_FEATURE, Feature],
  [VFIO_DEVICE_GET_INFO, DeviceInfo],
  [VFIO_DEVICE_GET_IRQ_INFO, IrqInfo],
  [VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, PciHotResetInfo],
  [VFIO_DEVICE_GET_REGION_INFO, RegionInfo],
  [VFIO_DEVICE_IOEVENTFD, IoEventFd],
  [VFIO_DEVICE_PCI_HOT_RESET, PciHotReset],
  [VFIO_DEVICE_SET_IRQS, IrqSet],
]);
for (const [number, name] of vfioDeviceRequests) {
  known.set(number, { name, struct: vfioStructs.get(number) as Struct<Fields> | undefined });
}

for (const [number, { name, struct }] of vfioGroupRequests) {
  known.set(number, { name, struct: struct as Struct<Fields> | undefined });
}

const uacceStructs = new Map<number, unknown>([
  [COPY_SUBMIT, CopySubmit],
  [COPY_WAIT, CopyWait],
]);
for (const [number, name] of uacceRequests) {
  known.set(number, { name, struct: uacceStructs.get(number) as Struct<Fields> | undefined });
}

/** On which kind of file a request was made: VFIO uses some numbers twice. */
export type RequestPlace = "device" | "container";

function lookUp(request: number, place: RequestPlace): KnownRequest | undefined {
  const onContainer = place === "container" ? vfioContainerRequests.get(request) : undefined;
  return (onContainer as KnownRequest | undefined) ?? known.get(request);
}

/**
 * The name of an ioctl number: `"IOAS_MAP"`, `"VFIO_DEVICE_GET_INFO"`; undefined if no iommufd or VFIO file has it. One
 * number has many operations: with the `bytes` of its struct the name says which, `"TEST_CMD MD_CHECK_MAP"`.
 */
export function requestName(
  request: number,
  place: RequestPlace = "device",
  bytes: Uint8Array = new Uint8Array(),
): string | undefined {
  const name = lookUp(request, place)?.name;
  const operation = operationOf(request, bytes);
  return operation === undefined ? name : `${name} ${operation.name}`;
}

/** Which operation of IOMMU_TEST_CMD a struct is of. */
function operationOf(request: number, bytes: Uint8Array): KnownRequest | undefined {
  if (request !== iommuTestCommand.number || bytes.length < iommuTestCommand.struct.endOf("op")) return undefined;
  const { op } = new iommuTestCommand.struct(padded(bytes, iommuTestCommand.struct.size));
  return testOperations.get(op) as KnownRequest | undefined;
}

/** The bytes up to `size`; those that are missing are zero. */
function padded(bytes: Uint8Array, size: number): Uint8Array {
  const whole = new Uint8Array(size);
  whole.set(bytes.subarray(0, size));
  return whole;
}

/** A field of a struct: a number, a 64-bit number, or raw bytes as hexadecimal digits. */
export type FieldValue = number | bigint | string;

/**
 * The named fields of a request's struct. Bytes that are missing count as zero, those behind the struct are not shown;
 * undefined where the number is unknown or takes no struct.
 */
export function decodeRequest(
  request: number,
  bytes: Uint8Array,
  place: RequestPlace = "device",
): Record<string, FieldValue> | undefined {
  const struct = operationOf(request, bytes)?.struct ?? lookUp(request, place)?.struct;
  if (struct === undefined) return undefined;
  const view = new struct(padded(bytes, struct.size));
  const decoded: Record<string, FieldValue> = {};
  for (const name of Object.keys(struct.fields)) {
    const value = view[name] as number | bigint | Uint8Array;
    decoded[name] = value instanceof Uint8Array ? hexadecimal(value) : value;
  }
  return decoded;
}

/** How many bytes {@link decodeRequest} can use; 0 where the request takes no struct. */
export function requestSize(request: number): number {
  return known.get(request)?.struct?.size ?? 0;
}

function hexadecimal(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
