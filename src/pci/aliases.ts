// Runs in a browser.
/** Under which requester ids the DMA of a function reaches the IOMMU, and who bears them (reference 2.3, step 1). */
import type { PciBus } from "./bus.ts";
import type { RequesterId } from "./dma.ts";
import type { PciFunction } from "./function.ts";
import { DEVICE_ID, SECONDARY_BUS, VENDOR_ID } from "./ids.ts";
import { ALIAS_QUIRKS, isListed, matches, TRANSLATING_BRIDGES } from "./quirks.ts";

export interface DmaAlias {
  readonly requesterId: RequesterId;
  /** Whose it is: the function itself, or a bridge that puts its own in place of those behind it. */
  readonly bearer: PciFunction;
}

/** From the function itself up to the root; the last one is what the IOMMU sees of it. */
export function dmaAliases(pci: PciFunction): DmaAlias[] {
  const aliases: DmaAlias[] = [{ requesterId: pci.requesterId, bearer: pci }];
  const { bus: ownBus } = pci.place!;
  for (const devfn of aliasDevfns(pci)) aliases.push({ requesterId: ownBus.number * 256 + devfn, bearer: pci });
  for (let bus: PciBus | undefined = ownBus; bus !== undefined; bus = bus.parent) {
    const requesterId = bus.bridge && requesterIdOfBridge(bus.bridge);
    if (requesterId !== undefined) aliases.push({ requesterId, bearer: bus.bridge! });
  }
  return aliases;
}

/** True if requests of one may carry the requester id of the other. */
export function areDmaAliases(one: PciFunction, other: PciFunction): boolean {
  return (
    one.place!.bus === other.place!.bus &&
    (aliasDevfns(one).includes(other.devfn) || aliasDevfns(other).includes(one.devfn))
  );
}

/** Numbers on its own bus, besides its own, that the function uses. */
function aliasDevfns(pci: PciFunction): number[] {
  const vendor = pci.readConfig(VENDOR_ID, 2);
  const device = pci.readConfig(DEVICE_ID, 2);
  return ALIAS_QUIRKS.filter(({ ids }) => matches(ids, vendor, device))
    .map((quirk) => pci.place!.device * 8 + quirk.function)
    .filter((devfn) => devfn !== pci.devfn);
}

/**
 * What a bridge puts in place of the ids behind it: a PCIe-to-PCI bridge number 0 of its secondary bus (PCIe-to-PCI bridge
 * specification 2.3), a conventional one and one back to PCIe its own. Ports leave ids alone.
 */
function requesterIdOfBridge(bridge: PciFunction): RequesterId | undefined {
  const secondary = bridge.readConfig(SECONDARY_BUS, 1) * 256;
  if (!bridge.isExpress) {
    const translates = isListed(TRANSLATING_BRIDGES, bridge.readConfig(VENDOR_ID, 2), bridge.readConfig(DEVICE_ID, 2));
    return translates ? secondary : bridge.requesterId;
  }
  if (bridge.expressType === "expressToPciBridge") return secondary;
  return bridge.expressType === "pciToExpressBridge" ? bridge.requesterId : undefined;
}
