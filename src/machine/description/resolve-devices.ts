// Runs in a browser.
/** What the entries under `devices` describe: where each sits (places.ts), behind which IOMMU, with which capabilities. */
import { nameOf, type Path, type Report } from "./check.ts";
import { nearest } from "./nearest.ts";
import { type DeviceInput, type Placed, placeDevices } from "./places.ts";
import {
  type BridgeDescription,
  type BridgeModel,
  type BusRange,
  type CapabilityDescription,
  type CopyEngineDescription,
  type DeviceDescription,
  type EduDescription,
  type IommuDescription,
  isBridgeModel,
  type MachineDescription,
  type RegionDescription,
} from "./types.ts";
import { bytes, hex, PHYSICAL_END } from "./units.ts";
import { resolveVirtualFunctions } from "./virtual-functions.ts";

type EndpointModel = Exclude<DeviceInput["model"], BridgeModel>;

/** Bridges and devices, each in the order in which an operating system finds them. `given`: see {@link placeDevices}. */
export function resolveDevices(
  inputs: readonly DeviceInput[],
  iommus: readonly IommuDescription[],
  report: Report,
  given?: (index: number) => BusRange | undefined,
): Pick<MachineDescription, "bridges" | "devices"> {
  const bridges: BridgeDescription[] = [];
  const devices: DeviceDescription[] = [];
  const iommuOf = new Map<number, IommuDescription | undefined>();
  for (const placed of placeDevices(inputs, report, given)) {
    const { index, input, behind } = placed;
    const path = ["devices", index];
    // What is behind a bridge was found after it.
    const iommu = behind === undefined ? resolveIommu(input, path, iommus, report) : iommuOf.get(behind.index);
    if (behind !== undefined && input.iommu !== undefined) {
      const right = `what is behind a bridge is behind the bridge's IOMMU; leave it out`;
      report([...path, "iommu"], `${nameOf([...path, "iommu"])}: ${right}`, "key");
    }
    iommuOf.set(index, iommu);
    if (isBridgeModel(input.model)) bridges.push(resolveBridge(placed, input.model, iommu, report));
    else devices.push(...resolveFunctions(placed, input.model, iommu, report));
  }
  const virtual = devices.reduce((sum, { virtualFunctions }) => sum + (virtualFunctions?.total ?? 0), 0);
  const wanted = (devices.length + virtual) * LARGEST_BAR + bridges.length * LEAST_WINDOW;
  if (wanted > REGISTER_SPACE) {
    const also = virtual === 0 ? "" : `, ${virtual} virtual ones`;
    const have = `${devices.length} device functions${also} and ${bridges.length} bridges`;
    report(
      ["devices"],
      `there are ${have}; their registers have ${REGISTER_SPACE} MiB, 1 for a function and 2 for a bridge`,
    );
  }
  return { bridges, devices };
}

/** In MiB: of a device model, of a bridge, and what of the host's window is sure to be of use. */
const LARGEST_BAR = 1;
const LEAST_WINDOW = 2;
const REGISTER_SPACE = 700;

/** Keys that mean nothing for a bridge. */
const NOT_OF_BRIDGES = [
  "functions",
  "driver",
  "untrusted",
  "defaultDomain",
  "reserved",
  "canStall",
  "virtualFunctions",
  "options",
] as const;

function resolveBridge(
  { index, input, behind, multifunction, address, buses }: Placed,
  model: BridgeModel,
  iommu: IommuDescription | undefined,
  report: Report,
): BridgeDescription {
  const path = ["devices", index];
  for (const key of NOT_OF_BRIDGES) {
    if (input[key] !== undefined) {
      report([...path, key], `${nameOf([...path, key])}: a ${model} is a bridge and has none; leave it out`, "key");
    }
  }
  const canIsolate = model !== "pcie-to-pci-bridge" && model !== "pci-bridge";
  for (const key of Object.keys(input.capabilities ?? {})) {
    if (key === "acs" && canIsolate) continue;
    const where = [...path, "capabilities", key];
    const right = canIsolate ? "of a port, only acs can be chosen" : `a ${model} has no choice of capabilities`;
    report(where, `${nameOf(where)}: ${right}; leave it out`, "key");
  }
  return {
    model,
    name: input.name ?? `devices[${index}]`,
    behind: behind?.address,
    address,
    multifunction,
    buses: buses!,
    iommu: iommu?.name,
    acs: canIsolate && (input.capabilities?.acs ?? model !== "upstream-port"),
  };
}

