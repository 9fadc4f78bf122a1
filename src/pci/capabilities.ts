// Runs in a browser.
/**
 * Capabilities as data: the bytes that a function shows, and which of their bits can be written. The first two bytes (id
 * and next pointer) or the first four of an extended one are filled in when the function lays out its chain.
 */
import type { ConfigWidth } from "./config-space.ts";
import {
  CAPABILITY_AF,
  CAPABILITY_EXPRESS,
  CAPABILITY_MSI,
  CAPABILITY_MSIX,
  CAPABILITY_PM,
  EXTENDED_ACS,
  EXTENDED_ARI,
  EXTENDED_ATS,
  EXTENDED_PASID,
  EXTENDED_PRI,
  EXTENDED_SR_IOV,
} from "./ids.ts";

/** Bits of one register; `offset` counts from the capability's first byte. */
export interface RegisterBits {
  readonly offset: number;
  readonly width: ConfigWidth;
  readonly mask: number;
}

export interface Capability {
  readonly id: number;
  /** Present for an extended capability, which lies at 0x100 or above. */
  readonly version?: number;
  readonly bytes: Uint8Array;
  readonly writable?: readonly RegisterBits[];
  readonly clearable?: readonly RegisterBits[];
}

export const MSI_CONTROL = 2;
export const MSI_ENABLE = 0x01;
export const MSI_WIDE = 0x80;
export const MSI_MASKABLE = 0x100;
export const MSIX_CONTROL = 2;
export const MSIX_ENABLE = 0x8000;
export const MSIX_MASK_ALL = 0x4000;
export const PM_CAPABILITIES = 2;
export const PM_CONTROL = 4;
export const PM_STATE = 0x3;
export const PM_NO_SOFT_RESET = 0x8;
export const EXPRESS_FLAGS = 2;
export const EXPRESS_CAPABILITIES = 4;
export const EXPRESS_FLR = 0x10000000;
export const EXPRESS_CONTROL = 8;
export const EXPRESS_INITIATE_FLR = 0x8000;
export const EXPRESS_LINK_CAPABILITIES = 12;
export const EXPRESS_LINK_STATUS = 18;
export const EXPRESS_CAPABILITIES_2 = 36;
/** In both registers: a port sends on what is for function numbers above 7 (ARI forwarding). */
export const EXPRESS_ARI = 0x20;
export const EXPRESS_CONTROL_2 = 40;
export const AF_CAPABILITIES = 3;
export const AF_FLR = 0x02;
export const AF_CONTROL = 4;
export const AF_INITIATE_FLR = 0x01;
export const ACS_CAPABILITY = 4;
export const ACS_CONTROL = 6;
export const SR_IOV_CONTROL = 0x08;
export const SR_IOV_ENABLE = 0x01;
export const SR_IOV_MEMORY = 0x08;
export const SR_IOV_ARI = 0x10;
/** The functions that can be at first, those that there are, those that are wanted. */
export const SR_IOV_INITIAL = 0x0c;
export const SR_IOV_TOTAL = 0x0e;
export const SR_IOV_COUNT = 0x10;
/** From the requester id of the physical function to that of the first virtual one, and from there to each next. */
export const SR_IOV_OFFSET = 0x14;
export const SR_IOV_STRIDE = 0x16;
export const SR_IOV_DEVICE = 0x1a;
export const SR_IOV_PAGE_SIZES = 0x1c;
export const SR_IOV_PAGE_SIZE = 0x20;
export const SR_IOV_BASE_ADDRESS_0 = 0x24;

/** Device or port types of the PCI Express capability (PCIe base specification 7.5.3.2). */
export const EXPRESS_TYPE = {
  endpoint: 0x0,
  legacyEndpoint: 0x1,
  rootPort: 0x4,
  upstreamPort: 0x5,
  downstreamPort: 0x6,
  expressToPciBridge: 0x7,
  pciToExpressBridge: 0x8,
  integratedEndpoint: 0x9,
  eventCollector: 0xa,
} as const;
export type ExpressType = keyof typeof EXPRESS_TYPE;

/** Bits of the ACS capability and control registers (PCIe base specification 7.7.11). */
export const ACS = {
  sourceValidation: 0x01,
  translationBlocking: 0x02,
  requestRedirect: 0x04,
  completionRedirect: 0x08,
  upstreamForwarding: 0x10,
  egressControl: 0x20,
  directTranslated: 0x40,
} as const;

