// Runs in a browser.
import { BusError, type PhysicalMemory, type RegisterBlock } from "../../memory/index.ts";
import type { DmaTarget, RequesterId } from "../../pci/index.ts";
import { assert, type System, type Task } from "../../runtime/index.ts";
import { ContextTables } from "../smmuv3/index.ts";
import {
  ConfigSpace,
  type DeviceConfig,
  F_ATTACH_TABLE,
  F_BYPASS_CONFIG,
  F_INDIRECT_DESC,
  F_VERSION_1_HIGH,
  virtioIommuConfig,
} from "./config.ts";
import { Domains } from "./domains.ts";
import { explainFault, FAULT_BYTES, type Fault, type FaultExplanation, faultEvent } from "./faults.ts";
import { INTERRUPT_USED, type MmioDevice, MmioRegisters } from "./mmio.ts";
import { propertyListSize, type ReservedMemory, type TableProperties } from "./properties.ts";
import { RequestHandler } from "./requests.ts";
import { BadRing, Virtqueue } from "./virtqueue.ts";

export interface VirtioIommuOptions {
  /** For people: `"viommu0"`. */
  readonly label?: string;
  readonly config?: DeviceConfig;
  /** Ids of the endpoints that it translates: of a PCI function, its requester id. */
  readonly endpoints: Iterable<number>;
  /** What a PROBE says of every endpoint. */
  readonly reserved?: readonly ReservedMemory[];
  /** Entries of each queue at most: a power of two. Default 256. */
  readonly queueSize?: number;
  /** The interrupt line pulses. */
  readonly interrupt?: () => void;
}

const DEVICE_ID = 23;
const REQUEST_QUEUE = 0;
const EVENT_QUEUE = 1;

export class VirtioIommu implements RegisterBlock, DmaTarget {
  readonly label: string;
  /** Told of each fault, recorded or not. */
  onFault: ((fault: FaultExplanation) => void) | undefined;

  private readonly system: System;
  private readonly memory: PhysicalMemory;
  private readonly space: ConfigSpace;
  private readonly tables: ContextTables | undefined;
  private readonly domains: Domains;
  private readonly requests: RequestHandler;
  private readonly queues: readonly [requests: Virtqueue, events: Virtqueue];
  private readonly registers: MmioRegisters;
  private readonly offersBypass: boolean;

  constructor(system: System, memory: PhysicalMemory, options: VirtioIommuOptions) {
    const { config = virtioIommuConfig(), queueSize = 256 } = options;
    // What cannot be told is not reserved.
    const reserved = config.probeSize === 0 ? [] : (options.reserved ?? []);
    const hasTables = (config.features & F_ATTACH_TABLE) !== 0;
    assert(
      config.probeSize === 0 || propertyListSize(reserved, hasTables) <= config.probeSize,
      () => `${reserved.length} reserved regions do not fit into ${config.probeSize} bytes`,
    );
    this.system = system;
    this.memory = memory;
    this.label = options.label ?? "viommu";
    this.space = new ConfigSpace(config);
    this.tables = hasTables ? new ContextTables(memory) : undefined;
    this.domains = new Domains(config, options.endpoints, { reserved, tables: this.tables });
    this.requests = new RequestHandler(config, this.domains, reserved, this.tables && tableProperties(this.tables));
    this.queues = [new Virtqueue(memory, queueSize), new Virtqueue(memory, queueSize)];
    this.offersBypass = (config.features & F_BYPASS_CONFIG) !== 0;
    this.registers = new MmioRegisters(this.asDevice(config), options.interrupt ?? (() => undefined));
  }

  /** Domains and mappings that requests made: for inspection. */
  get occupancy(): { readonly domains: number; readonly mappings: number } {
    return this.domains.occupancy;
  }

  /** These endpoints exist from now on, besides those that do. */
  connect(endpoints: Iterable<number>): void {
    this.domains.connect(endpoints);
  }

  // Registers

  read32(offset: number): number {
    return this.registers.read(offset);
  }

  read64(offset: number): bigint {
    return BigInt(this.registers.read(offset + 4)) * 0x1_0000_0000n + BigInt(this.registers.read(offset));
  }

  write32(offset: number, value: number): void {
    this.registers.write(offset, value);
  }

  write64(offset: number, low: number, high: number): void {
    this.registers.write(offset, low);
    this.registers.write(offset + 4, high);
  }

  /** What the registers know of the device behind them. */
  private asDevice(config: DeviceConfig): MmioDevice {
    const { space, domains, queues } = this;
    return {
      deviceId: DEVICE_ID,
      features: [config.features, F_VERSION_1_HIGH],
      required: [0, F_VERSION_1_HIGH],
      queues,
      readConfig: (offset) => space.read(offset),
      writeConfig: (offset, value) => space.write(offset, value),
      negotiated: (low) => {
        domains.features = low;
        space.bypassIsWritable = (low & F_BYPASS_CONFIG) !== 0;
        for (const queue of queues) queue.allowsIndirect = (low & F_INDIRECT_DESC) !== 0;
      },
      notified: (queue) => {
        // Buffers of the event queue wait for faults.
        if (queue === REQUEST_QUEUE) this.serveRequests();
      },
      reset: () => {
        domains.reset();
        space.bypassIsWritable = false;
      },
    };
  }