function resolveFunctions(
  { index, input, behind, multifunction, address, count }: Placed,
  model: EndpointModel,
  iommu: IommuDescription | undefined,
  report: Report,
): DeviceDescription[] {
  const path = ["devices", index];
  if (input.name !== undefined) {
    report([...path, "name"], `${nameOf([...path, "name"])}: only bridges have names, for what is behind them`, "key");
  }
  const capabilities = resolveCapabilities(input, model, [...path, "capabilities"], report);
  if (capabilities.express && (behind?.input.model === "pci-bridge" || behind?.input.model === "pcie-to-pci-bridge")) {
    report(
      path,
      `${nameOf(path)} is PCI Express, and behind a ${behind.input.model} is conventional PCI; behind a port is right`,
    );
  }
  const driver = resolveDriver(input, path, iommu, report);
  const shared = {
    ...resolveModel(input, model, path, report),
    behind: behind?.address,
    multifunction,
    iommu: iommu?.name,
    driver,
    untrusted: input.untrusted ?? false,
    defaultDomain: resolveDefaultDomain(input, path, report),
    reserved: resolveReserved(input, path, iommu, report),
    canStall: resolveStalls(input, path, iommu, report, model === "copy-engine"),
    capabilities,
    virtualFunctions: resolveVirtualFunctions(input, model, driver, path, iommu, report),
  };
  return Array.from({ length: count }, (_, number) => ({
    ...shared,
    address: { ...address, function: address.function + number },
  }));
}

/** The IOMMU that an entry names, or the only one. */
export function resolveIommu(
  input: Pick<DeviceInput, "iommu">,
  path: Path,
  iommus: readonly IommuDescription[],
  report: Report,
): IommuDescription | undefined {
  if (input.iommu === "none") return undefined;
  const names = iommus.map((iommu) => iommu.name);
  if (input.iommu === undefined) {
    if (names.length > 1) {
      report(
        path,
        `${nameOf(path)} has no "iommu", and there are several; it must be one of ${names.join(", ")}, or none`,
      );
    }
    return iommus[0];
  }
  const found = iommus.find((iommu) => iommu.name === input.iommu);
  if (!found) {
    const meant = nearest(input.iommu, names);
    const right = meant ? `did you mean "${meant}"?` : `it must be ${[...names, "none"].join(" or ")}`;
    report([...path, "iommu"], `${nameOf(path)} is behind the IOMMU "${input.iommu}", which does not exist; ${right}`);
  }
  return found;
}

/** Linux binds vfio-pci only behind an IOMMU whose walks are cache coherent (reference 5.1); processes are shared by PASIDs. */
function resolveDriver(
  input: DeviceInput,
  path: Path,
  iommu: IommuDescription | undefined,
  report: Report,
): DeviceDescription["driver"] {
  if (input.driver === "edu") {
    if (input.model !== "edu") {
      const where = [...path, "driver"];
      report(where, `${nameOf(where)} is edu, which does not match a ${input.model}; vfio-pci or none is right`);
    }
    return "edu";
  }
  const { driver } = input;
  const obstacles = { "vfio-pci": whyNotVfio(iommu), uacce: whyNotUacce(input, iommu) };
  if (driver === "vfio-pci" || driver === "uacce") {
    const isKnown = iommu !== undefined || input.iommu === undefined || input.iommu === "none";
    if (obstacles[driver] === undefined) return driver;
    if (isKnown) {
      const why = `${driver} cannot be bound, since ${obstacles[driver]}`;
      report([...path, "driver"], `${nameOf(path)}: ${why}; none is right`);
    }
  }
  if (driver !== undefined) return undefined;
  if (obstacles.uacce === undefined) return "uacce";
  return obstacles["vfio-pci"] === undefined ? "vfio-pci" : undefined;
}

/** What keeps vfio-pci from a device behind that IOMMU, if anything. */
export function whyNotVfio(iommu: IommuDescription | undefined): string | undefined {
  if (iommu === undefined) return "the device has no IOMMU";
  return iommu.kind === "virtio-iommu" || iommu.features.coherent ? undefined : `${iommu.name} is not coherent`;
}

