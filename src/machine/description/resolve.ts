// Runs in a browser.
/**
 * Turns what a machine file says into a description: units become bytes, absent things get their defaults, automatic
 * addresses are given out, and what ties two places together is checked. The input fits the schema already.
 */
import { nameOf, type Path, type Problem } from "./check.ts";
import { nearest } from "./nearest.ts";
import type { MachineInput } from "./schema.ts";
import {
  type CapabilityDescription,
  type CopyEngineDescription,
  type DeviceDescription,
  type EduDescription,
  type Granule,
  type IommuDescription,
  type MachineDescription,
  type MemoryDescription,
  type PciAddress,
  pciAddress,
  type RegionDescription,
  type SmmuFeatureDescription,
  type VirtioIommuFeatureDescription,
} from "./types.ts";

type IommuInput = NonNullable<MachineInput["iommus"]>[number];
type FeaturesInput = NonNullable<IommuInput["features"]>;
type DeviceInput = NonNullable<MachineInput["devices"]>[number];

const KIB = 1024;
const MIB = 1024 * KIB;
const UNITS: Readonly<Record<string, number>> = { B: 1, KiB: KIB, MiB: MIB, GiB: 1024 * MIB, TiB: 1024 * 1024 * MIB };
/** RAM is kept in chunks of this size. */
const RAM_ALIGN = 2 * MIB;
/** An SMMUv3 has two pages of registers, 64 KiB each. */
const REGISTERS_SIZE = 128 * KIB;
const REGISTERS_ALIGN = 64 * KIB;
const FIRST_REGISTERS = 0x9050000;
/** Physical addresses have at most 52 bits. */
const PHYSICAL_END = 2 ** 52;
const DEVICES_ON_A_BUS = 32;
const FUNCTIONS_OF_A_DEVICE = 8;

/** The description, and what keeps it from being one: with any problem, the description is not to be used. */
export function resolveMachine(
  input: MachineInput,
  fallbackName: string,
): { description: MachineDescription; problems: Problem[] } {
  const problems: Problem[] = [];
  const report: Report = (path, message, at = "value") => problems.push({ path, at, message });
  const memory = resolveMemory(input, report);
  const iommus = resolveIommus(input.iommus ?? [{ kind: "smmuv3" }], memory, report);
  const description: MachineDescription = {
    name: input.name ?? fallbackName,
    about: input.about ?? "",
    memory,
    defaultDomain: input.defaultDomain ?? "dma",
    iommus,
    devices: resolveDevices(input.devices ?? [], iommus, report),
  };
  return { description, problems };
}

type Report = (path: Path, message: string, at?: "key" | "value") => void;

