// Runs in a browser.
import { ACS_CAPABILITY, ACS_CONTROL } from "./capabilities.ts";
import { ConfigSpace } from "./config-space.ts";
import { PciFunction } from "./function.ts";
import {
  CONFIG_SPACE_SIZE,
  DEVICE_ID,
  EXTENDED_ACS,
  EXTENDED_CAPABILITIES,
  EXTENDED_CONFIG_SPACE_SIZE,
  VENDOR_ID,
} from "./ids.ts";
import { ISOLATING_CONTROLS } from "./isolation.ts";
import { isListed, WIDE_ACS_PORTS } from "./quirks.ts";

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
  if (isListed(WIDE_ACS_PORTS, config.read(VENDOR_ID, 2), config.read(DEVICE_ID, 2))) {
    for (const register of [acs + 4, acs + 8]) config.set(register, 4, config.read(register, 4) | ISOLATING_CONTROLS);
  } else {
    for (const register of [acs + ACS_CAPABILITY, acs + ACS_CONTROL]) {
      config.set(register, 2, config.read(register, 2) | ISOLATING_CONTROLS);
    }
  }
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
