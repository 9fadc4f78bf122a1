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
 * - Functions come and go (hot-plug.ts): software may forget one that sits in its place, and find it again.
 *
 * Always true: a function's place never changes; BAR addresses are what configuration space says; `functions` are those
 * that software knows. No locks but that of hot-plug: everything else happens between two points of preemption, except
 * DMA, resets and what drivers do, and nobody forgets a function before its DMA ended.
 */
import { assert, ENOSPC, refuse, type System, type Task, WaitQueue } from "../runtime/index.ts";
import { AddressWindow } from "./address-window.ts";
import { dmaAliases } from "./aliases.ts";
import { enableAri } from "./ari.ts";
import type { AtsRequesters, InvalidationMessage, PageGroupResponse, TranslationAgent } from "./ats.ts";
import {
  type BusWindows,
  freeWindows,
  placedBars,
  placeWindows,
  programBridge,
  windowKindOf,
} from "./bridge-windows.ts";
import { PciBus } from "./bus.ts";
import { ACS_CONTROL } from "./capabilities.ts";
import type { DmaTarget, InterruptController, Message, RequesterId } from "./dma.ts";
import { PciDrivers } from "./drivers.ts";
import type { PciFunction } from "./function.ts";
import {
  COMMAND,
  COMMAND_IO,
  COMMAND_MASTER,
  COMMAND_MEMORY,
  COMMAND_SERR,
  EXTENDED_ACS,
  HEADER_TYPE,
  HEADER_TYPE_MULTIFUNCTION,
  INTERRUPT_LINE,
  INTERRUPT_PIN,
  PRIMARY_BUS,
  SECONDARY_BUS,
  SUBORDINATE_BUS,
} from "./ids.ts";
import { ISOLATING_CONTROLS } from "./isolation.ts";
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

/** A root complex with its buses. */
export class PciHost implements AtsRequesters {
  readonly segment: number;
  readonly interrupts: InterruptController;
  readonly buses: PciBus[];
  readonly drivers: PciDrivers;
  /** Without it, nobody needs to know of resets. */
  resetWatch: ResetWatch | undefined;
  readonly system: System;
  private readonly target: DmaTarget;
  private readonly firstInterruptLine: number;
  private readonly windows: BusWindows;
  /** Of each function that is set up: what gives back the addresses of its BARs. */
  private readonly placed = new Map<PciFunction, readonly (() => void)[]>();
  /** A function has no DMA on its way any more. */
  private readonly quiet: WaitQueue;

  constructor(system: System, options: PciHostOptions) {
    this.system = system;
    this.segment = options.segment ?? 0;
    this.target = options.target;
    this.interrupts = options.interrupts;
    this.firstInterruptLine = options.firstInterruptLine ?? 35;
    this.buses = [new PciBus(this, 0)];
    this.drivers = new PciDrivers(system, this);
    const windows = { ...defaultWindows, ...options.windows };
    const window = ({ start, size }: Window): AddressWindow => new AddressWindow(start, start + size);
    this.windows = { memory32: window(windows.memory32), memory64: window(windows.memory64), io: window(windows.io) };
    this.quiet = new WaitQueue(system, "the end of a function's DMA");
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
      for (const behind of bus.behind) scan(behind);
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
   * What firmware and the operating system's bus code do at boot, for each function that it has not been done for: number
   * the buses, place windows and BARs, turn decoding on, route INTx, mark multifunction slots, enable ACS as Linux does.
   * ENOSPC: a function's BARs do not fit; then it, and what comes after it, is not set up.
   */
  enumerate(): void {
    for (const bus of this.buses) if (bus.isRoot) this.enumerateBus(bus, this.windows);
  }

  private enumerateBus(bus: PciBus, windows: BusWindows): void {
    bus.windows = windows;
    for (const member of bus.functions) if (!this.placed.has(member)) this.setUp(member, windows);
    for (const behind of bus.behind) {
      if (behind.windows === undefined) this.openBridge(behind, windows);
      this.enumerateBus(behind, behind.windows!);
    }
  }

  /** Software knows the function, and it has its addresses. */
  isSetUp(member: PciFunction): boolean {
    return this.placed.has(member);
  }

  /** Takes a function out of its place, with the buses behind it; software has forgotten it, or never knew it. */
  dismantle(member: PciFunction): void {
    assert(!this.placed.has(member), () => `${member.name} is taken out while it is in use`);
    member.place!.bus.hide(member);
    for (const [index, bus] of [...this.buses.entries()].reverse())
      if (bus.bridge === member) this.buses.splice(index, 1);
  }

  /** Software has no use for a function any more: its addresses are free. What is behind a bridge went before. */
  forget(member: PciFunction): void {
    assert(member.accesses === 0, () => `${member.name} is forgotten while it does DMA`);
    for (const free of this.placed.get(member) ?? []) free();
    this.placed.delete(member);
    for (const bus of this.buses) {
      if (bus.bridge !== member || bus.windows === undefined) continue;
      freeWindows(member.place!.bus.windows!, bus.windows);
      bus.windows = undefined;
    }
    member.place!.bus.hide(member);
    if (this.system.events.on) this.system.events.emit({ kind: "pci.function.remove", name: member.name });
  }

  /** Waits until no DMA of the function is on its way. It masters the bus no longer. */
  *drain(member: PciFunction): Task<void> {
    yield* this.quiet.untilUninterrupted(() => member.accesses === 0);
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
    return yield* this.onItsWay(requester, this.target.access(requester.idAtRoot, pasid, address, bytes, write));
  }

  /** A DMA of a function, as {@link drain} counts it. */
  *onItsWay(requester: PciFunction, access: Task<boolean>): Task<boolean> {
    requester.accesses++;
    try {
      return yield* access;
    } finally {
      if (--requester.accesses === 0) this.quiet.wake();
    }
  }

  /** Who answers functions that translate ahead. */
  get agent(): TranslationAgent | undefined {
    return this.target.agent;
  }

  /** A translation agent's message to a function. One without a cache refuses it, which is an answer too. */
  invalidate(requester: RequesterId, message: InvalidationMessage, done: () => void): boolean {
    const member = this.at(requester);
    if (member === undefined || member.isGone) return false;
    if (member.translationCache !== undefined) member.translationCache.invalidate(message, done);
    else done();
    return true;
  }

  respond(requester: RequesterId, response: PageGroupResponse): void {
    this.at(requester)?.pageRequester?.respond(response);
  }

  private at(requester: RequesterId): PciFunction | undefined {
    const bus = this.buses.find(({ number }) => number === Math.floor(requester / 256));
    return bus?.functions.find(({ devfn }) => devfn === requester % 256);
  }

  /** An interrupt message leaves a function: a write like any other, which nobody waits for. */
  sendMessage(requester: PciFunction, { address, data }: Message): void {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, data, true);
    this.system.tasks.spawn(`interrupt of ${requester.name}`, requester.writeMessage(address, bytes));
  }

