// Runs in a browser.
/**
 * Devices that do not behave as their configuration space says, where that matters for isolation. All of it is publicly
 * known: vendors' errata and statements, and reports of users. Of ports and network controllers Linux 7.2 was asked, id by id
 * (quirks.test-data.json); of devices that use another's number it was not.
 */

/** An id, or a range of them: `[vendor, first, last]`. */
export type QuirkIds = readonly [vendor: number, first: number, last?: number];

/** Functions that do DMA under the device-and-function number of another. `function` is of the same device. */
export const ALIAS_QUIRKS: readonly { readonly ids: QuirkIds; readonly function: number; readonly name: string }[] = [
  { ids: [0x1180, 0xe832], function: 0, name: "Ricoh" },
  { ids: [0x1180, 0xe476], function: 0, name: "Ricoh" },
  ...[
    0x9120, 0x9123, 0x9125, 0x9128, 0x9130, 0x9170, 0x9172, 0x917a, 0x9182, 0x9183, 0x91a0, 0x9215, 0x9220, 0x9230,
    0x9235,
  ].map((device) => ({ ids: [0x1b4b, device] as const, function: 1, name: "Marvell SATA" })),
  { ids: [0x1c28, 0x0122], function: 1, name: "Lite-On SSD" },
  { ids: [0x197b, 0x2392], function: 1, name: "JMicron" },
];

/** Conventional bridges that take over requester ids as a PCIe-to-PCI bridge does, without saying that they are one. */
export const TRANSLATING_BRIDGES: readonly QuirkIds[] = [
  [0x1b21, 0x1080],
  [0x10e3, 0x8113],
  [0x1283, 0x8892],
];

/** Root ports without an ACS capability that isolate all the same: by the chipset's own registers, or always. */
export const ISOLATING_PORTS: readonly QuirkIds[] = [
  [0x8086, 0x1c10, 0x1c1f],
  ...even(0x1d10, 0x1d1e),
  [0x8086, 0x1e10, 0x1e1f],
  [0x8086, 0x8c10, 0x8c1f],
  [0x8086, 0x8d10, 0x8d1e],
  [0x8086, 0x9c10, 0x9c1b],
  [0x8086, 0x9c90, 0x9c9b],
  [0x17cb, 0x0400, 0x0401],
  [0x1d17, 0x0710, 0x071e],
  [0x1dbf, 0x0401],
  [0x1def, 0xe005, 0xe00c],
];

/** Network controllers whose vendor states that their functions do not reach each other: those of which Linux knows it. */
export const ISOLATING_ENDPOINTS: readonly QuirkIds[] = [
  [0x8086, 0x105e, 0x1060],
  [0x8086, 0x10e6, 0x10e8],
  [0x8086, 0x10f7, 0x10f9],
  [0x8086, 0x10fb, 0x10fc],
  [0x8086, 0x150e, 0x1511],
  [0x8086, 0x1521, 0x1524],
  ...[
    0x10a7, 0x10a9, 0x10c6, 0x10c9, 0x10d6, 0x10d9, 0x10db, 0x10dd, 0x10e1, 0x10f1, 0x1507, 0x1509, 0x150a, 0x150d,
    0x1514, 0x1516, 0x1518, 0x151c, 0x1526, 0x1527, 0x1529, 0x152a, 0x154d, 0x1558, 0x15b7, 0x15b8,
  ].map((device) => [0x8086, device] as const),
];

/**
 * Endpoints of the root complex reach each other only with addresses that the IOMMU translated (Intel VT-d specification,
 * root-complex peer-to-peer considerations); recorded for several of them.
 */
export const ISOLATING_ROOT_COMPLEX: readonly QuirkIds[] = [[0x8086, 0x0000, 0xffff]];

/** Root ports whose ACS capability and control registers are 32 bits wide, at 4 and 8 (Intel 100 and 200 series, and the mobile ones). */
export const WIDE_ACS_PORTS: readonly QuirkIds[] = [
  [0x8086, 0x9d10, 0x9d1b],
  [0x8086, 0xa110, 0xa11f],
  [0x8086, 0xa167, 0xa16a],
  [0x8086, 0xa290, 0xa29f],
  [0x8086, 0xa2e7, 0xa2ee],
];

/** Intel's devices with the even ones of these ids. */
function even(first: number, last: number): QuirkIds[] {
  const ids: QuirkIds[] = [];
  for (let device = first; device <= last; device += 2) ids.push([0x8086, device]);
  return ids;
}

/** True if the ids are among those of `list`. */
export function isListed(list: readonly QuirkIds[], vendor: number, device: number): boolean {
  return list.some((ids) => matches(ids, vendor, device));
}

export function matches([vendorId, first, last = first]: QuirkIds, vendor: number, device: number): boolean {
  return vendor === vendorId && device >= first && device <= last;
}
