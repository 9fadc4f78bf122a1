// Runs in a browser.
/**
 * PCI: functions, buses, and the host that joins them to memory.
 *
 * - A *function* (function.ts) is what has a requester id: configuration space, BARs, interrupts, a way to memory. A device
 *   model extends PciDevice (device.ts).
 * - Configuration space is bytes (config-space.ts): what a capability shows and lets be written is data
 *   (capabilities.ts), what a write sets off is in the function.
 * - The *host* routes: a write to the doorbell window goes to the interrupt controller, every other access to the
 *   DmaTarget, which is an IOMMU or memory itself.
 * - What an operating system does with functions is here as well, since every driver needs the same: vectors.ts,
 *   reset.ts, drivers.ts, sysfs.ts.
 *
 * Always true: a function's place never changes; BAR addresses are what configuration space says. No locks: everything
 * here happens between two points of preemption, except DMA, resets and what drivers do.
 */
import { assert, type System, type Task } from "../runtime/index.ts";
import type { Bar } from "./bar.ts";
import { PciBus } from "./bus.ts";
import { ACS, ACS_CONTROL } from "./capabilities.ts";
import type { DmaTarget, InterruptController, Message } from "./dma.ts";
import { PciDrivers } from "./drivers.ts";
import type { PciFunction } from "./function.ts";
import {
  COMMAND,
  COMMAND_IO,
  COMMAND_MEMORY,
  COMMAND_SERR,
  EXTENDED_ACS,
  HEADER_TYPE,
  HEADER_TYPE_MULTIFUNCTION,
  INTERRUPT_LINE,
  INTERRUPT_PIN,
} from "./ids.ts";
import type { ResetWatch } from "./reset.ts";

/** A range of addresses, in bytes. */
export interface Window {
  readonly start: number;
  readonly size: number;
}

export interface PciHostOptions {
  readonly segment?: number;
  readonly target: DmaTarget;
  readonly interrupts: InterruptController;
  /** Where BARs are placed: those below 4 GiB, 64-bit ones, I/O ports. */
  readonly windows?: { readonly memory32?: Window; readonly memory64?: Window; readonly io?: Window };
  /** The interrupt of INTA of device 0; the four lines follow each other, swizzled by device number. */
  readonly firstInterruptLine?: number;
}

const defaultWindows = {
  memory32: { start: 0x10000000, size: 0x2eff0000 },
  memory64: { start: 0x8000000000, size: 0x8000000000 },
  io: { start: 0x1000, size: 0xf000 },
} as const;

/** What Linux enables of ACS where there is an IOMMU. */
const ACS_FOR_IOMMU = ACS.sourceValidation | ACS.requestRedirect | ACS.completionRedirect | ACS.upstreamForwarding;

/** A root complex with its buses. */
export class PciHost {
  readonly segment: number;
  readonly interrupts: InterruptController;
  readonly buses: PciBus[];
  readonly drivers: PciDrivers;
  /** Without it, nobody needs to know of resets. */
  resetWatch: ResetWatch | undefined;
  readonly system: System;
  private readonly target: DmaTarget;
  private readonly firstInterruptLine: number;
  private readonly known = new Set<PciFunction>();
  private readonly free: Record<Bar["kind"], { next: number; end: number }>;

  constructor(system: System, options: PciHostOptions) {
    this.system = system;
    this.segment = options.segment ?? 0;
    this.target = options.target;
    this.interrupts = options.interrupts;
    this.firstInterruptLine = options.firstInterruptLine ?? 35;
    this.buses = [new PciBus(this, 0)];
    this.drivers = new PciDrivers(system, this);
    const windows = { ...defaultWindows, ...options.windows };
    const range = ({ start, size }: Window): { next: number; end: number } => ({ next: start, end: start + size });
    this.free = { memory32: range(windows.memory32), memory64: range(windows.memory64), io: range(windows.io) };
  }

  /** Bus 0. */
  get root(): PciBus {
    return this.buses[0];
  }

  /** All functions, in the order of bus, device, function. */
  get functions(): PciFunction[] {
    return [...this.buses].sort((left, right) => left.number - right.number).flatMap((bus) => bus.functions);
  }

