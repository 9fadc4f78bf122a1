// Runs in a browser.
/**
 * Paging domains: a record of mappings, which the IOMMU has too while endpoints are attached (reference 7.4).
 *
 * A mapping is a unit: it goes whole, as the IOMMU removes it. What one call maps is one mapping.
 */
import {
  type Device,
  type Domain,
  emptyGather,
  extendGather,
  type IommuDriver,
  PagingDomain,
  PROT_MMIO,
  PROT_READ,
  PROT_WRITE,
  type UnmapGather,
} from "../../iommu/index.ts";
import { PAGE_SIZE } from "../../memory/index.ts";
import {
  EADDRINUSE,
  EINVAL,
  ENODEV,
  ENOSPC,
  ERANGE,
  IntervalMap,
  numberOf,
  refuse,
  type Task,
} from "../../runtime/index.ts";
import { attach } from "./attach.ts";
import type { VirtioIommuInstance } from "./instance.ts";
import { masterOf, type Translation } from "./master.ts";
import { errnoOf, MAP_MMIO, MAP_READ, MAP_WRITE, STATUS_OK, statusName, writeMap, writeUnmap } from "./requests.ts";

export class VirtioIommuPagingDomain extends PagingDomain {
  readonly label: string;
  readonly owner: IommuDriver;
  readonly instance: VirtioIommuInstance;
  readonly pageSizes: readonly number[];
  readonly aperture: { readonly start: bigint; readonly last: bigint };
  private readonly translation: Translation;
  private readonly granule: number;

  /** Refusals: ENODEV if the smallest page is larger than the CPU's; ENOSPC if no domain id is free; ENOMEM. */
  constructor(instance: VirtioIommuInstance) {
    super();
    const { features, system, domainIds, name } = instance;
    const [smallest] = features.pageSizes;
    if (smallest > PAGE_SIZE) {
      refuse(ENODEV, () => `${instance.label}: its smallest page is ${smallest}, above ${PAGE_SIZE}`);
    }
    system.failures.point("virtio-iommu.domain.allocate");
    const id = domainIds.allocate() ?? refuse(ENOSPC, () => `${instance.label}: no domain id is free`);
    this.instance = instance;
    this.owner = instance.driver;
    this.label = `${name} domain ${id}`;
    this.pageSizes = features.pageSizes;
    this.granule = smallest;
    this.aperture = features.input;
    this.translation = { label: this.label, id, bypass: false, mappings: new IntervalMap(), endpoints: 0 };
  }

  /** Refusals: EINVAL for a device behind another IOMMU; what the IOMMU answers. */
  override *attachDevice(device: Device, _old: Domain | undefined): Task<void> {
    const master = masterOf(device);
    if (master.instance !== this.instance) {
      refuse(
        EINVAL,
        () => `${this.label} belongs to another IOMMU than ${device.label}, which is behind ${master.instance.name}`,
      );
    }
    yield* attach(master, this.translation);
  }

  /** Refusals: EINVAL, ERANGE, EADDRINUSE, ENOMEM, and what the IOMMU answers; then nothing is mapped. */
  override *map(iova: bigint, physical: number, size: number, prot: number): Task<void> {
    const flags = this.flagsOf(prot);
    const last = this.check(iova, physical, size);
    const { attachments, requests, system, label } = this.instance;
    const { id, mappings } = this.translation;
    if (!attachments.tryTakeRead()) yield* attachments.takeRead();
    try {
      const there = mappings.firstIntersecting(iova, last);
      if (there !== undefined) {
        refuse(
          EADDRINUSE,
          () => `${this.label} maps 0x${there.start.toString(16)}-0x${there.last.toString(16)} already`,
        );
      }
      system.failures.point("virtio-iommu.mapping.allocate");
      const mapping = mappings.insert(iova, last, { physical, flags });
      if (this.translation.endpoints === 0) return;
      const ticket = requests.push(writeMap(requests.request, id, iova, last, physical, flags));
      if (!requests.trySync()) yield* requests.sync();
      if (ticket.status === STATUS_OK) return;
      mappings.remove(mapping);
      const status = ticket.status!;
      refuse(errnoOf(status), () => `${label} answers ${statusName(status)} to a mapping at 0x${iova.toString(16)}`);
    } finally {
      attachments.releaseRead();
    }
  }

  /**
   * Removes whole mappings: those that begin in the range, up to its end or past it, until one that would be split. The
   * requests are on their way when it returns; {@link sync} waits for them. 0 if less than was asked for is removed.
   */
  override *unmap(iova: bigint, size: number, gather: UnmapGather): Task<number> {
    const { attachments, requests } = this.instance;
    const { id, mappings } = this.translation;
    const last = iova + BigInt(size) - 1n;
    if (!attachments.tryTakeRead()) yield* attachments.takeRead();
    try {
      let removed = 0;
      let lastRemoved = iova;
      for (let at = mappings.firstIntersecting(iova, last); at !== undefined && at.start <= last; ) {
        if (at.start < iova) break;
        const next = mappings.next(at);
        mappings.remove(at);
        removed += numberOf(at.last - at.start) + 1;
        lastRemoved = at.last;
        at = next;
      }
      if (removed === 0) return 0;
      if (this.translation.endpoints > 0) {
        const bytes = writeUnmap(requests.request, id, iova, lastRemoved);
        requests.push(bytes, () => `unmapping 0x${iova.toString(16)}-0x${lastRemoved.toString(16)} of ${this.label}`);
      }
      extendGather(gather, iova, lastRemoved);
      return removed < size ? 0 : removed;
    } finally {
      attachments.releaseRead();
    }
  }

  override *sync(gather: UnmapGather): Task<void> {
    if (gather.last < gather.start) return;
    const { requests } = this.instance;
    if (!requests.trySync()) yield* requests.sync();
    emptyGather(gather);
  }

  override translate(iova: bigint): number | undefined {
    const found = this.translation.mappings.at(iova);
    return found && found.value.physical + Number(iova - found.start);
  }

  override free(): void {
    this.instance.domainIds.free(this.translation.id);
  }

  private flagsOf(prot: number): number {
    const { features, label } = this.instance;
    if ((prot & PROT_MMIO) !== 0 && !features.mmio) {
      refuse(EINVAL, () => `${label} cannot map device memory: it does not offer MMIO`);
    }
    return (
      ((prot & PROT_READ) !== 0 ? MAP_READ : 0) |
      ((prot & PROT_WRITE) !== 0 ? MAP_WRITE : 0) |
      ((prot & PROT_MMIO) !== 0 ? MAP_MMIO : 0)
    );
  }

  /** The last address of a range that can be mapped. */
  private check(iova: bigint, physical: number, size: number): bigint {
    const { granule } = this;
    const { start, last: end } = this.aperture;
    if (numberOf(iova) % granule !== 0 || physical % granule !== 0 || size % granule !== 0 || size === 0) {
      refuse(
        EINVAL,
        () => `0x${iova.toString(16)} to 0x${physical.toString(16)}, size 0x${size.toString(16)}: not whole pages`,
      );
    }
    const last = iova + BigInt(size) - 1n;
    if (iova < start || last > end) {
      refuse(ERANGE, () => `0x${iova.toString(16)} +0x${size.toString(16)} is outside of the IOVAs of ${this.label}`);
    }
    return last;
  }
}