  private setUp(member: PciFunction, windows: BusWindows): void {
    const { bus, device } = member.place!;
    const places: (() => void)[] = [];
    const hasNeighbours = bus.slot(device).some((other) => other !== member && !other.isVirtual);
    if (hasNeighbours && !member.isVirtual) {
      member.config.set(HEADER_TYPE, 1, member.config.read(HEADER_TYPE, 1) | HEADER_TYPE_MULTIFUNCTION);
      member.config.rememberForReset();
    }
    for (const bar of placedBars(member)) {
      const window = windows[windowKindOf(bar, bus)];
      const start = window.allocate(bar.extent, bar.size);
      if (start === undefined)
        refuse(ENOSPC, () => `${member.name}: no room for BAR ${bar.index} of ${bar.extent} bytes`);
      places.push(() => window.free(start));
      bar.place(start);
    }
    this.placed.set(member, places);
    member.writeConfig(COMMAND, 2, COMMAND_IO | COMMAND_MEMORY | COMMAND_SERR);
    member.idAtRoot = dmaAliases(member).at(-1)!.requesterId;
    member.interruptLine = this.interruptLineOf(member);
    member.writeConfig(INTERRUPT_LINE, 1, member.interruptLine);
    const acs = member.extendedCapability(EXTENDED_ACS);
    if (acs !== undefined) member.writeConfig(acs + ACS_CONTROL, 2, ISOLATING_CONTROLS);
    enableAri(member);
    if (this.system.events.on) this.system.events.emit({ kind: "pci.function.add", name: member.name });
  }

  /** A bridge masters the bus for what is behind it. */
  private openBridge(behind: PciBus, above: BusWindows): void {
    const bridge = behind.bridge!;
    const windows = placeWindows(behind, above);
    if (windows === undefined) refuse(ENOSPC, () => `${bridge.name}: no room for what is behind it`);
    behind.windows = windows;
    bridge.writeConfig(PRIMARY_BUS, 1, bridge.place!.bus.number);
    bridge.writeConfig(SECONDARY_BUS, 1, behind.number);
    bridge.writeConfig(SUBORDINATE_BUS, 1, behind.last);
    programBridge(bridge, windows);
    bridge.writeConfig(COMMAND, 2, bridge.readConfig(COMMAND, 2) | COMMAND_MASTER);
  }

  /** Each bridge on the way turns the four lines by the number of the device. */
  private interruptLineOf(member: PciFunction): number {
    const pin = member.readConfig(INTERRUPT_PIN, 1);
    if (pin === 0) return 0;
    let line = pin - 1;
    for (let at: PciFunction | undefined = member; at !== undefined; at = at.place!.bus.bridge)
      line += at.place!.device;
    return this.firstInterruptLine + (line % 4);
  }
}
