// Runs in a browser.
/**
 * What a client may see and change of configuration space, as data (reference 5.9): for the header and for each
 * capability, the length and the bits that are not read-only pass-through.
 */
import {
  CAPABILITY_AF,
  CAPABILITY_EXPRESS,
  CAPABILITY_MSI,
  CAPABILITY_PM,
  CAPABILITY_VENDOR,
  CAPABILITY_VPD,
  msiLayout,
} from "../pci/index.ts";

/**
 * Bits of one register. `virtual` ones live in a shadow that was filled from the hardware; `writable` ones take a write,
 * into the shadow or into the hardware.
 */
export interface FieldRule {
  /** Bytes from the start of the header or capability. */
  readonly offset: number;
  readonly width: 1 | 2 | 4;
  readonly virtual: number;
  readonly writable: number;
}

/** Reads `width` bytes of the capability in the hardware. */
export type CapabilityReader = (offset: number, width: 1 | 2 | 4) => number;

export interface CapabilityRule {
  readonly name: string;
  /** In bytes. */
  readonly length: (read: CapabilityReader) => number;
  readonly fields: readonly FieldRule[];
  /** Everything behind the id and next pointer is read and written through. */
  readonly raw?: true;
}

const ALL8 = 0xff;
const ALL16 = 0xffff;
const ALL32 = 0xffffffff;

function field(offset: number, width: 1 | 2 | 4, virtual: number, writable: number): FieldRule {
  return { offset, width, virtual, writable };
}

export const headerFields: readonly FieldRule[] = [
  field(0x00, 4, ALL32, 0), // vendor, device
  field(0x04, 2, 0x0400, ALL16), // command: INTx disable is virtual
  field(0x06, 2, 0x0010, 0), // status: capability list
  field(0x0c, 1, 0, ALL8), // cache line size
  field(0x0d, 1, 0, ALL8), // latency timer
  field(0x0f, 1, 0, ALL8), // BIST
  field(0x10, 4, ALL32, ALL32), // BARs
  field(0x14, 4, ALL32, ALL32),
  field(0x18, 4, ALL32, ALL32),
  field(0x1c, 4, ALL32, ALL32),
  field(0x20, 4, ALL32, ALL32),
  field(0x24, 4, ALL32, ALL32),
  field(0x30, 4, ALL32, ALL32), // ROM
  field(0x34, 1, ALL8, 0), // capability pointer
  field(0x3c, 1, ALL8, ALL8), // interrupt line
  field(0x3d, 1, ALL8, 0), // interrupt pin
];

function fixed(name: string, length: number, fields: readonly FieldRule[] = []): CapabilityRule {
  return { name, length: () => length, fields };
}

/** Which MSI fields there are follows from the control register; writes to the absent ones fall into other bytes. */
export function msiFields(control: number): FieldRule[] {
  const at = msiLayout(control);
  const fields = [field(2, 1, ALL8, ALL8), field(4, 4, ALL32, ALL32), field(at.data, 2, ALL16, ALL16)];
  if (at.data === 12) fields.push(field(8, 4, ALL32, ALL32));
  if (at.length > at.mask) fields.push(field(at.mask, 4, 0, ALL32), field(at.pending, 4, 0, ALL32));
  return fields;
}

/** The visible standard capabilities, by id. */
export const standardRules: ReadonlyMap<number, CapabilityRule> = new Map<number, CapabilityRule>([
  // PME support is cleared in the shadow; the power state is a trap of its own.
  [CAPABILITY_PM, fixed("power management", 8, [field(2, 2, 0xf800, 0), field(4, 2, 0x8100, 0xfffc)])],
  [0x02, fixed("AGP", 12)],
  [CAPABILITY_VPD, fixed("vital product data", 8, [field(2, 2, ALL16, ALL16), field(4, 4, ALL32, ALL32)])],
  [CAPABILITY_MSI, { name: "MSI", length: (read) => msiLayout(read(2, 2)).length, fields: [] }],
  [
    0x07,
    {
      name: "PCI-X",
      length: (read) => (read(2, 2) & 0x3000 ? 24 : 8),
      fields: [field(2, 2, 0, ALL16), field(8, 4, 0, ALL32)],
    },
  ],
  [0x08, { name: "HyperTransport", length: () => 4, fields: [] }],
  [CAPABILITY_VENDOR, { name: "vendor specific", length: (read) => read(2, 1), fields: [], raw: true }],
  [
    CAPABILITY_EXPRESS,
    {
      name: "PCI Express",
      length: (read) => ((read(2, 2) & 0xf) >= 2 ? 60 : 20),
      // Device control: reset, payload and read-request size are virtual; phantom functions (bit 9) stay off.
      fields: [field(8, 2, 0xf0e0, 0xfdff), field(40, 2, 0, 0xffdf)],
    },
  ],
  [0x11, fixed("MSI-X", 12)],
  [0x12, fixed("SATA", 8)],
  [CAPABILITY_AF, fixed("advanced features", 6, [field(4, 1, 0x01, 0x01)])],
]);

/** Uncorrectable and correctable error bits of AER. */
const UNCORRECTABLE = 0x03fff031;
const CORRECTABLE = 0xf1c1;

/** The visible extended capabilities, by id. */
export const extendedRules: ReadonlyMap<number, CapabilityRule> = new Map<number, CapabilityRule>([
  [
    0x01,
    fixed("advanced error reporting", 72, [
      field(0, 4, ALL32, 0),
      field(0x04, 4, 0, UNCORRECTABLE),
      field(0x08, 4, 0, UNCORRECTABLE),
      field(0x0c, 4, 0, UNCORRECTABLE),
      field(0x10, 4, 0, CORRECTABLE),
      field(0x14, 4, 0, CORRECTABLE),
      field(0x18, 4, 0, 0x140),
    ]),
  ],
  [0x02, fixed("virtual channel", 16)],
  [0x03, fixed("device serial number", 12)],
  [0x04, fixed("power budgeting", 16, [field(4, 1, 0, ALL8)])],
  [0x0b, { name: "vendor specific", length: (read) => read(4, 4) >>> 20, fields: [], raw: true }],
  [0x0d, { name: "ACS", length: (read) => (read(4, 1) & 0x20 ? 8 + Math.ceil(read(5, 1) / 32) * 4 : 8), fields: [] }],
  [0x0e, fixed("ARI", 8)],
  [0x0f, fixed("ATS", 8)],
  [0x10, fixed("SR-IOV", 64)],
  [0x13, fixed("PRI", 16)],
  [0x18, fixed("latency tolerance reporting", 8)],
  [0x23, { name: "DVSEC", length: (read) => read(4, 4) >>> 20, fields: [], raw: true }],
]);
