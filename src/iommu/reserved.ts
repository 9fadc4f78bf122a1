// Runs in a browser.
/** Addresses that are not free for devices, or that some devices need (reference 2.9). */
import type { Device } from "./device.ts";
import type { ReservedRegion } from "./driver.ts";

/** Values of Linux's enum iommu_resv_type: the order of regions that start at the same address. */
const typeOrder: Readonly<Record<ReservedRegion["type"], number>> = {
  direct: 0,
  "direct-relaxable": 1,
  reserved: 2,
  msi: 3,
  "software-msi": 4,
};

/** The regions sorted by start, then type; those of one type that overlap or touch are joined (reference 2.9). */
export function mergeRegions(regions: Iterable<ReservedRegion>): ReservedRegion[] {
  const sorted = [...regions].sort((a, b) =>
    a.start < b.start ? -1 : a.start > b.start ? 1 : typeOrder[a.type] - typeOrder[b.type],
  );
  const latest = new Map<ReservedRegion["type"], number>();
  const merged: ReservedRegion[] = [];
  for (const region of sorted) {
    const index = latest.get(region.type);
    const before = index === undefined ? undefined : merged[index];
    if (index !== undefined && before !== undefined && region.start <= before.last + 1n) {
      if (region.last > before.last) merged[index] = { ...before, last: region.last };
    } else {
      latest.set(region.type, merged.length);
      merged.push(region);
    }
  }
  return merged;
}

/** What a device must not be given, or must have 1:1: as its IOMMU's driver knows, and as the firmware says. */
export function reservedRegionsOf(device: Device): ReservedRegion[] {
  const driverRegions = device.iommu?.instance.driver.reservedRegions(device) ?? [];
  return [...(device.firmware?.reserved ?? []), ...driverRegions];
}
