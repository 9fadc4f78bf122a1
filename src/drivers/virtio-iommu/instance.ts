// Runs in a browser.
import type { IommuInstance } from "../../iommu/index.ts";
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import { IdAllocator, IntervalMap, RwLock, type System } from "../../runtime/index.ts";
import type { VirtioIommuDriver } from "./driver.ts";
import { EventQueue } from "./event-queue.ts";
import type { Features } from "./features.ts";
import type { Master, Translation } from "./master.ts";
import { RequestQueue } from "./request-queue.ts";

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
  /** PASIDs need tables of the driver's own. */
  readonly maxPasids = 0;

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

  get label(): string {
    return `virtio IOMMU ${this.name}`;
  }

  warn(text: string): void {
    const { events } = this.system;
    if (events.on) events.emit({ kind: "virtio-iommu.warning", instance: this.name, text });
  }
}