function whyNotUacce({ model }: DeviceInput, iommu: IommuDescription | undefined): string | undefined {
  if (model !== "copy-engine") return `it drives a copy-engine, and this is ${model}`;
  if (iommu === undefined) return "the device has no IOMMU";
  return iommu.kind === "smmuv3" && iommu.features.pasidBits > 0 ? undefined : `${iommu.name} has no PASIDs`;
}

function resolveDefaultDomain(input: DeviceInput, path: Path, report: Report): DeviceDescription["defaultDomain"] {
  if (input.untrusted && input.defaultDomain === "identity") {
    const where = [...path, "defaultDomain"];
    report(where, `${nameOf(where)} is identity, but an untrusted device is never given all of memory; dma is right`);
  }
  return input.defaultDomain;
}

/** The regions that an entry lists, in bytes. */
export function resolveReserved(
  { reserved = [] }: Pick<DeviceInput, "reserved">,
  path: Path,
  iommu: IommuDescription | undefined,
  report: Report,
): RegionDescription[] {
  const list = [...path, "reserved"];
  if (reserved.length > 0 && iommu === undefined) {
    report(list, `${nameOf(list)} is for an IOMMU, and the device has none; leave it out`);
  }
  return reserved.map((input, index) => {
    const region = { type: input.type, start: bytes(input.start), size: bytes(input.size) };
    const end = region.start + region.size;
    const where = [...list, index];
    if (region.size === 0) report([...where, "size"], `${nameOf(where)} is empty; its size must be at least 1B`);
    if (end > PHYSICAL_END) {
      report(
        where,
        `${nameOf(where)} ends at ${hex(end)}; physical addresses have 52 bits, so at most ${hex(PHYSICAL_END)}`,
      );
    }
    return region;
  });
}

/** `wants`: a device of this kind stalls, where it can, unless it was said. */
export function resolveStalls(
  { canStall, iommu: chosen }: Pick<DeviceInput, "canStall" | "iommu">,
  path: Path,
  iommu: IommuDescription | undefined,
  report: Report,
  wants: boolean,
): boolean {
  const isPossible = iommu?.kind === "smmuv3";
  if (canStall && !isPossible && (iommu !== undefined || chosen === "none")) {
    const where = nameOf([...path, "canStall"]);
    const what = iommu === undefined ? "the device has no IOMMU" : `${iommu.name} is a ${iommu.kind}`;
    report([...path, "canStall"], `${where} is true, but only an smmuv3 stalls, and ${what}; leave it out`);
  }
  return canStall ?? (wants && isPossible);
}

/** Which options belong to which model. */
const OPTIONS_OF: Readonly<Record<EndpointModel, readonly string[]>> = {
  edu: ["dmaMask"],
  "copy-engine": ["queues"],
};

function resolveModel(
  { options = {} }: DeviceInput,
  model: EndpointModel,
  path: Path,
  report: Report,
): Pick<EduDescription, "model" | "options"> | Pick<CopyEngineDescription, "model" | "options"> {
  for (const option of Object.keys(options)) {
    if (OPTIONS_OF[model].includes(option)) continue;
    const where = [...path, "options", option];
    report(where, `${nameOf(where)} is no option of ${model}; it has ${OPTIONS_OF[model].join(" and ")}`, "key");
  }
  if (model === "edu") return { model, options: { dmaMaskBits: options.dmaMask ?? 28 } };
  return { model, options: { queues: options.queues ?? 4 } };
}

function resolveCapabilities(
  device: DeviceInput,
  model: EndpointModel,
  path: Path,
  report: Report,
): CapabilityDescription {
  const input = device.capabilities ?? {};
  const pasids = model === "copy-engine" ? 16 : 0;
  const { flr = false, acs = false, ats = false, pri = false, pasid = pasids } = input;
  const virtualFunctions = device.virtualFunctions !== undefined;
  const needed = { flr, acs, ats, pri, pasid, virtualFunctions };
  const extended = Object.entries(needed).find(([, value]) => value)?.[0];
  if (input.express === false && extended) {
    report(
      [...path, "express"],
      `${nameOf([...path, "express"])} is false, but ${extended} needs PCI Express; true is right`,
    );
  }
  if (pri && !ats)
    report([...path, "pri"], `${nameOf([...path, "pri"])} is true, but page requests need ats; add "ats: true"`);
  return { express: input.express ?? extended !== undefined, flr, acs, ats, pri, pasidBits: pasid };
}
