// Runs in a browser.
/** Topologies as JSON lines: `{"name", "devices": [{"bdf", "config", "group"}], "groups": [{"id", "type", "reserved"}]}`. */
import type { ReservedRegion } from "../../iommu/index.ts";
import { EXTENDED_CONFIG_SPACE_SIZE } from "../../pci/index.ts";
import { parseName, type RecordedPci, type Topology, TopologyError } from "./topology.ts";

/** Reads every line; mistakes are told with `label` and the number of the line. */
export function parseRecordings(label: string, text: string): Topology[] {
  const topologies: Topology[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    if (line.trim() === "") continue;
    try {
      topologies.push(parseRecording(line));
    } catch (error) {
      if (!(error instanceof TopologyError)) throw error;
      throw new TopologyError(`${label}:${index + 1}: ${error.message}`);
    }
  }
  if (topologies.length === 0) throw new TopologyError(`${label}: no topology in it`);
  return topologies;
}

function parseRecording(line: string): Topology {
  const { name, devices, groups = [] } = object(parseJson(line), "a topology");
  if (!Array.isArray(devices) || devices.length === 0)
    throw new TopologyError("a topology has devices: [...], at least one");
  if (!Array.isArray(groups)) throw new TopologyError("groups is no list");
  const regions = new Map<unknown, ReservedRegion[]>();
  for (const group of groups) {
    const { id, reserved = [] } = object(group, "each of groups");
    if (!Array.isArray(reserved)) throw new TopologyError(`the reserved regions of group ${String(id)} are no list`);
    regions.set(
      id,
      reserved.map(parseRegion).filter(({ type }) => type !== "msi"),
    );
  }
  return {
    ...(typeof name === "string" ? { name } : {}),
    functions: devices.map((device: unknown) => parseDevice(device, regions)),
  };
}

function parseDevice(value: unknown, regions: ReadonlyMap<unknown, readonly ReservedRegion[]>): RecordedPci {
  const { bdf, config, group } = object(value, "each of devices");
  if (typeof bdf !== "string" || parseName(bdf) === undefined) {
    throw new TopologyError(`a device's bdf is like "0000:00:01.0", not ${JSON.stringify(bdf)}`);
  }
  if (typeof config !== "string")
    throw new TopologyError(`${bdf} has no config: its configuration space in hexadecimal`);
  return { name: bdf, config: parseHex(bdf, config), regions: regions.get(group) ?? [] };
}

function parseHex(bdf: string, text: string): Uint8Array {
  const length = text.length / 2;
  if (!/^(?:[0-9a-f]{2})*$/i.test(text)) throw new TopologyError(`the config of ${bdf} is not hexadecimal bytes`);
  if (length < 16 || length > EXTENDED_CONFIG_SPACE_SIZE) {
    throw new TopologyError(`the config of ${bdf} has ${length} bytes; 16 to ${EXTENDED_CONFIG_SPACE_SIZE} can be`);
  }
  return Uint8Array.from({ length }, (_, index) => Number.parseInt(text.slice(2 * index, 2 * index + 2), 16));
}

const REGION = /^(0x[0-9a-f]{1,16}) (0x[0-9a-f]{1,16}) (direct|direct-relaxable|reserved|msi)$/;

/** A line of Linux's `reserved_regions`: `0x00000000fee00000 0x00000000feefffff msi`. */
export function parseRegion(line: unknown): ReservedRegion {
  const match = typeof line === "string" ? REGION.exec(line) : null;
  if (match === null) throw new TopologyError(`${JSON.stringify(line)} is no reserved region`);
  return { start: BigInt(match[1]), last: BigInt(match[2]), type: match[3] as ReservedRegion["type"] };
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    throw new TopologyError("not JSON");
  }
}

function object(value: unknown, what: string): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new TopologyError(`${what} is an object, not ${JSON.stringify(value)}`);
}
