// Runs in a browser.
import type { IommuInstance } from "../../iommu/index.ts";
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import { ArmContexts } from "../../pasidtable/index.ts";
import { IdAllocator, type System } from "../../runtime/index.ts";
import { CommandQueue } from "./command-queue.ts";
import { invalidateAsid } from "./commands.ts";
import type { SmmuV3Driver } from "./driver.ts";
import { EventRing } from "./event-ring.ts";
import type { Features } from "./features.ts";
import type { Master } from "./master.ts";
import { EVENTQ_BASE, EVENTQ_CONS, EVENTQ_PROD, PRIQ_BASE, PRIQ_CONS, PRIQ_PROD } from "./registers.ts";
import { StreamTable } from "./stream-table.ts";

/** How the machine describes one SMMU to the driver. */
export interface SmmuV3Options {
  /** Name under /sys/class/iommu: `"smmu3.0x0000000009050000"`. */
  readonly name: string;
  /** The SMMU's accesses are coherent with the CPU's caches; what IDR0 says, if absent. */
  readonly coherent?: boolean;
  /** Where writes become interrupts before they reach the SMMU; without it, message interrupts are translated. */
  readonly msiRegion?: { readonly start: bigint; readonly last: bigint };
}

/** One SMMU that works: its queues, its stream table, its tags, its masters. */
export class SmmuV3Instance implements IommuInstance {
  readonly name: string;
  readonly driver: SmmuV3Driver;
  readonly system: System;
  readonly memory: PhysicalMemory;
  readonly registers: RegisterBlock;
  readonly features: Features;
  readonly options: SmmuV3Options;
  readonly commands: CommandQueue;
  readonly events: EventRing;
  /** Present if there are page requests. */
  readonly pageRequests: EventRing | undefined;
  readonly streamTable: StreamTable;
  /** What stage 1 translates through, and its ASIDs. */
  readonly contexts: ArmContexts;
  /** VMID 0 is never a domain's: it marks streams without stage 2. */
  readonly vmids: IdAllocator;
  /** By stream id. */
  readonly masters = new Map<number, Master>();
  readonly maxPasids: number;

  /** Everything in memory; the hardware is told of it by `resetSmmu`. Refusal ENOMEM. */
  constructor(
    driver: SmmuV3Driver,
    system: System,
    memory: PhysicalMemory,
    registers: RegisterBlock,
    features: Features,
    options: SmmuV3Options,
  ) {
    this.name = options.name;
    this.driver = driver;
    this.system = system;
    this.memory = memory;
    this.registers = registers;
    this.features = features;
    this.options = options;
    this.vmids = new IdAllocator(1, 2 ** features.vmidBits - 1);
    this.maxPasids = features.substreamIdBits === 0 ? 0 : 2 ** features.substreamIdBits;

    const made: { free(): void }[] = [];
    const keep = <T extends { free(): void }>(part: T): T => {
      made.unshift(part);
      return part;
    };
    try {
      const { commandQueueLog2, eventQueueLog2, priQueueLog2, ats, pri } = features;
      this.commands = keep(
        new CommandQueue(system, memory, registers, { name: this.name, log2EntriesMax: commandQueueLog2 }),
      );
      this.events = keep(
        new EventRing(memory, registers, {
          base: EVENTQ_BASE,
          prod: EVENTQ_PROD,
          cons: EVENTQ_CONS,
          entryBytes: 32,
          log2EntriesMax: eventQueueLog2,
        }),
      );
      if (ats && pri) {
        this.pageRequests = keep(
          new EventRing(memory, registers, {
            base: PRIQ_BASE,
            prod: PRIQ_PROD,
            cons: PRIQ_CONS,
            entryBytes: 16,
            log2EntriesMax: priQueueLog2,
          }),
        );
      }
      this.streamTable = keep(new StreamTable(system, memory, features));
      const { commands } = this;
      this.contexts = new ArmContexts(system, memory, {
        label: this.label,
        asidBits: features.asidBits,
        broadcast: features.broadcastTlb,
        dirtyState: features.dirtyState,
        mustStall: features.stalls === "forced",
        *flush(asid) {
          invalidateAsid(commands, asid);
          yield* commands.sync();
        },
      });
    } catch (error) {
      for (const part of made) part.free();
      throw error;
    }
  }

  /** Gives its memory back; the SMMU must have been disabled. */
  free(): void {
    this.streamTable.free();
    this.pageRequests?.free();
    this.events.free();
    this.commands.free();
  }

  get label(): string {
    return `SMMU ${this.name}`;
  }
}
