// Runs in a browser.
import { checkValue, type Problem, type Report } from "./check.ts";
import { MachineError } from "./error.ts";
import type { DeviceInput } from "./places.ts";
import { resolveDevices } from "./resolve-devices.ts";
import { machineSchema } from "./schema.ts";
import {
  type DeviceDescription,
  type FunctionDescription,
  type IommuDescription,
  isBridgeModel,
  type PciAddress,
  pciAddress,
} from "./types.ts";

export type { DeviceInput };

/** What a device is that is plugged in beside the present ones, one for each function. Throws MachineError. */
export function describePlugged(
  input: DeviceInput,
  present: readonly FunctionDescription[],
  iommus: readonly IommuDescription[],
): DeviceDescription[] {
  const inputs = [...present.map((one) => inputOf(one, present)), input];
  const problems: Problem[] = checkValue(machineSchema.properties.devices.items, input, ["devices", present.length]);
  if (problems.length === 0 && isBridgeModel(input.model)) {
    problems.push({
      path: [],
      at: "value",
      message: `a ${input.model} cannot be plugged in: no bus numbers are kept free`,
    });
  }
  if (problems.length > 0) throw plugError(problems, present.length);
  const report: Report = (path, message, at = "value") => problems.push({ path, at, message });
  const { devices } = resolveDevices(inputs, iommus, report, (index) => {
    const one = present[index];
    return one !== undefined && "buses" in one ? one.buses : undefined;
  });
  if (problems.length > 0) throw plugError(problems, present.length);
  const taken = new Set(present.map(({ address }) => pciAddress(address)));
  return devices.filter(({ address }) => !taken.has(pciAddress(address)));
}

function plugError(problems: readonly Problem[], index: number): MachineError {
  const name = (text: string): string => text.replaceAll(`devices[${index}]`, "the device");
  return new MachineError(
    "plug",
    problems.map(({ message }) => ({ place: undefined, message: name(message) })),
  );
}

/** What a file would say of a function, as far as it concerns who is plugged in beside it. */
function inputOf(one: FunctionDescription, present: readonly FunctionDescription[]): DeviceInput {
  const behind = one.behind && nameAt(one.behind, present);
  return {
    model: one.model,
    address: pciAddress(one.address),
    ...("buses" in one ? { name: one.name } : { driver: "none", ...virtualInput(one) }),
    ...(behind === undefined ? { iommu: one.iommu ?? "none" } : { behind }),
  };
}

function virtualInput({ virtualFunctions: virtual }: DeviceDescription): Pick<DeviceInput, "virtualFunctions"> {
  if (virtual === undefined) return {};
  return { virtualFunctions: { total: virtual.total, offset: virtual.offset, stride: virtual.stride } };
}

function nameAt(address: PciAddress, present: readonly FunctionDescription[]): string | undefined {
  const at = pciAddress(address);
  const bridge = present.find((one) => pciAddress(one.address) === at);
  return bridge !== undefined && "name" in bridge ? bridge.name : undefined;
}
