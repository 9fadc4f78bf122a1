// Runs in a browser.
/**
 * Turns what a machine file says into a description: units become bytes, absent things get their defaults, automatic
 * addresses are given out, and what ties two places together is checked (the devices: resolve-devices.ts, places.ts,
 * resolve-platform.ts). The
 * input fits the schema already.
 */
import { nameOf, type Path, type Problem, type Report } from "./check.ts";
import { resolveDevices } from "./resolve-devices.ts";
import { resolvePlatform } from "./resolve-platform.ts";
import type { MachineInput } from "./schema.ts";
import type {
  DeviceDescription,
  Granule,
  IommuDescription,
  MachineDescription,
  MemoryDescription,
  SmmuFeatureDescription,
  VirtioIommuFeatureDescription,
} from "./types.ts";
import { bytes, hex, KIB, MIB, PHYSICAL_END } from "./units.ts";

type IommuInput = NonNullable<MachineInput["iommus"]>[number];
type FeaturesInput = NonNullable<IommuInput["features"]>;

/** RAM is kept in chunks of this size. */
const RAM_ALIGN = 2 * MIB;
/** An SMMUv3 has two pages of registers, 64 KiB each. */
const REGISTERS_SIZE = 128 * KIB;
const REGISTERS_ALIGN = 64 * KIB;
const FIRST_REGISTERS = 0x9050000;
/** Where message interrupts go on QEMU's machines for Arm, and on x86. */
const USUAL_DOORBELL = 0x8000000;
const X86_DOORBELL = 0xfee00000;
const DOORBELL_SIZE = MIB;

/** The description, and what keeps it from being one: with any problem, the description is not to be used. */
export function resolveMachine(
  input: MachineInput,
  fallbackName: string,
): { description: MachineDescription; problems: Problem[] } {
  const problems: Problem[] = [];
  const report: Report = (path, message, at = "value") => problems.push({ path, at, message });
  const memory = resolveMemory(input, report);
  const iommuInputs: readonly IommuInput[] = input.iommus ?? [{ kind: "smmuv3" }];
  const iommus = resolveIommus(iommuInputs, memory, report);
  const { bridges, devices } = resolveDevices(input.devices ?? [], iommus, report);
  const description: MachineDescription = {
    name: input.name ?? fallbackName,
    about: input.about ?? "",
    memory,
    doorbell: resolveDoorbell(input, memory, iommus, report),
    defaultDomain: input.defaultDomain ?? "dma",
    iommus: iommus.map((iommu, index) => withServicesFor(iommu, devices, iommuInputs[index].features)),
    bridges,
    devices,
    platform: resolvePlatform(input.platform ?? [], [...bridges, ...devices], iommus, report),
  };
  return { description, problems };
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

function resolveDoorbell(
  input: MachineInput,
  memory: MemoryDescription,
  iommus: readonly IommuDescription[],
  report: Report,
): number {
  if (input.doorbell === undefined) return USUAL_DOORBELL;
  const doorbell = bytes(input.doorbell);
  const usual = `${hex(USUAL_DOORBELL)} or ${hex(X86_DOORBELL)} is a usual place`;
  const range = `the doorbell at ${hex(doorbell)}-${hex(doorbell + DOORBELL_SIZE - 1)}`;
  if (doorbell % DOORBELL_SIZE !== 0) {
    report(["doorbell"], `doorbell is ${hex(doorbell)}; it must be a multiple of 1 MiB: ${usual}`);
  }
  if (doorbell + DOORBELL_SIZE > PHYSICAL_END) {
    report(["doorbell"], `${range} lies beyond the 52 bits of a physical address; ${usual}`);
  }
  if (overlap(doorbell, DOORBELL_SIZE, memory.base, memory.size)) {
    const end = memory.base + memory.size - 1;
    report(["doorbell"], `${range} lies in memory (${hex(memory.base)}-${hex(end)}); it must lie outside: ${usual}`);
  }
  for (const { name, base } of iommus) {
    if (!overlap(doorbell, DOORBELL_SIZE, base, REGISTERS_SIZE)) continue;
    report(["doorbell"], `${range} overlaps the registers of ${name} at ${hex(base)}; ${usual}`);
  }
  return doorbell;
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
      iommus.push({ name, kind: input.kind, base, features: resolveVirtioFeatures(given, featuresPath, report) });
      continue;
    }
    const features = resolveSmmuFeatures(given, featuresPath, report);
    const end = memory.base + memory.size;
    if (end > 2 ** features.outputBits && end <= PHYSICAL_END) {
      const message = `${name} has physical addresses of ${features.outputBits} bits, but memory ends at ${hex(end)}; more outputBits or a lower memory is right`;
      report([...featuresPath, "outputBits"], message);
    }
    if (features.outputBits === 52 && features.granules[0] !== 65536) {
      const message = `${name} has physical addresses of 52 bits, which only pages of 64 KiB can hold; "granules: [64KiB]" is right`;
      report([...featuresPath, "outputBits"], message);
    }
    iommus.push({ name, kind: input.kind, base, features });
  }
  return iommus;
}

/** An SMMU has ATS and PRI, unless it was said, where a device behind it can use them. */
function withServicesFor(
  iommu: IommuDescription,
  devices: readonly DeviceDescription[],
  given: FeaturesInput | undefined,
): IommuDescription {
  if (iommu.kind !== "smmuv3") return iommu;
  const behind = devices.filter((device) => device.iommu === iommu.name).map(({ capabilities }) => capabilities);
  const ats = given?.ats ?? behind.some((capabilities) => capabilities.ats);
  const pri = ats && (given?.pri ?? behind.some((capabilities) => capabilities.pri));
  return { ...iommu, features: { ...iommu.features, ats, pri } };
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
const VIRTIO_FEATURES: readonly string[] = ["inputBits", "domainBits", "probe", "mmio", "bypass", "attachTable"];

function checkKind(kind: IommuInput["kind"], features: FeaturesInput, path: Path, report: Report): void {
  for (const feature of Object.keys(features)) {
    const right = VIRTIO_FEATURES.includes(feature) ? "virtio-iommu" : "smmuv3";
    if (kind === right) continue;
    const where = [...path, feature];
    report(where, `${nameOf(where)} is a feature of the kind ${right}, and this is a ${kind}; leave it out`, "key");
  }
}

function resolveVirtioFeatures(input: FeaturesInput, path: Path, report: Report): VirtioIommuFeatureDescription {
  const { inputBits = 48, domainBits = 32, probe = true, mmio = true, bypass = "on", attachTable = false } = input;
  if (attachTable && !probe) {
    const where = [...path, "attachTable"];
    report(where, `${nameOf(where)} is true, but formats of tables are told by probe; "probe: true" is right`);
  }
  return { inputBits, domainBits, probe, mmio, bypass, attachTable };
}

function resolveSmmuFeatures(given: FeaturesInput, path: Path, report: Report): SmmuFeatureDescription {
  const { inputBits: _, domainBits: _d, probe: _p, mmio: _m, bypass: _b, attachTable: _a, ...input } = given;
  const features: SmmuFeatureDescription = {
    stage1: true,
    stage2: true,
    rangeInvalidation: true,
    dirtyTracking: false,
    broadcastTlb: false,
    twoLevelStreamTable: true,
    coherent: true,
    ats: false,
    pri: false,
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

function lowest(name: (number: number) => string, taken: (name: string) => boolean): string {
  let number = 0;
  while (taken(name(number))) number++;
  return name(number);
}
