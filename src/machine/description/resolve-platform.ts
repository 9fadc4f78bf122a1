// Runs in a browser.
/** What the entries under `platform` describe: devices that no bus finds, and under which ids their IOMMU sees them. */
import { nameOf, type Path, type Report } from "./check.ts";
import { resolveIommu, resolveReserved, resolveStalls } from "./resolve-devices.ts";
import type { MachineInput } from "./schema.ts";
import {
  type FunctionDescription,
  type IommuDescription,
  type PciAddress,
  type PlatformDescription,
  pciAddress,
  virtualPlaces,
} from "./types.ts";
import { hex } from "./units.ts";

type PlatformInput = NonNullable<MachineInput["platform"]>[number];

/** In the order of the file. `functions` are all that PCI has: ids are shared with those behind the same IOMMU. */
export function resolvePlatform(
  inputs: readonly PlatformInput[],
  functions: readonly FunctionDescription[],
  iommus: readonly IommuDescription[],
  report: Report,
): PlatformDescription[] {
  const indices = new Map<string, number>();
  const owners = new Map(iommus.map((iommu) => [iommu, pciOwners(functions, iommu)]));
  return inputs.map((input, index) => {
    const path = ["platform", index];
    const { name, streams = [], defaultDomain, pasid = 0 } = input;
    const other = indices.get(name);
    if (other !== undefined) {
      const both = `platform[${other}] and platform[${index}] are both called "${name}"`;
      report([...path, "name"], `${both}; names must differ`);
    }
    indices.set(name, index);
    const iommu = resolveIommu(input, path, iommus, report);
    if (iommu !== undefined) checkStreams(streams, path, iommu, owners.get(iommu)!, report);
    else if (streams.length > 0 && (input.iommu === "none" || iommus.length === 0)) {
      const where = [...path, "streams"];
      report(where, `${nameOf(where)} are ids for an IOMMU, and the device has none; leave it out`, "key");
    }
    return {
      name,
      iommu: iommu?.name,
      streams,
      defaultDomain,
      reserved: resolveReserved(input, path, iommu, report),
      canStall: resolveStalls(input, path, iommu, report, false),
      pasidBits: pasid,
    };
  });
}

/** An id is one device's: Linux's drivers tell devices apart by nothing else (reference 6, probing a device). */
function checkStreams(
  streams: readonly number[],
  path: Path,
  iommu: IommuDescription,
  owners: Map<number, string>,
  report: Report,
): void {
  if (streams.length === 0) {
    report(path, `${nameOf(path)} has no "streams"; behind ${iommu.name} it must have a list of ids such as [0x1000]`);
  }
  const last = iommu.kind === "smmuv3" ? 2 ** iommu.features.streamIdBits - 1 : 2 ** 32 - 1;
  for (const [index, stream] of streams.entries()) {
    const where = [...path, "streams", index];
    if (stream > last) {
      const width = `${iommu.name} has ids of ${Math.log2(last + 1)} bits`;
      report(where, `${nameOf(where)} is ${hex(stream)}, but ${width}; at most ${hex(last)} is right`);
    }
    const owner = owners.get(stream);
    if (owner === undefined) {
      owners.set(stream, nameOf(path));
      continue;
    }
    let free = stream;
    while (owners.has(free)) free = free === last ? 0 : free + 1;
    const taken = `${hex(stream)}, which behind ${iommu.name} is an id of ${owner}`;
    report(where, `${nameOf(where)} is ${taken}, and an id is one device's; ${hex(free)} is free`);
  }
}

/** Whose requests reach an IOMMU from PCI, by id. */
function pciOwners(functions: readonly FunctionDescription[], { name }: IommuDescription): Map<number, string> {
  const behind = functions.filter(({ iommu }) => iommu === name);
  return new Map(
    behind.flatMap((one) => requesterIds(one).map((id): [number, string] => [id, pciAddress(one.address)])),
  );
}

/** A bridge from PCI Express to conventional PCI gives what is behind it the number of device 0 there. */
function requesterIds(one: FunctionDescription): number[] {
  const own = requesterId(one.address);
  if ("driver" in one && one.virtualFunctions !== undefined) {
    return [own, ...virtualPlaces(one.address, one.virtualFunctions).map(requesterId)];
  }
  if (one.model !== "pcie-to-pci-bridge") return [own];
  return [own, requesterId({ bus: one.buses.first, device: 0, function: 0 })];
}

function requesterId({ bus, device, function: number }: PciAddress): number {
  return bus * 256 + device * 8 + number;
}
