// Runs in a browser.
/** What a device offers and its configuration says, and what of it the driver accepts (reference 7.1). */
import type { RegisterBlock } from "../../memory/index.ts";
import { EINVAL, ENODEV, refuse } from "../../runtime/index.ts";
import {
  addStatus,
  CONFIG,
  CONFIG_GENERATION,
  DEVICE_FEATURES,
  DEVICE_FEATURES_SEL,
  DEVICE_ID,
  DRIVER_FEATURES,
  DRIVER_FEATURES_SEL,
  IOMMU_DEVICE,
  MAGIC,
  MAGIC_VALUE,
  STATUS,
  STATUS_ACKNOWLEDGE,
  STATUS_DRIVER,
  STATUS_FEATURES_OK,
  VERSION,
} from "./registers.ts";

const F_INPUT_RANGE = 1 << 0;
const F_DOMAIN_RANGE = 1 << 1;
const F_MAP_UNMAP = 1 << 2;
const F_PROBE = 1 << 4;
const F_MMIO = 1 << 5;
const F_BYPASS_CONFIG = 1 << 6;
/** Proposed, see requests.ts. */
const F_ATTACH_TABLE = 1 << 7;
const WANTED = F_INPUT_RANGE | F_DOMAIN_RANGE | F_MAP_UNMAP | F_PROBE | F_MMIO | F_BYPASS_CONFIG | F_ATTACH_TABLE;
/** In the second word of features. */
const F_VERSION_1 = 1;

/** Physical addresses and sizes are numbers: pages of more than this are of no use. */
const LOG2_PAGE_MAX = 52;

export interface Features {
  /** Bytes, ascending. */
  readonly pageSizes: readonly number[];
  readonly input: { readonly start: bigint; readonly last: bigint };
  readonly domains: { readonly first: number; readonly last: number };
  /** Bytes of the properties that a PROBE returns; 0 if there is no such request. */
  readonly probeSize: number;
  /** Mappings of device memory can be told apart. */
  readonly mmio: boolean;
  /** Endpoints can be attached to domains that translate nothing. */
  readonly bypassDomains: boolean;
  /** Endpoints can be attached to tables of our own: which ones, PROBE says. */
  readonly tables: boolean;
}

/**
 * Resets the device and agrees with it on features. Refusals: ENODEV for what is no virtio IOMMU, or lacks what the
 * driver needs; EINVAL without any page size.
 */
export function negotiate(registers: RegisterBlock, name: string): Features {
  if (registers.read32(MAGIC_VALUE) !== MAGIC || registers.read32(VERSION) !== 2) {
    refuse(ENODEV, () => `${name} is no virtio-mmio device of version 2`);
  }
  const id = registers.read32(DEVICE_ID);
  if (id !== IOMMU_DEVICE) refuse(ENODEV, () => `${name} is the virtio device ${id}; an IOMMU is ${IOMMU_DEVICE}`);
  registers.write32(STATUS, 0);
  addStatus(registers, STATUS_ACKNOWLEDGE);
  addStatus(registers, STATUS_DRIVER);

  const [low, high] = [0, 1].map((word) => {
    registers.write32(DEVICE_FEATURES_SEL, word);
    return registers.read32(DEVICE_FEATURES);
  });
  if ((high & F_VERSION_1) === 0) refuse(ENODEV, () => `${name} is a legacy device: it does not offer VERSION_1`);
  if ((low & F_MAP_UNMAP) === 0) refuse(ENODEV, () => `${name} does not offer MAP_UNMAP`);
  const accepted = low & WANTED;
  for (const [word, bits] of [accepted, F_VERSION_1].entries()) {
    registers.write32(DRIVER_FEATURES_SEL, word);
    registers.write32(DRIVER_FEATURES, bits);
  }
  addStatus(registers, STATUS_FEATURES_OK);
  if ((registers.read32(STATUS) & STATUS_FEATURES_OK) === 0) {
    refuse(ENODEV, () => `${name} does not work with the features 0x${accepted.toString(16)}`);
  }
  return readConfig(registers, accepted, name);
}

function readConfig(registers: RegisterBlock, accepted: number, name: string): Features {
  const words = stableConfig(registers, 9);
  const u64 = (word: number): bigint => BigInt(words[word + 1]) * 0x1_0000_0000n + BigInt(words[word]);
  const has = (feature: number): boolean => (accepted & feature) !== 0;
  const pageSizes = sizesIn(words[0], words[1]);
  if (pageSizes.length === 0) refuse(EINVAL, () => `${name} has no page size of use`);
  return {
    pageSizes,
    input: has(F_INPUT_RANGE) ? { start: u64(2), last: u64(4) } : { start: 0n, last: 2n ** 64n - 1n },
    domains: has(F_DOMAIN_RANGE) ? { first: words[6], last: words[7] } : { first: 0, last: 2 ** 32 - 1 },
    probeSize: has(F_PROBE) ? words[8] : 0,
    mmio: has(F_MMIO),
    bypassDomains: has(F_BYPASS_CONFIG),
    tables: has(F_ATTACH_TABLE),
  };
}

/** Words of the configuration that belong together: read again if it changed meanwhile (§2.5.3). */
function stableConfig(registers: RegisterBlock, count: number): number[] {
  for (;;) {
    const generation = registers.read32(CONFIG_GENERATION);
    const words = Array.from({ length: count }, (_, word) => registers.read32(CONFIG + word * 4));
    if (registers.read32(CONFIG_GENERATION) === generation) return words;
  }
}

function sizesIn(low: number, high: number): number[] {
  const sizes: number[] = [];
  for (let bit = 0; bit <= LOG2_PAGE_MAX; bit++) {
    const word = bit < 32 ? low : high;
    if (((word >>> (bit & 31)) & 1) === 1) sizes.push(2 ** bit);
  }
  return sizes;
}