  /**
   * All functions, in the order in which an operating system finds them: a bus whole, then what is behind its first
   * bridge, and so on. Virtual functions come last, since their driver makes them.
   */
  get scanOrder(): PciFunction[] {
    const found: PciFunction[] = [];
    const scan = (bus: PciBus): void => {
      found.push(...bus.functions);
      for (const member of bus.functions) {
        for (const behind of this.buses) if (behind.bridge === member) scan(behind);
      }
    };
    const inOrder = [...this.buses].sort((left, right) => left.number - right.number);
    for (const bus of inOrder) if (bus.isRoot) scan(bus);
    for (const bus of inOrder) if (!bus.isRoot && bus.bridge === undefined) scan(bus);
    return [...found.filter(({ isVirtual }) => !isVirtual), ...found.filter(({ isVirtual }) => isVirtual)];
  }

  /** Makes a bus: behind `bridge`, or of virtual functions with `parent`, or without either one more of the root complex. */
  addBus(number: number, bridge?: PciFunction, parent?: PciBus): PciBus {
    assert(!this.buses.some((bus) => bus.number === number), () => `two buses are number ${number}`);
    const bus = new PciBus(this, number, bridge, parent ?? bridge?.place?.bus);
    this.buses.push(bus);
    return bus;
  }

  /** The function called `"0000:00:01.0"`. */
  find(name: string): PciFunction | undefined {
    return this.functions.find((member) => member.name === name);
  }

  /**
   * What firmware and the operating system's bus code do at boot, for each function that it has not been done for: place
   * the BARs, turn decoding on, route INTx, mark multifunction slots, enable ACS as Linux does.
   */
  enumerate(): void {
    for (const bus of this.buses) {
      for (const member of bus.functions) if (!this.known.has(member)) this.setUp(member);
    }
  }

  /** One DMA of a function. */
  *access(
    requester: PciFunction,
    pasid: number | undefined,
    address: bigint,
    bytes: Uint8Array,
    write: boolean,
  ): Task<boolean> {
    const { doorbell } = this.interrupts;
    if (write && bytes.length === 4 && address >= doorbell.start && address <= doorbell.last) {
      const data = new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true);
      this.interrupts.deliver(requester.requesterId, address, data);
      return true;
    }
    return yield* this.target.access(requester.requesterId, pasid, address, bytes, write);
  }

  /** An interrupt message leaves a function: a write like any other, which nobody waits for. */
  sendMessage(requester: PciFunction, { address, data }: Message): void {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, data, true);
    this.system.tasks.spawn(`interrupt of ${requester.name}`, requester.dma.write(address, bytes));
  }

  private setUp(member: PciFunction): void {
    const { bus, device } = member.place!;
    this.known.add(member);
    if (bus.slot(device).length > 1) {
      member.config.set(HEADER_TYPE, 1, member.config.read(HEADER_TYPE, 1) | HEADER_TYPE_MULTIFUNCTION);
      member.config.rememberForReset();
    }
    for (const bar of member.bars) if (bar) this.placeBar(member, bar);
    member.writeConfig(COMMAND, 2, COMMAND_IO | COMMAND_MEMORY | COMMAND_SERR);
    const pin = member.readConfig(INTERRUPT_PIN, 1);
    member.interruptLine = pin === 0 ? 0 : this.firstInterruptLine + ((device + pin - 1) % 4);
    member.writeConfig(INTERRUPT_LINE, 1, member.interruptLine);
    const acs = member.extendedCapability(EXTENDED_ACS);
    if (acs !== undefined) member.writeConfig(acs + ACS_CONTROL, 2, ACS_FOR_IOMMU);
    if (this.system.events.on) this.system.events.emit({ kind: "pci.function.add", name: member.name });
  }

  private placeBar(member: PciFunction, bar: Bar): void {
    const free = this.free[bar.kind];
    const start = Math.ceil(free.next / bar.size) * bar.size;
    assert(start + bar.size <= free.end, () => `${member.name}: no room for BAR ${bar.index} of ${bar.size} bytes`);
    free.next = start + bar.size;
    bar.place(start);
  }
}
