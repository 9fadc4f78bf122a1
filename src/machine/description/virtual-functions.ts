// Runs in a browser.
/** The virtual functions that an entry under `devices` describes. */
import { nameOf, type Path, type Report } from "./check.ts";
import type { DeviceInput } from "./places.ts";
import { whyNotVfio } from "./resolve-devices.ts";
import type { DeviceDescription, IommuDescription, VirtualFunctionsDescription } from "./types.ts";

/** Of the model edu. */
const EDU = 0x11e8;

/** Where an entry's virtual functions are, as far as the entry says: each function beside its neighbours' by default. */
export function virtualNumbers({
  functions = 1,
  virtualFunctions,
}: DeviceInput): Pick<VirtualFunctionsDescription, "total" | "offset" | "stride"> {
  const { total = 0, offset = functions, stride = functions } = virtualFunctions ?? {};
  return { total, offset, stride };
}

/** Each function of the entry has as many; its own driver is `physical`. Where they sit was looked at before (places.ts). */
export function resolveVirtualFunctions(
  input: DeviceInput,
  model: "edu" | "copy-engine",
  physical: DeviceDescription["driver"],
  path: Path,
  iommu: IommuDescription | undefined,
  report: Report,
): VirtualFunctionsDescription | undefined {
  const { virtualFunctions: given } = input;
  if (given === undefined) return undefined;
  const where = [...path, "virtualFunctions"];
  const { enabled = 0, device = EDU } = given;
  const { total } = given;
  if (model !== "edu") {
    report(where, `${nameOf(where)}: a ${model} has none; leave it out, or edu is right`, "key");
  }
  if (enabled > total) {
    report([...where, "enabled"], `${nameOf(where)} has ${enabled} enabled of ${total}; at most ${total} is right`);
  }
  if (enabled > 0 && physical === undefined) {
    const right = "a driver turns them on: vfio-pci or edu is right, or no enabled";
    report([...where, "enabled"], `${nameOf(path)} has virtual functions enabled, but the driver none; ${right}`);
  }
  const { driver = enabled > 0 && whyNotVfio(iommu) === undefined ? "vfio-pci" : "none" } = given;
  if (physical === "vfio-pci" && enabled > 0 && driver !== "vfio-pci") {
    const right = "those of a function with vfio-pci get the same; leave it out";
    report([...where, "driver"], `${nameOf([...where, "driver"])} is ${driver}, but ${right}`);
  }
  const why = driver === "vfio-pci" ? whyNotVfio(iommu) : undefined;
  if (why !== undefined) {
    report([...where, "driver"], `${nameOf(where)}: vfio-pci cannot be bound, since ${why}; none is right`);
  }
  return { ...virtualNumbers(input), enabled, device, driver: driver === "none" ? undefined : driver };
}
