// Runs in a browser.
/** What the device offers: feature bits (§5.13.3) and the configuration space (§5.13.4). */

export const F_INPUT_RANGE = 1 << 0;
export const F_DOMAIN_RANGE = 1 << 1;
export const F_MAP_UNMAP = 1 << 2;
export const F_PROBE = 1 << 4;
export const F_MMIO = 1 << 5;
export const F_BYPASS_CONFIG = 1 << 6;
/** Proposed, not in the specification (reference 7.5): endpoints may be attached to tables of the driver's own. */
export const F_ATTACH_TABLE = 1 << 7;
/** Descriptors may refer to a table of descriptors (§6). */
export const F_INDIRECT_DESC = 1 << 28;
/** Bit 32 of all features: bit 0 of the second word. */
export const F_VERSION_1_HIGH = 1;

/** Offset of `bypass`, the one field that a driver can write. */
const BYPASS = 36;
export const CONFIG_SIZE = 40;

/** What can be chosen of a device. */
export interface FeatureChoices {
  /** Bit n: mappings may have a granularity of 2^n bytes. Default: 4 KiB and every larger power of two. */
  readonly pageSizeMask?: bigint;
  /** Virtual addresses that can be mapped; all of 64 bits, if absent (and then not announced). */
  readonly inputRange?: { readonly start: bigint; readonly last: bigint } | undefined;
  /** Domain ids that exist; all of 32 bits, if absent (and then not announced). */
  readonly domainRange?: { readonly first: number; readonly last: number } | undefined;
  /** Endpoints can be asked for their properties. Default true. */
  readonly probe?: boolean;
  /** Mappings can be of device memory. Default true. */
  readonly mmio?: boolean;
  /**
   * What endpoints without a domain may do at power-up: reach memory untranslated (true), or nothing. The driver can
   * change it, and attach endpoints to domains that translate nothing. Undefined: no such configuration; they reach
   * nothing.
   */
  readonly bypass?: boolean | undefined;
  readonly indirectDescriptors?: boolean;
  /** Endpoints may be attached to context tables of Arm's form, which the driver writes. Needs `probe`. Default false. */
  readonly attachTable?: boolean;
}

export interface DeviceConfig {
  /** Bits 31:0 of the features. */
  readonly features: number;
  readonly pageSizeMask: bigint;
  /** Bytes of the smallest granularity. */
  readonly granule: bigint;
  readonly inputRange: { readonly start: bigint; readonly last: bigint };
  readonly domainRange: { readonly first: number; readonly last: number };
  /** Bytes that the answer to a PROBE has. */
  readonly probeSize: number;
  /** `bypass` at power-up. */
  readonly bypass: boolean;
}

const PROBE_SIZE = 512;

export function virtioIommuConfig(choices: FeatureChoices = {}): DeviceConfig {
  const { pageSizeMask = 0xffff_ffff_ffff_f000n, inputRange, domainRange, bypass } = choices;
  const { probe = true, mmio = true, indirectDescriptors = true, attachTable = false } = choices;
  return {
    features:
      F_MAP_UNMAP |
      (inputRange === undefined ? 0 : F_INPUT_RANGE) |
      (domainRange === undefined ? 0 : F_DOMAIN_RANGE) |
      (probe ? F_PROBE : 0) |
      (mmio ? F_MMIO : 0) |
      (bypass === undefined ? 0 : F_BYPASS_CONFIG) |
      (attachTable && probe ? F_ATTACH_TABLE : 0) |
      (indirectDescriptors ? F_INDIRECT_DESC : 0),
    pageSizeMask,
    granule: lowestBit(pageSizeMask),
    inputRange: inputRange ?? { start: 0n, last: 2n ** 64n - 1n },
    domainRange: domainRange ?? { first: 0, last: 2 ** 32 - 1 },
    probeSize: probe ? PROBE_SIZE : 0,
    bypass: bypass ?? false,
  };
}

/** The configuration space: `struct virtio_iommu_config`. */
export class ConfigSpace {
  private readonly view = new DataView(new ArrayBuffer(CONFIG_SIZE));
  /** A driver can write `bypass` only if it negotiated that (§5.13.4.1). */
  bypassIsWritable = false;

  constructor(config: DeviceConfig) {
    const { view } = this;
    view.setBigUint64(0, config.pageSizeMask, true);
    view.setBigUint64(8, config.inputRange.start, true);
    view.setBigUint64(16, config.inputRange.last, true);
    view.setUint32(24, config.domainRange.first, true);
    view.setUint32(28, config.domainRange.last, true);
    view.setUint32(32, config.probeSize, true);
    view.setUint8(BYPASS, config.bypass ? 1 : 0);
  }

  /** Kept over a reset of the device (§5.13.4.2). */
  get bypass(): boolean {
    return this.view.getUint8(BYPASS) === 1;
  }

  read(offset: number): number {
    return offset + 4 <= CONFIG_SIZE ? this.view.getUint32(offset, true) : 0;
  }

  /** All but 0 and 1 in `bypass` is no value of the field, and is not taken. */
  write(offset: number, value: number): void {
    if (offset === BYPASS && this.bypassIsWritable && value <= 1) this.view.setUint8(BYPASS, value);
  }
}

function lowestBit(mask: bigint): bigint {
  let bit = 1n;
  while (mask % (bit * 2n) === 0n) bit *= 2n;
  return bit;
}
