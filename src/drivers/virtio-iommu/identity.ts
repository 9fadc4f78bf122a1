// Runs in a browser.
import { type Device, Domain, type ReservedRegion } from "../../iommu/index.ts";
import { ENOSPC, IntervalMap, numberOf, refuse, type Task } from "../../runtime/index.ts";
import { attach } from "./attach.ts";
import { type Mapping, type Master, masterOf, type Translation } from "./master.ts";
import { MAP_READ, MAP_WRITE } from "./requests.ts";
import { attachBesidePasids } from "./tables.ts";

/**
 * The identity domain, one for all devices of all virtio IOMMUs (reference 7.4). Behind an IOMMU with bypass domains it is
 * one of those; behind another each device has a domain that maps everything 1:1 but what is reserved.
 */
export class IdentityDomain extends Domain {
  readonly label = "the identity domain";
  readonly type = "identity";
  readonly owner: undefined;

  /** Refusals: ENOSPC if no domain id is free; what the device answers. */
  override *attachDevice(device: Device): Task<void> {
    const master = masterOf(device);
    if ((master.tables?.pasids.size ?? 0) > 0) return yield* attachBesidePasids(master, "bypass");
    yield* attach(master, master.instance.bypass ?? (master.identity ??= mapOneToOne(master)));
  }

  override free(): void {}
}

/** Gives back the domain that {@link IdentityDomain} made for a master, which must not be attached to it. */
export function freeIdentity({ instance, identity }: Master): void {
  if (identity !== undefined) instance.domainIds.free(identity.id);
}

function mapOneToOne({ instance, reserved, device }: Master): Translation {
  const { features, system, domainIds } = instance;
  system.failures.point("virtio-iommu.domain.allocate");
  const id = domainIds.allocate() ?? refuse(ENOSPC, () => `${instance.label}: no domain id is free`);
  const mappings = new IntervalMap<Mapping>();
  const page = BigInt(features.pageSizes[0]);
  for (const { start, last } of gaps(features.input, reserved)) {
    const first = ((start + page - 1n) / page) * page;
    const end = ((last + 1n) / page) * page;
    // Multiples of a page are exact as numbers, whatever their size.
    if (end > first) mappings.insert(first, end - 1n, { physical: numberOf(first), flags: MAP_READ | MAP_WRITE });
  }
  return { label: `the identity domain ${id} of ${device.label}`, id, bypass: false, mappings, endpoints: 0 };
}

/** What of a range is not reserved, ascending. */
function* gaps(
  { start, last }: { readonly start: bigint; readonly last: bigint },
  reserved: readonly ReservedRegion[],
): Generator<{ start: bigint; last: bigint }> {
  let at = start;
  for (const region of [...reserved].sort((a, b) => (a.start < b.start ? -1 : 1))) {
    if (region.start > last) break;
    if (region.start > at) yield { start: at, last: region.start - 1n };
    if (region.last >= at) at = region.last + 1n;
  }
  if (at <= last) yield { start: at, last };
}
