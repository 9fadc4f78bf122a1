// Runs in a browser.
import type { IommuInstance } from "../../iommu/index.ts";
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import { ArmContexts } from "../../pasidtable/index.ts";
import { ENOSPC, IdAllocator, IntervalMap, RwLock, refuse, type System, type Task } from "../../runtime/index.ts";
import type { VirtioIommuDriver } from "./driver.ts";
import { EventQueue } from "./event-queue.ts";
import type { Features } from "./features.ts";
import type { Master, Translation } from "./master.ts";
import type { TableProperties } from "./properties.ts";
import { RequestQueue } from "./request-queue.ts";
import { writeInvalidateAsid } from "./requests.ts";

/** How the machine describes one virtio IOMMU to the driver. */
export interface VirtioIommuOptions {
  /** Name under /sys/class/iommu: `"9050000.virtio_mmio"`. */
  readonly name: string;
}

/** One virtio IOMMU that works: its queues, its domain ids, its masters. */
export class VirtioIommuInstance implements IommuInstance {
  readonly name: string;
  readonly driver: VirtioIommuDriver;
  readonly system: System;
  readonly registers: RegisterBlock;
  readonly features: Features;
  readonly requests: RequestQueue;
  readonly events: EventQueue;
  readonly domainIds: IdAllocator;
  /** The domain that translates nothing, if the IOMMU has such domains: the first id is its own. */
  readonly bypass: Translation | undefined;
  /** By endpoint. */
  readonly masters = new Map<number, Master>();
  /** Held for reading while mappings change, for writing while endpoints move. */
  readonly attachments: RwLock;
  readonly memory: PhysicalMemory;
  /** PASIDs need tables of our own; the most that an endpoint was found to have. */
  maxPasids = 0;
  /** What tables of our own lead to, once an endpoint was found that may be attached to such. */
  contexts: ArmContexts | undefined;
  /** The domain without mappings, made when first needed. */
  blocked: Translation | undefined;

  /** Everything in memory; the device is told of it by {@link program}. Refusals: ENODEV, ENOMEM. */
  constructor(
    driver: VirtioIommuDriver,
    system: System,
    memory: PhysicalMemory,
    registers: RegisterBlock,
    features: Features,
    options: VirtioIommuOptions,
  ) {
    this.name = options.name;
    this.driver = driver;
    this.system = system;
    this.memory = memory;
    this.registers = registers;
    this.features = features;
    const { first, last } = features.domains;
    if (features.bypassDomains) {
      this.bypass = {
        label: "the identity domain",
        id: first,
        bypass: true,
        mappings: new IntervalMap(),
        endpoints: 0,
      };
    }
    this.domainIds = new IdAllocator(features.bypassDomains ? first + 1 : first, last);
    this.attachments = new RwLock(system, "virtio-iommu.attachments");
    this.requests = new RequestQueue(system, memory, registers, this.name);
    try {
      this.events = new EventQueue(memory, registers);
    } catch (error) {
      this.requests.free();
      throw error;
    }
  }

  /** Tells the device of its queues. Refusal ENODEV. */
  program(): void {
    this.requests.program();
    this.events.program();
  }

  /** Gives its memory back; the device must have been reset. */
  free(): void {
    this.events.free();
    this.requests.free();
  }

  /** Refusal ENOSPC if no domain id is free. */
  blockedTranslation(): Translation {
    if (this.blocked === undefined) {
      this.system.failures.point("virtio-iommu.domain.allocate");
      const id = this.domainIds.allocate() ?? refuse(ENOSPC, () => `${this.label}: no domain id is free`);
      this.blocked = { label: "the blocked domain", id, bypass: false, mappings: new IntervalMap(), endpoints: 0 };
    }
    return this.blocked;
  }

  /** Gives that domain back; nobody is attached to it. */
  freeBlocked(): void {
    if (this.blocked !== undefined) this.domainIds.free(this.blocked.id);
    this.blocked = undefined;
  }

  /** An endpoint may be attached to such tables. */
  learnTables({ asidBits, pasidBits }: TableProperties): void {
    this.maxPasids = Math.max(this.maxPasids, 2 ** pasidBits);
    this.contexts ??= new ArmContexts(this.system, this.memory, {
      label: this.label,
      asidBits,
      broadcast: false,
      dirtyState: false,
      mustStall: false,
      flush: (asid) => this.flush(asid),
    });
  }

  get label(): string {
    return `virtio IOMMU ${this.name}`;
  }

  private *flush(asid: number): Task<void> {
    const { requests } = this;
    for (const { tables } of new Set(this.masters.values())) {
      if (tables?.own !== undefined) requests.push(writeInvalidateAsid(requests.request, tables.domainId!, asid));
    }
    yield* requests.sync();
  }

  warn(text: string): void {
    const { events } = this.system;
    if (events.on) events.emit({ kind: "virtio-iommu.warning", instance: this.name, text });
  }
}
