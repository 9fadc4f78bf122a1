// Runs in a browser.
import { assert } from "../runtime/index.ts";
import type { Capability } from "./capabilities.ts";
import type { ConfigSpace } from "./config-space.ts";
import {
  CAPABILITY_LIST,
  CARDBUS_CAPABILITY_LIST,
  CONFIG_SPACE_SIZE,
  EXTENDED_CAPABILITIES,
  HEADER_SIZE,
  HEADER_TYPE,
  HEADER_TYPE_CARDBUS,
  HEADER_TYPE_LAYOUT,
  STATUS,
  STATUS_CAPABILITY_LIST,
} from "./ids.ts";

/** Where each capability came to lie, by id. */
export interface CapabilityChain {
  readonly standard: ReadonlyMap<number, number>;
  readonly extended: ReadonlyMap<number, number>;
}

/** Follows the links in the bytes. Of several capabilities with one id the first counts; a broken chain ends. */
export function walkCapabilities(config: ConfigSpace): CapabilityChain {
  const standard = new Map<number, number>();
  const extended = new Map<number, number>();
  const visited = new Set<number>();
  const add = (chain: Map<number, number>, id: number, at: number): void => {
    visited.add(at);
    if (!chain.has(id)) chain.set(id, at);
  };
  if (config.read(STATUS, 2) & STATUS_CAPABILITY_LIST) {
    const isCardBus = (config.read(HEADER_TYPE, 1) & HEADER_TYPE_LAYOUT) === HEADER_TYPE_CARDBUS;
    let at = config.read(isCardBus ? CARDBUS_CAPABILITY_LIST : CAPABILITY_LIST, 1) & 0xfc;
    while (at >= HEADER_SIZE && !visited.has(at) && config.read(at, 1) !== 0xff) {
      add(standard, config.read(at, 1), at);
      at = config.read(at + 1, 1) & 0xfc;
    }
  }
  let at = EXTENDED_CAPABILITIES;
  while (at >= EXTENDED_CAPABILITIES && at + 4 <= config.size && !visited.has(at)) {
    const header = config.read(at, 4);
    if (header === 0 || header === 0xffffffff) break;
    add(extended, header & 0xffff, at);
    at = (header >>> 20) & 0xffc;
  }
  return { standard, extended };
}

/** Puts capabilities one behind the other, links them, and declares their bits. */
export function layOutCapabilities(
  config: ConfigSpace,
  capabilities: readonly Capability[],
  scratchGaps: boolean,
): void {
  let count = 0;
  let end = HEADER_SIZE;
  let link = CAPABILITY_LIST;
  for (const capability of capabilities.filter(({ version }) => version === undefined)) {
    config.place(end, capability.bytes);
    config.set(end, 1, capability.id);
    config.set(end + 1, 1, 0);
    config.set(link, 1, end);
    count++;
    declareBits(config, capability, end);
    if (scratchGaps) declareGap(config, end + capability.bytes.length, nextStart(end, capability));
    link = end + 1;
    end = nextStart(end, capability);
  }
  assert(end <= CONFIG_SPACE_SIZE, "capabilities do not fit into configuration space");
  if (count > 0) config.set(STATUS, 2, config.read(STATUS, 2) | STATUS_CAPABILITY_LIST);
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
    declareBits(config, capability, end);
    previous = end;
    end = nextStart(end, capability);
  }
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