  // Queues

  /** Answers every request that is available. */
  private serveRequests(): void {
    const queue = this.queues[REQUEST_QUEUE];
    const { events } = this.system;
    this.followRing(() => {
      let wantsInterrupt = false;
      for (let chain = queue.take(); chain !== undefined; chain = queue.take()) {
        const { name, status, written } = this.requests.handle(chain);
        wantsInterrupt = queue.complete(chain, written);
        if (events.on) events.emit({ kind: "virtio-iommu.request.answer", iommu: this.label, name, status, written });
      }
      if (wantsInterrupt) this.registers.raise(INTERRUPT_USED);
    });
  }

  /** Leaves an event with the driver; false if there is no buffer for it, and it is lost. */
  private record(fault: Fault): boolean {
    if (!this.registers.isLive) return false;
    const queue = this.queues[EVENT_QUEUE];
    let recorded = false;
    this.followRing(() => {
      const chain = queue.take();
      if (chain === undefined) return;
      recorded = chain.writableBytes >= FAULT_BYTES;
      if (recorded) chain.write(faultEvent(fault), 0);
      if (queue.complete(chain, recorded ? FAULT_BYTES : 0)) this.registers.raise(INTERRUPT_USED);
    });
    return recorded;
  }

  /** A ring that cannot be followed, or that is not in memory, is the end until a reset. */
  private followRing(step: () => void): void {
    try {
      step();
    } catch (error) {
      if (!(error instanceof BadRing) && !(error instanceof BusError)) throw error;
      const text = error instanceof BadRing ? error.reason : error.toString();
      const { events } = this.system;
      if (events.on) events.emit({ kind: "virtio-iommu.device.break", iommu: this.label, text });
      this.registers.needReset();
    }
  }

  // DMA

  /**
   * Translates one access for `endpoint`: the physical address, and how many bytes behind it are translated alike; or
   * undefined, and the fault was told.
   */
  translate(
    endpoint: number,
    address: bigint,
    write: boolean,
    pasid?: number,
  ): { readonly physical: number; readonly reach: number } | undefined {
    const { domains } = this;
    const reason = domains.translate(endpoint, pasid, address, write, this.bypassesAtLarge);
    if (reason === undefined) return { physical: domains.physical, reach: domains.reach };
    this.tell({ reason, endpoint, address, write });
    return undefined;
  }

  /** One DMA, mapping by mapping. It can be overtaken before each, not between its translation and its transfer. */
  *access(
    requester: RequesterId,
    pasid: number | undefined,
    address: bigint,
    bytes: Uint8Array,
    write: boolean,
  ): Task<boolean> {
    assert(address >= 0n && address < 2n ** 64n, () => `DMA address ${address} is not a 64-bit one`);
    const { tasks } = this.system;
    for (let done = 0; done < bytes.length; ) {
      if (tasks.exploring) yield* tasks.point();
      const at = (address + BigInt(done)) % 2n ** 64n;
      const found = this.translate(requester, at, write, pasid);
      if (found === undefined) return false;
      const count = Math.min(bytes.length - done, found.reach);
      const piece = count === bytes.length ? bytes : bytes.subarray(done, done + count);
      if (!this.transfer(requester, found.physical, piece, write)) return false;
      done += count;
    }
    return true;
  }

  /** What endpoints without a domain may do is what `bypass` says, also if the driver does not know of it (§5.13.6). */
  private get bypassesAtLarge(): boolean {
    return this.offersBypass && this.space.bypass;
  }

  private tell(fault: Fault): void {
    const recorded = this.record(fault);
    const { events } = this.system;
    if (this.onFault === undefined && !events.on) return;
    const explanation = explainFault(this.label, fault, recorded);
    this.onFault?.(explanation);
    if (!events.on) return;
    const { endpoint, reason } = fault;
    events.emit({
      kind: "virtio-iommu.translation.fault",
      iommu: this.label,
      endpoint,
      reason,
      recorded,
      text: explanation.text(),
    });
  }

  /** False: nothing answers at the physical address. */
  private transfer(endpoint: number, physical: number, piece: Uint8Array, write: boolean): boolean {
    const { events } = this.system;
    if (events.on) {
      const { length } = piece;
      events.emit({ kind: "virtio-iommu.access.transfer", iommu: this.label, endpoint, physical, length, write });
    }
    return this.memory.access(physical, piece, write);
  }
}

function tableProperties({ asidBits, substreamBits, allowsTwoLevels }: ContextTables): TableProperties {
  return { inputBits: 48, outputBits: 48, asidBits, pasidBits: substreamBits, twoLevels: allowsTwoLevels };
}
