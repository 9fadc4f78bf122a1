/** The PCI topology of the computer that this runs on, as Linux shows it under /sys. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { parseRegion, type RecordedPci, type Topology, TopologyError } from "../machine/topology/index.ts";
import { reasonOf } from "./terminal.ts";

/** Reads it; `sys` is where sysfs is mounted. */
export function readComputer(sys: string): Topology {
  const folder = join(sys, "bus/pci/devices");
  const names = list(folder).sort();
  if (names.length === 0)
    throw new TopologyError(`this computer shows no PCI devices in ${folder}; give a dump: uiommu groups FILE`);
  return { functions: names.map((name) => readFunction(sys, folder, name)) };
}

function readFunction(sys: string, folder: string, name: string): RecordedPci {
  const config = read(join(folder, name, "config"));
  if (config.length <= 64) {
    throw new TopologyError(
      `the configuration space of ${name} is for root only: sudo uiommu groups, or a dump of sudo lspci -xxxx`,
    );
  }
  return { name, config, regions: readRegions(sys, join(folder, name, "iommu_group")) };
}

/** What firmware reserved for the function's group, where an IOMMU is at work already. */
function readRegions(sys: string, link: string): RecordedPci["regions"] {
  let text: string;
  try {
    text = readFileSync(join(sys, "kernel/iommu_groups", basename(readlinkSync(link)), "reserved_regions"), "utf8");
  } catch {
    return [];
  }
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map(parseRegion)
    .filter(({ type }) => type !== "msi");
}

function read(path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new TopologyError(`cannot read ${path}: ${reasonOf(error as NodeJS.ErrnoException)}`);
  }
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