function block(length: number, registers: Readonly<Record<number, readonly [ConfigWidth, number]>>): Uint8Array {
  const view = new DataView(new ArrayBuffer(length));
  for (const [offset, [width, value]] of Object.entries(registers)) {
    if (width === 1) view.setUint8(Number(offset), value);
    else if (width === 2) view.setUint16(Number(offset), value, true);
    else view.setUint32(Number(offset), value, true);
  }
  return new Uint8Array(view.buffer);
}

/** Where the registers of an MSI capability lie, by its control register (PCI 3.0, 6.8.1). */
export function msiLayout(control: number): { data: number; mask: number; pending: number; length: number } {
  const data = control & MSI_WIDE ? 12 : 8;
  return { data, mask: data + 4, pending: data + 8, length: control & MSI_MASKABLE ? data + 12 : data + 2 };
}

/** MSI: `vectors` a power of two up to 32, `wide` for 64-bit addresses, `maskable` for mask bits of each vector. */
export function msi(options: { vectors?: number; wide?: boolean; maskable?: boolean } = {}): Capability {
  const { vectors = 1, wide = true, maskable = false } = options;
  const control = (Math.log2(vectors) << 1) | (wide ? MSI_WIDE : 0) | (maskable ? MSI_MASKABLE : 0);
  const at = msiLayout(control);
  const writable: RegisterBits[] = [
    { offset: MSI_CONTROL, width: 2, mask: 0x71 },
    { offset: 4, width: 4, mask: 0xfffffffc },
    { offset: at.data, width: 2, mask: 0xffff },
  ];
  if (wide) writable.push({ offset: 8, width: 4, mask: 0xffffffff });
  if (maskable) writable.push({ offset: at.mask, width: 4, mask: 2 ** vectors - 1 });
  return { id: CAPABILITY_MSI, bytes: block(at.length, { [MSI_CONTROL]: [2, control] }), writable };
}

/** Where an MSI-X table or pending-bit array lies. */
export interface MsixPlace {
  readonly bar: number;
  /** Bytes from the BAR's start, a multiple of 8. */
  readonly offset: number;
}

/** MSI-X: up to 2048 vectors; the function keeps table and pending bits at the places given. */
export function msix(options: { vectors: number; table: MsixPlace; pending: MsixPlace }): Capability {
  const { vectors, table, pending } = options;
  return {
    id: CAPABILITY_MSIX,
    bytes: block(12, {
      [MSIX_CONTROL]: [2, vectors - 1],
      4: [4, table.offset | table.bar],
      8: [4, pending.offset | pending.bar],
    }),
    writable: [{ offset: MSIX_CONTROL, width: 2, mask: MSIX_ENABLE | MSIX_MASK_ALL }],
  };
}

/** Power management 1.2: D0 and D3hot; with `noSoftReset` D3hot keeps all state. */
export function powerManagement(options: { noSoftReset?: boolean } = {}): Capability {
  return {
    id: CAPABILITY_PM,
    bytes: block(8, {
      [PM_CAPABILITIES]: [2, 0x3],
      [PM_CONTROL]: [2, options.noSoftReset ? PM_NO_SOFT_RESET : 0],
    }),
    writable: [{ offset: PM_CONTROL, width: 2, mask: PM_STATE }],
  };
}

/** PCI Express, version 2 (60 bytes): of an endpoint, unless `type` says otherwise. `forwardsAri`: see {@link EXPRESS_ARI}. */
export function express(
  options: { type?: ExpressType; functionLevelReset?: boolean; forwardsAri?: boolean } = {},
): Capability {
  const type = EXPRESS_TYPE[options.type ?? "endpoint"];
  return {
    id: CAPABILITY_EXPRESS,
    bytes: block(60, {
      [EXPRESS_FLAGS]: [2, 0x2 | (type << 4)],
      [EXPRESS_CAPABILITIES]: [4, 0x8000 | (options.functionLevelReset ? EXPRESS_FLR : 0)],
      [EXPRESS_CONTROL]: [2, 0x2810],
      [EXPRESS_LINK_CAPABILITIES]: [4, 0x11],
      [EXPRESS_LINK_STATUS]: [2, 0x11],
      [EXPRESS_CAPABILITIES_2]: [4, 0x10 | (options.forwardsAri ? EXPRESS_ARI : 0)],
    }),
    writable: [
      { offset: EXPRESS_CONTROL, width: 2, mask: 0x78ff },
      { offset: EXPRESS_CONTROL_2, width: 2, mask: 0x7f },
    ],
    clearable: [{ offset: 10, width: 2, mask: 0xf }],
  };
}

