// Runs in a browser.
import { assert } from "../runtime/index.ts";
import type { Capability } from "./capabilities.ts";
import type { ConfigSpace } from "./config-space.ts";
import {
  CAPABILITY_LIST,
  CONFIG_SPACE_SIZE,
  EXTENDED_CAPABILITIES,
  HEADER_SIZE,
  STATUS,
  STATUS_CAPABILITY_LIST,
} from "./ids.ts";

/** Where each capability came to lie, by id. */
export interface CapabilityChain {
  readonly standard: ReadonlyMap<number, number>;
  readonly extended: ReadonlyMap<number, number>;
}

/** Puts capabilities one behind the other, links them, and declares their bits. */
export function layOutCapabilities(
  config: ConfigSpace,
  capabilities: readonly Capability[],
  scratchGaps: boolean,
): CapabilityChain {
  const standard = new Map<number, number>();
  const extended = new Map<number, number>();
  let end = HEADER_SIZE;
  let link = CAPABILITY_LIST;
  for (const capability of capabilities.filter(({ version }) => version === undefined)) {
    config.place(end, capability.bytes);
    config.set(end, 1, capability.id);
    config.set(end + 1, 1, 0);
    config.set(link, 1, end);
    standard.set(capability.id, end);
    declareBits(config, capability, end);
    if (scratchGaps) declareGap(config, end + capability.bytes.length, nextStart(end, capability));
    link = end + 1;
    end = nextStart(end, capability);
  }
  assert(end <= CONFIG_SPACE_SIZE, "capabilities do not fit into configuration space");
  if (standard.size > 0) config.set(STATUS, 2, config.read(STATUS, 2) | STATUS_CAPABILITY_LIST);
  if (scratchGaps) declareGap(config, end, CONFIG_SPACE_SIZE);

  end = EXTENDED_CAPABILITIES;
  let previous: number | undefined;
  for (const capability of capabilities) {
    const { id, version } = capability;
    if (version === undefined) continue;
    assert(end + capability.bytes.length <= config.size, "extended capabilities want the Express capability");
    config.place(end, capability.bytes);
    config.set(end, 4, id + version * 0x10000);
    if (previous !== undefined) config.set(previous + 2, 2, (config.read(previous + 2, 2) & 0xf) | (end << 4));
    extended.set(id, end);
    declareBits(config, capability, end);
    previous = end;
    end = nextStart(end, capability);
  }
  return { standard, extended };
}

function nextStart(start: number, { bytes }: Capability): number {
  return start + Math.ceil(bytes.length / 4) * 4;
}

function declareBits(config: ConfigSpace, { writable = [], clearable = [] }: Capability, start: number): void {
  for (const { offset, width, mask } of writable) config.makeWritable(start + offset, width, mask);
  for (const { offset, width, mask } of clearable) config.makeClearable(start + offset, width, mask);
}

function declareGap(config: ConfigSpace, start: number, end: number): void {
  for (let offset = start; offset < end; offset++) config.makeWritable(offset, 1, 0xff);
}
