// Runs in a browser.
import { ConfigSpace } from "./config-space.ts";
import { PciFunction } from "./function.ts";
import { CONFIG_SPACE_SIZE, EXTENDED_ACS, EXTENDED_CAPABILITIES, EXTENDED_CONFIG_SPACE_SIZE } from "./ids.ts";
import { accessControlRegisters, ISOLATING_CONTROLS } from "./isolation.ts";

/** A function that is nothing but its configuration space, as somebody recorded it. What is cut off reads as zero. */
export class RecordedFunction extends PciFunction {
  constructor(bytes: Uint8Array) {
    const config = new ConfigSpace(bytes.length > CONFIG_SPACE_SIZE ? EXTENDED_CONFIG_SPACE_SIZE : CONFIG_SPACE_SIZE);
    config.place(0, bytes);
    super(config);
  }
}

/** The same function as it would be with an ACS capability that has all controls of isolation, and those enabled. */
export function withIsolation(recorded: PciFunction): Uint8Array {
  const config = new ConfigSpace(EXTENDED_CONFIG_SPACE_SIZE);
  config.place(0, recorded.config.bytes);
  const acs = recorded.extendedCapability(EXTENDED_ACS) ?? addCapability(config, EXTENDED_ACS, 12);
  const { width, capability, control } = accessControlRegisters(recorded, acs);
  for (const register of [capability, control]) {
    config.set(register, width, config.read(register, width) | ISOLATING_CONTROLS);
  }
  return config.bytes;
}

/** The same function as Linux leaves it where there is an IOMMU: of what its ACS capability offers, all that isolates is on. */
export function withOfferedIsolation(recorded: PciFunction): Uint8Array {
  const acs = recorded.extendedCapability(EXTENDED_ACS);
  if (acs === undefined) return recorded.config.bytes;
  const config = new ConfigSpace(EXTENDED_CONFIG_SPACE_SIZE);
  config.place(0, recorded.config.bytes);
  const { width, capability, control } = accessControlRegisters(recorded, acs);
  config.set(control, width, config.read(control, width) | (config.read(capability, width) & ISOLATING_CONTROLS));
  return config.bytes;
}

/** Links a capability of zeros into the extended chain, at the highest place where nothing is; its offset. */
function addCapability(config: ConfigSpace, id: number, length: number): number {
  let last: number | undefined;
  let next = config.read(EXTENDED_CAPABILITIES, 4) === 0 ? 0 : EXTENDED_CAPABILITIES;
  while (next >= EXTENDED_CAPABILITIES && next !== last) {
    last = next;
    next = (config.read(next, 4) >>> 20) & 0xffc;
  }
  const { bytes } = config;
  let at = last === undefined ? EXTENDED_CAPABILITIES : EXTENDED_CONFIG_SPACE_SIZE - 16;
  while (last !== undefined && at > last + 4 && bytes.subarray(at, at + length).some((byte) => byte !== 0)) at -= 4;
  config.set(at, 4, id + 0x10000);
  if (last !== undefined) config.set(last + 2, 2, (config.read(last + 2, 2) & 0xf) | (at << 4));
  return at;
}