/** Advanced features: function-level reset for conventional PCI. */
export function advancedFeatures(): Capability {
  return { id: CAPABILITY_AF, bytes: block(6, { 2: [1, 6], [AF_CAPABILITIES]: [1, AF_FLR | 1] }) };
}

/** Access control services: `supported` are bits of {@link ACS}. None is enabled until software does it. */
export function accessControl(supported: number): Capability {
  return {
    id: EXTENDED_ACS,
    version: 1,
    bytes: block(8, { 4: [2, supported] }),
    writable: [{ offset: ACS_CONTROL, width: 2, mask: supported }],
  };
}

/** Address translation services; `queueDepth` invalidations outstanding, 1 to 32. */
export function addressTranslation(options: { queueDepth?: number } = {}): Capability {
  const { queueDepth = 32 } = options;
  return {
    id: EXTENDED_ATS,
    version: 1,
    bytes: block(8, { 4: [2, (queueDepth % 32) | 0x20] }),
    writable: [{ offset: 6, width: 2, mask: 0x801f }],
  };
}

/** Page request interface; `capacity` requests outstanding. */
export function pageRequests(options: { capacity?: number; responseNeedsPasid?: boolean } = {}): Capability {
  return {
    id: EXTENDED_PRI,
    version: 1,
    bytes: block(16, { 6: [2, 0x100 | (options.responseNeedsPasid ? 0x8000 : 0)], 8: [4, options.capacity ?? 32] }),
    writable: [
      { offset: 4, width: 2, mask: 0x1 },
      { offset: 12, width: 4, mask: 0xffffffff },
    ],
    clearable: [{ offset: 6, width: 2, mask: 0x3 }],
  };
}

/** Process address space ids of `width` bits (1 to 20). */
export function pasid(options: { width?: number; execute?: boolean; privileged?: boolean } = {}): Capability {
  const permissions = (options.execute ? 0x2 : 0) | (options.privileged ? 0x4 : 0);
  return {
    id: EXTENDED_PASID,
    version: 1,
    bytes: block(8, { 4: [2, permissions | ((options.width ?? 20) << 8)] }),
    writable: [{ offset: 6, width: 2, mask: 0x1 | permissions }],
  };
}

/** Alternative routing-ID interpretation: a device of up to 256 functions, as those with SR-IOV are. */
export function alternativeRouting(): Capability {
  return { id: EXTENDED_ARI, version: 1, bytes: block(8, {}) };
}

/** What the SR-IOV capability of a physical function says of its virtual ones. */
export interface VirtualFunctionIds {
  /** Between requester ids: from the physical function to the first virtual one, and from each to the next. */
  readonly offset: number;
  readonly stride: number;
  /** Their device id; the vendor is that of the physical function. */
  readonly device: number;
}

/** Single root I/O virtualization (PCIe base specification 9.3.3); page sizes from 4 KiB to 4 MiB as most devices have them. */
export function singleRootIo(total: number, { offset, stride, device }: VirtualFunctionIds): Capability {
  return {
    id: EXTENDED_SR_IOV,
    version: 1,
    bytes: block(64, {
      [SR_IOV_INITIAL]: [2, total],
      [SR_IOV_TOTAL]: [2, total],
      [SR_IOV_OFFSET]: [2, offset],
      [SR_IOV_STRIDE]: [2, stride],
      [SR_IOV_DEVICE]: [2, device],
      [SR_IOV_PAGE_SIZES]: [4, 0x553],
      [SR_IOV_PAGE_SIZE]: [4, 1],
    }),
    writable: [
      { offset: SR_IOV_CONTROL, width: 2, mask: SR_IOV_ENABLE | SR_IOV_MEMORY | SR_IOV_ARI },
      { offset: SR_IOV_COUNT, width: 2, mask: 0xffff },
      { offset: SR_IOV_PAGE_SIZE, width: 4, mask: 0x553 },
    ],
  };
}
