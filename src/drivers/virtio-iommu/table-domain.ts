// Runs in a browser.
/** Domains with a page table of our own, which the IOMMU walks below the PASID tables of their devices: see `tables.ts`. */
import { type Device, type Domain, type IommuDriver, TableDomain, type UnmapGather } from "../../iommu/index.ts";
import { PAGE_SIZE } from "../../memory/index.ts";
import { lpae } from "../../pagetable/index.ts";
import type { ArmContext, AsidHolder } from "../../pasidtable/index.ts";
import { done, EINVAL, numberOf, refuse, type Task } from "../../runtime/index.ts";
import type { VirtioIommuInstance } from "./instance.ts";
import { type Master, masterOf } from "./master.ts";
import type { TableProperties } from "./properties.ts";
import { writeInvalidateAsid, writeInvalidateRange } from "./requests.ts";
import { attachPasid, attachToTable, type TableTranslation } from "./tables.ts";

const GRANULE_LOG2 = Math.log2(PAGE_SIZE);

export class VirtioIommuTableDomain extends TableDomain implements TableTranslation, AsidHolder {
  readonly owner: IommuDriver;
  readonly instance: VirtioIommuInstance;
  readonly context: ArmContext;
  /** How often the tables with these domain ids lead here. */
  private readonly users = new Map<number, number>();
  /** Under which the IOMMU may remember translations of it. */
  private readonly asids = new Set<number>();

  /** Refusals: EBUSY if no ASID is free; ENOMEM. */
  constructor(instance: VirtioIommuInstance, { inputBits, outputBits }: TableProperties) {
    const format = lpae({ stage: 1, granule: PAGE_SIZE, inputBits, outputBits });
    super(instance.system, instance.memory, format);
    this.instance = instance;
    this.owner = instance.driver;
    const content = { label: `${instance.name} domain`, root: this.table.root, format, dirtyTracking: false };
    try {
      this.context = instance.contexts!.prepare(content, this);
    } catch (error) {
      this.table.free();
      throw error;
    }
    this.asids.add(this.context.asid);
  }

  get label(): string {
    return this.context.label;
  }

  /** Refusals: EINVAL for a device that has no such tables, or is behind another IOMMU; ENOMEM; what the IOMMU answers. */
  override *attachDevice(device: Device, _old: Domain | undefined): Task<void> {
    yield* attachToTable(this.masterOf(device), this);
  }

  override *setDevicePasid(device: Device, pasid: number, _old: Domain | undefined): Task<void> {
    yield* attachPasid(this.masterOf(device), pasid, this);
  }

  protected override invalidate(gather: UnmapGather): Task<void> {
    const { requests } = this.instance;
    const start = numberOf(gather.start);
    const count = (numberOf(gather.last) - start + 1) / PAGE_SIZE;
    for (const domainId of this.users.keys()) {
      for (const asid of this.asids) {
        const bytes = writeInvalidateRange(requests.request, domainId, asid, start, count, GRANULE_LOG2);
        requests.push(bytes, () => `invalidating ${count} pages of ${this.label}`);
      }
    }
    return requests.trySync() ? done : requests.sync();
  }

  override free(): void {
    this.table.free();
    this.instance.contexts!.release(this.context);
  }

  enter(domainId: number): void {
    this.users.set(domainId, (this.users.get(domainId) ?? 0) + 1);
  }

  *leave(domainId: number, isAttached: boolean): Task<void> {
    const left = this.users.get(domainId)! - 1;
    if (left > 0) {
      this.users.set(domainId, left);
      return;
    }
    this.users.delete(domainId);
    if (!isAttached) return;
    const { requests } = this.instance;
    for (const asid of this.asids) {
      const bytes = writeInvalidateAsid(requests.request, domainId, asid);
      requests.push(bytes, () => `invalidating ${this.label}`);
    }
    if (!requests.trySync()) yield* requests.sync();
  }

  alsoUnder(asid: number): void {
    this.asids.add(asid);
  }

  notUnder(asid: number): void {
    this.asids.delete(asid);
  }

  private masterOf(device: Device): Master {
    const master = masterOf(device);
    if (master.instance !== this.instance || master.tables === undefined) {
      refuse(
        EINVAL,
        () => `${this.label} is no domain for ${device.label}: that is behind another IOMMU, or has no tables`,
      );
    }
    return master;
  }
}