/** Bytes. Sizes in words have a unit: `"64KiB"`, `"1 GiB"`, `"0x1000"`. */
function bytes(size: number | string): number {
  if (typeof size === "number") return size;
  const [, count, unit] = /^([0-9]+) ?([A-Za-z]+)$/.exec(size) ?? [];
  return count === undefined ? Number(size) : Number(count) * UNITS[unit];
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function resolveMemory({ memory = {} }: MachineInput, report: Report): MemoryDescription {
  const base = bytes(memory.base ?? 0x40000000);
  const size = bytes(memory.size ?? "1GiB");
  for (const [key, value] of Object.entries({ base, size })) {
    if (value % RAM_ALIGN !== 0) {
      const below = Math.floor(value / RAM_ALIGN) * RAM_ALIGN;
      const near = below === 0 && key === "size" ? hex(RAM_ALIGN) : `${hex(below)} or ${hex(below + RAM_ALIGN)}`;
      report(["memory", key], `memory.${key} is ${hex(value)}; it must be a multiple of 2 MiB, such as ${near}`);
    }
  }
  if (size === 0) report(["memory", "size"], "memory.size is 0; it must be at least 2MiB");
  if (base + size > PHYSICAL_END) {
    report(
      ["memory"],
      `memory ends at ${hex(base + size)}; physical addresses have 52 bits, so it must end at or below ${hex(PHYSICAL_END)}`,
    );
  }
  const memlock = memory.memlock ?? "inherit";
  if (memlock === "inherit") return { base, size, memlock };
  return { base, size, memlock: memlock === "unlimited" ? Number.POSITIVE_INFINITY : bytes(memlock) };
}

function resolveIommus(inputs: readonly IommuInput[], memory: MemoryDescription, report: Report): IommuDescription[] {
  const taken = new Set(inputs.map((input) => input.name));
  const bases = inputs.flatMap((input) => (input.base === undefined ? [] : [bytes(input.base)]));
  const iommus: IommuDescription[] = [];
  for (const [index, input] of inputs.entries()) {
    const path = ["iommus", index];
    const name =
      input.name ??
      lowest(
        (number) => `${input.kind === "smmuv3" ? "smmu" : "viommu"}${number}`,
        (candidate) => taken.has(candidate),
      );
    taken.add(name);
    if (name === "none")
      report([...path, "name"], `an IOMMU cannot be called "none": that means no IOMMU; another name is right`);
    const first = iommus.findIndex((other) => other.name === name);
    if (first >= 0)
      report([...path, "name"], `iommus[${index}] and iommus[${first}] are both called "${name}"; names must differ`);

    let base = input.base === undefined ? FIRST_REGISTERS : bytes(input.base);
    if (input.base === undefined) {
      while (bases.some((other) => overlap(base, REGISTERS_SIZE, other, REGISTERS_SIZE))) base += REGISTERS_SIZE;
      bases.push(base);
    } else {
      checkRegisters(base, [...path, "base"], memory, iommus, report);
    }
    const given = input.features ?? {};
    const featuresPath = [...path, "features"];
    checkKind(input.kind, given, featuresPath, report);
    if (input.kind === "virtio-iommu") {
      iommus.push({ name, kind: input.kind, base, features: resolveVirtioFeatures(given) });
      continue;
    }
    const features = resolveSmmuFeatures(given, featuresPath, report);
    const end = memory.base + memory.size;
    if (end > 2 ** features.outputBits && end <= PHYSICAL_END) {
      const message = `${name} has physical addresses of ${features.outputBits} bits, but memory ends at ${hex(end)}; more outputBits or a lower memory is right`;
      report([...featuresPath, "outputBits"], message);
    }
    iommus.push({ name, kind: input.kind, base, features });
  }
  return iommus;
}

function checkRegisters(
  base: number,
  path: Path,
  memory: MemoryDescription,
  others: readonly IommuDescription[],
  report: Report,
): void {
  const range = `registers at ${hex(base)}-${hex(base + REGISTERS_SIZE - 1)}`;
  if (base % REGISTERS_ALIGN !== 0) {
    const below = Math.floor(base / REGISTERS_ALIGN) * REGISTERS_ALIGN;
    report(path, `${nameOf(path)} is ${hex(base)}; it must be a multiple of 64 KiB, such as ${hex(below)}`);
  }
  if (base + REGISTERS_SIZE > PHYSICAL_END) {
    report(path, `${range} lie beyond the 52 bits of a physical address; ${hex(FIRST_REGISTERS)} is a usual place`);
  }
  if (overlap(base, REGISTERS_SIZE, memory.base, memory.size)) {
    const end = memory.base + memory.size - 1;
    report(
      path,
      `${range} lie in memory (${hex(memory.base)}-${hex(end)}); they must lie outside, such as at ${hex(FIRST_REGISTERS)}`,
    );
  }
  for (const other of others) {
    if (!overlap(base, REGISTERS_SIZE, other.base, REGISTERS_SIZE)) continue;
    report(
      path,
      `${range} overlap those of ${other.name} at ${hex(other.base)}; ${hex(other.base + REGISTERS_SIZE)} is free`,
    );
  }
}

function overlap(base: number, size: number, otherBase: number, otherSize: number): boolean {
  return base < otherBase + otherSize && otherBase < base + size;
}

/** Features of a virtio IOMMU; all others are an SMMU's. */
const VIRTIO_FEATURES: readonly string[] = ["inputBits", "domainBits", "probe", "mmio", "bypass"];

function checkKind(kind: IommuInput["kind"], features: FeaturesInput, path: Path, report: Report): void {
  for (const feature of Object.keys(features)) {
    const right = VIRTIO_FEATURES.includes(feature) ? "virtio-iommu" : "smmuv3";
    if (kind === right) continue;
    const where = [...path, feature];
    report(where, `${nameOf(where)} is a feature of the kind ${right}, and this is a ${kind}; leave it out`, "key");
  }
}

function resolveVirtioFeatures(input: FeaturesInput): VirtioIommuFeatureDescription {
  const { inputBits = 48, domainBits = 32, probe = true, mmio = true, bypass = "on" } = input;
  return { inputBits, domainBits, probe, mmio, bypass };
}

function resolveSmmuFeatures(given: FeaturesInput, path: Path, report: Report): SmmuFeatureDescription {
  const { inputBits: _, domainBits: _d, probe: _p, mmio: _m, bypass: _b, ...input } = given;
  const features: SmmuFeatureDescription = {
    stage1: true,
    stage2: true,
    rangeInvalidation: true,
    dirtyTracking: false,
    broadcastTlb: false,
    twoLevelStreamTable: true,
    coherent: true,
    outputBits: 48,
    asidBits: 16,
    vmidBits: 16,
    pasidBits: 16,
    streamIdBits: 16,
    ...input,
    granules: (input.granules ?? ["4KiB", "16KiB", "64KiB"])
      .map((size) => bytes(size) as Granule)
      .sort((a, b) => a - b),
  };
  if (!features.stage1 && !features.stage2)
    report(path, `${nameOf(path)} has neither stage1 nor stage2; at least one must be true`);
  if (features.pasidBits > 0 && !features.stage1) {
    if (input.pasidBits === undefined) return { ...features, pasidBits: 0 };
    report(
      [...path, "pasidBits"],
      `${nameOf([...path, "pasidBits"])} is ${features.pasidBits}, but PASIDs need stage1; 0 is right without it`,
    );
  }
  if (features.streamIdBits > 16 && !features.twoLevelStreamTable) {
    const where = nameOf([...path, "streamIdBits"]);
    report(
      [...path, "streamIdBits"],
      `${where} is ${features.streamIdBits}, but a linear stream table covers 16; at most 16, or twoLevelStreamTable, is right`,
    );
  }
  return features;
}

/** Where a device of the file sits: which functions of which slot. */
interface Placed {
  readonly index: number;
  readonly input: DeviceInput;
  readonly device: number;
  readonly function: number;
  readonly count: number;
}

function resolveDevices(
  inputs: readonly DeviceInput[],
  iommus: readonly IommuDescription[],
  report: Report,
): DeviceDescription[] {
  const placed = placeDevices(inputs, report);
  const functionsOf = (device: number) =>
    placed.filter((other) => other.device === device).reduce((sum, other) => sum + other.count, 0);
  return placed
    .flatMap(({ index, input, device, function: first, count }) => {
      const path = ["devices", index];
      const iommu = resolveIommu(input, path, iommus, report);
      const shared = {
        ...resolveModel(input, path, report),
        multifunction: functionsOf(device) > 1,
        iommu: iommu?.name,
        driver: resolveDriver(input, path, iommu, report),
        untrusted: input.untrusted ?? false,
        defaultDomain: resolveDefaultDomain(input, path, report),
        reserved: resolveReserved(input, path, iommu, report),
        canStall: resolveStalls(input, path, iommu, report),
        capabilities: resolveCapabilities(input, [...path, "capabilities"], report),
      };
      return Array.from({ length: count }, (_, number) => ({
        ...shared,
        address: { bus: 0, device, function: first + number },
      }));
    })
    .sort((a, b) => a.address.device - b.address.device || a.address.function - b.address.function);
}

/** Explicit addresses first, then the others into the lowest free slots from 01 on (00 is the host bridge's by custom). */
function placeDevices(inputs: readonly DeviceInput[], report: Report): Placed[] {
  const taken = new Map<string, number>();
  const slots = new Set<number>();
  const placed: Placed[] = [];
  for (const [index, input] of inputs.entries()) {
    if (input.address === undefined) continue;
    const path = ["devices", index, "address"];
    const address = parseAddress(input.address, path, report);
    if (!address) continue;
    const { device, function: first } = address;
    const count = input.functions ?? 1;
    if (first + count > FUNCTIONS_OF_A_DEVICE) {
      const most = FUNCTIONS_OF_A_DEVICE - first;
      report(
        ["devices", index, "functions"],
        `devices[${index}] has ${count} functions from ${pciAddress(address)} on; a device has functions 0 to 7, so at most ${most} fit`,
      );
      continue;
    }
    for (let number = first; number < first + count; number++) {
      const key = pciAddress({ bus: 0, device, function: number });
      const other = taken.get(key);
      if (other !== undefined) {
        report(
          path,
          `devices[${index}] and devices[${other}] are both at ${key}; another address, or none for an automatic one, is right`,
        );
        break;
      }
      taken.set(key, index);
    }
    slots.add(device);
    placed.push({ index, input, device, function: first, count });
  }
  for (const { index, device, function: first } of placed) {
    if (taken.has(pciAddress({ bus: 0, device, function: 0 }))) continue;
    const found = pciAddress({ bus: 0, device, function: first });
    const right = pciAddress({ bus: 0, device, function: 0 });
    report(
      ["devices", index, "address"],
      `no device is at ${right}, so that nobody would find ${found}; every device has a function 0`,
    );
  }
  for (const [index, input] of inputs.entries()) {
    if (input.address !== undefined) continue;
    let device = 1;
    while (slots.has(device)) device++;
    if (device >= DEVICES_ON_A_BUS) {
      report(
        ["devices", index],
        `devices[${index}] has no place: all of 00:01 to 00:1f are taken; a bus holds ${DEVICES_ON_A_BUS} devices`,
      );
      break;
    }
    slots.add(device);
    placed.push({ index, input, device, function: 0, count: input.functions ?? 1 });
  }
  return placed;
}

/** `00:01.0`, with the segment before it or without the function behind it. */
function parseAddress(text: string, path: Path, report: Report): PciAddress | undefined {
  const [, segment = "0000", bus, device, number = "0"] =
    /^(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?$/i.exec(text) ?? [];
  const wrong = (what: string) => void report(path, `${nameOf(path)} is "${text}"; ${what}`);
  if (segment !== "0000") return wrong("the only PCI segment is 0000");
  if (bus !== "00") return wrong("the only bus is the root bus, 00");
  const slot = Number.parseInt(device, 16);
  if (slot >= DEVICES_ON_A_BUS) return wrong("the device number must be 00 to 1f");
  return { bus: 0, device: slot, function: Number(number) };
}

function resolveIommu(
  input: DeviceInput,
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

/** Linux binds vfio-pci only behind an IOMMU whose walks are cache coherent (reference 5.1). */
function resolveDriver(
  input: DeviceInput,
  path: Path,
  iommu: IommuDescription | undefined,
  report: Report,
): DeviceDescription["driver"] {
  if (input.driver === "none") return undefined;
  if (input.driver === "edu") {
    if (input.model !== "edu") {
      const where = [...path, "driver"];
      report(where, `${nameOf(where)} is edu, which does not match a ${input.model}; vfio-pci or none is right`);
    }
    return "edu";
  }
  const fits = iommu !== undefined && (iommu.kind === "virtio-iommu" || iommu.features.coherent);
  if (input.driver === "vfio-pci" && !fits && (iommu || input.iommu === undefined || input.iommu === "none")) {
    const why = iommu ? `${iommu.name} is not coherent` : "the device has no IOMMU";
    report([...path, "driver"], `${nameOf(path)}: vfio-pci cannot be bound, since ${why}; none is right`);
  }
  return fits ? "vfio-pci" : undefined;
}

function resolveDefaultDomain(input: DeviceInput, path: Path, report: Report): DeviceDescription["defaultDomain"] {
  if (input.untrusted && input.defaultDomain === "identity") {
    const where = [...path, "defaultDomain"];
    report(where, `${nameOf(where)} is identity, but an untrusted device is never given all of memory; dma is right`);
  }
  return input.defaultDomain;
}

function resolveReserved(
  { reserved = [] }: DeviceInput,
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

function resolveStalls(
  { model, canStall }: DeviceInput,
  path: Path,
  iommu: IommuDescription | undefined,
  report: Report,
): boolean {
  const isPossible = iommu?.kind === "smmuv3";
  if (canStall && iommu !== undefined && !isPossible) {
    const where = nameOf([...path, "canStall"]);
    report([...path, "canStall"], `${where} is true, but only an smmuv3 stalls, and ${iommu.name} is a ${iommu.kind}`);
  }
  return canStall ?? (model === "copy-engine" && isPossible);
}

/** Which options belong to which model. */
const OPTIONS_OF: Readonly<Record<DeviceInput["model"], readonly string[]>> = {
  edu: ["dmaMask"],
  "copy-engine": ["queues"],
};

function resolveModel(
  { model, options = {} }: DeviceInput,
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

function resolveCapabilities(device: DeviceInput, path: Path, report: Report): CapabilityDescription {
  const input = device.capabilities ?? {};
  const pasids = device.model === "copy-engine" ? 16 : 0;
  const { acs = false, ats = false, pri = false, pasid = pasids } = input;
  const extended = Object.entries({ acs, ats, pri, pasid }).find(([, value]) => value)?.[0];
  if (input.express === false && extended) {
    report(
      [...path, "express"],
      `${nameOf([...path, "express"])} is false, but ${extended} needs PCI Express; true is right`,
    );
  }
  if (pri && !ats)
    report([...path, "pri"], `${nameOf([...path, "pri"])} is true, but page requests need ats; add "ats: true"`);
  return { express: input.express ?? extended !== undefined, acs, ats, pri, pasidBits: pasid };
}

function lowest(name: (number: number) => string, taken: (name: string) => boolean): string {
  let number = 0;
  while (taken(name(number))) number++;
  return name(number);
}
