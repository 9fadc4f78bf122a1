// Runs in a browser.
import { assert, type Task } from "../runtime/index.ts";
import { type Bar, type BarDescription, PlacedBar, SharedBar } from "./bar.ts";
import type { PciBus } from "./bus.ts";
import {
  AF_CAPABILITIES,
  AF_CONTROL,
  AF_FLR,
  AF_INITIATE_FLR,
  type Capability,
  EXPRESS_CAPABILITIES,
  EXPRESS_CONTROL,
  EXPRESS_FLAGS,
  EXPRESS_FLR,
  EXPRESS_INITIATE_FLR,
  EXPRESS_TYPE,
  type ExpressType,
  PM_CONTROL,
  PM_NO_SOFT_RESET,
  PM_STATE,
  singleRootIo,
  type VirtualFunctionIds,
} from "./capabilities.ts";
import { layOutCapabilities, walkCapabilities } from "./capability-chain.ts";
import { ConfigSpace, type ConfigWidth } from "./config-space.ts";
import type { DmaPort, RequesterId } from "./dma.ts";
import type { PciDriver } from "./drivers.ts";
import {
  BRIDGE_CONTROL,
  CACHE_LINE_SIZE,
  CAPABILITY_AF,
  CAPABILITY_EXPRESS,
  CAPABILITY_MSI,
  CAPABILITY_MSIX,
  CAPABILITY_PM,
  CLASS_CODE,
  COMMAND,
  COMMAND_INTX_DISABLE,
  COMMAND_IO,
  COMMAND_MASTER,
  COMMAND_MEMORY,
  COMMAND_SERR,
  CONFIG_SPACE_SIZE,
  DEVICE_ID,
  EXTENDED_ATS,
  EXTENDED_CONFIG_SPACE_SIZE,
  EXTENDED_PRI,
  EXTENDED_SR_IOV,
  HEADER_TYPE,
  HEADER_TYPE_BRIDGE,
  HEADER_TYPE_LAYOUT,
  HEADER_TYPE_MULTIFUNCTION,
  INTERRUPT_LINE,
  INTERRUPT_PIN,
  IO_BASE,
  MEMORY_BASE,
  PREFETCHABLE_BASE,
  PREFETCHABLE_BASE_UPPER,
  PREFETCHABLE_LIMIT_UPPER,
  PRIMARY_BUS,
  REVISION_ID,
  SUBSYSTEM_ID,
  SUBSYSTEM_VENDOR_ID,
  VENDOR_ID,
} from "./ids.ts";
import { FunctionInterrupts } from "./interrupts.ts";
import { MsixTable } from "./msix-table.ts";
import { PageRequester } from "./page-requester.ts";
import { VirtualFunctions } from "./sr-iov.ts";
import { type CacheSurroundings, TranslationCache } from "./translation-cache.ts";

/** What a function is, before it is put on a bus. */
export interface PciIdentity {
  readonly vendor: number;
  readonly device: number;
  readonly subsystemVendor?: number;
  readonly subsystem?: number;
  readonly revision?: number;
  /** 24 bits: base class, subclass, programming interface. */
  readonly classCode: number;
  /** 1 to 4 for INTA to INTD, 0 for none. */
  readonly interruptPin?: number;
  readonly bars?: readonly BarDescription[];
  /** It has a type 1 header: {@link PciHost.addBus} puts a bus behind it. */
  readonly bridge?: boolean;
  /** In the order of the chain; extended ones are those with a version. */
  readonly capabilities?: readonly Capability[];
  /** Bytes behind the header that belong to no capability keep what is written to them. */
  readonly scratchGaps?: boolean;
  /** It is a virtual function: no ids, no registers of BARs, no INTx, nothing to turn on but mastering the bus (PCIe 9.3.4). */
  readonly virtual?: boolean;
  /** With SR-IOV, which is behind all other capabilities: its virtual functions, all alike. */
  readonly virtualFunctions?: VirtualFunctionIds & { readonly functions: readonly PciFunction[] };
}

/** Where a function is, once it is on a bus. */
export interface PciPlace {
  readonly bus: PciBus;
  /** 0 to 31. */
  readonly device: number;
  /** 0 to 7. */
  readonly function: number;
}

/**
 * One function of a PCI device: an endpoint, or with a type 1 header a bridge.
 *
 * Software reaches it by configuration space and by its BARs; it reaches memory by {@link dma} and software by
 * {@link interrupts}. Device models extend PciDevice.
 */
export class PciFunction {
  readonly config: ConfigSpace;
  /** By BAR number. */
  readonly bars: readonly (Bar | undefined)[];
  readonly interrupts: FunctionInterrupts;
  /** The function's own way to memory. An access is refused while bus mastering is off. */
  readonly dma: DmaPort;
  /** If it has the capabilities: translations that it keeps, and how it asks for pages. */
  readonly translationCache: TranslationCache | undefined;
  readonly pageRequester: PageRequester | undefined;
  /** Of a physical function of SR-IOV. */
  readonly virtualFunctions: VirtualFunctions | undefined;
  /** Of a virtual one: whose, and which of them. Recorded ones know their place alone. */
  virtual: { readonly of: VirtualFunctions; readonly index: number } | undefined;
  /** Set once, when it is put on a bus. */
  place: PciPlace | undefined;
  /** The number of the interrupt that its INTx line is; 0 if it has none. Given by the bus. */
  interruptLine = 0;
  /** Under which number the IOMMU sees it: its own, or that of the bridge nearest to the root that stands in for it. Given by the bus. */
  idAtRoot: RequesterId = 0;
  /** The driver bound to it. */
  driver: PciDriver | undefined;
  /** Its driver is letting go of it. */
  isLeavingDriver = false;
  /** It was pulled out: every read gives ones, nothing else has an effect. */
  isGone = false;
  /** DMA accesses on their way. */
  accesses = 0;
  /** The only driver that may bind to it, if set (sysfs `driver_override`). */
  driverOverride: string | undefined;
  /** How many times software enabled it (Linux's enable count). */
  enableCount = 0;
  private readonly capabilities: ReadonlyMap<number, number>;
  private readonly extended: ReadonlyMap<number, number>;
  readonly msixTable: MsixTable | undefined;

  /** Made from what it is to be, or around a configuration space that exists. */
  constructor(origin: PciIdentity | ConfigSpace) {
    const bars: (Bar | undefined)[] = new Array(6).fill(undefined);
    if (origin instanceof ConfigSpace) {
      this.config = origin;
    } else {
      const { virtualFunctions } = origin;
      const capabilities = [...(origin.capabilities ?? [])];
      if (virtualFunctions) capabilities.push(singleRootIo(virtualFunctions.functions.length, virtualFunctions));
      const isExpress = capabilities.some(({ id, version }) => id === CAPABILITY_EXPRESS && version === undefined);
      this.config = new ConfigSpace(isExpress ? EXTENDED_CONFIG_SPACE_SIZE : CONFIG_SPACE_SIZE);
      this.fillHeader(origin);
      for (const description of origin.bars ?? []) {
        bars[description.index] = origin.virtual
          ? new SharedBar(description, () => this.shareOf(description.index))
          : new PlacedBar(this.config, description);
      }
      layOutCapabilities(this.config, capabilities, origin.scratchGaps ?? false);
    }
    this.bars = bars;
    const chain = walkCapabilities(this.config);
    this.capabilities = chain.standard;
    this.extended = chain.extended;
    if (!(origin instanceof ConfigSpace) && origin.virtualFunctions) {
      const { functions } = origin.virtualFunctions;
      const capability = this.extendedCapability(EXTENDED_SR_IOV)!;
      this.virtualFunctions = new VirtualFunctions(this, capability, origin.virtualFunctions, functions);
    }
    const msix = this.capability(CAPABILITY_MSIX);
    if (msix !== undefined) this.msixTable = new MsixTable(this.config, msix);
    this.interrupts = new FunctionInterrupts({
      config: this.config,
      msi: this.capability(CAPABILITY_MSI),
      msix,
      table: this.msixTable,
      send: (message) => this.onBus().bus.host.sendMessage(this, message),
    });
    const surroundings = (): CacheSurroundings => {
      const { host } = this.onBus().bus;
      return { system: host.system, requester: this.idAtRoot, agent: host.agent };
    };
    const pri = this.extendedCapability(EXTENDED_PRI);
    if (pri !== undefined) this.pageRequester = new PageRequester(this.config, pri, surroundings);
    const ats = this.extendedCapability(EXTENDED_ATS);
    if (ats !== undefined) {
      this.translationCache = new TranslationCache(this.config, ats, this.pageRequester, surroundings);
    }
    this.dma = {
      read: (address, into, pasid) => this.access(address, into, false, pasid),
      write: (address, from, pasid) => this.access(address, from, true, pasid),
    };
    this.config.rememberForReset();
  }

  /** `"0000:00:01.0"`. */
  get name(): string {
    const { bus, device, function: number } = this.onBus();
    const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, "0");
    return `${hex(bus.host.segment, 4)}:${hex(bus.number, 2)}:${hex(device, 2)}.${number}`;
  }

  /** Device and function as one byte. */
  get devfn(): number {
    const { device, function: number } = this.onBus();
    return device * 8 + number;
  }

  get requesterId(): RequesterId {
    return this.onBus().bus.number * 256 + this.devfn;
  }

  /** Offset of a capability in configuration space. */
  capability(id: number): number | undefined {
    return this.capabilities.get(id);
  }

  /** Offset of an extended capability in configuration space. */
  extendedCapability(id: number): number | undefined {
    return this.extended.get(id);
  }

  get isExpress(): boolean {
    return this.capability(CAPABILITY_EXPRESS) !== undefined;
  }

  /** What it is to PCI Express; undefined for conventional PCI and for types without a name here. */
  get expressType(): ExpressType | undefined {
    const express = this.capability(CAPABILITY_EXPRESS);
    if (express === undefined) return undefined;
    const type = (this.config.read(express + EXPRESS_FLAGS, 2) >>> 4) & 0xf;
    return (Object.keys(EXPRESS_TYPE) as ExpressType[]).find((name) => EXPRESS_TYPE[name] === type);
  }

  /** A bridge to another bus (a type 1 header). */
  get isBridge(): boolean {
    return (this.config.read(HEADER_TYPE, 1) & HEADER_TYPE_LAYOUT) === HEADER_TYPE_BRIDGE;
  }

  /** A virtual function: it has no ids of its own (SR-IOV specification 3.4.1.1). */
  get isVirtual(): boolean {
    return this.config.read(VENDOR_ID, 2) === 0xffff;
  }

  /** Its device says that it has several functions, or it is itself not the first: only function 0 must say so. */
  get multifunction(): boolean {
    if ((this.config.read(HEADER_TYPE, 1) & HEADER_TYPE_MULTIFUNCTION) !== 0) return true;
    return !this.isVirtual && this.place !== undefined && this.place.function > 0;
  }

  /** 0 for D0 to 3 for D3hot. */
  get powerState(): number {
    const power = this.capability(CAPABILITY_PM);
    return power === undefined ? 0 : this.config.read(power + PM_CONTROL, 2) & PM_STATE;
  }

  readConfig(offset: number, width: ConfigWidth): number {
    return this.isGone ? 2 ** (8 * width) - 1 : this.config.read(offset, width);
  }

  /** A write over the bus, with what it sets off: interrupts let go, power transitions, resets. */
  writeConfig(offset: number, width: ConfigWidth, value: number): void {
    if (this.isGone) return;
    const before = this.powerState;
    this.config.write(offset, width, value);
    if (before === 3 && this.powerState === 0 && !this.keepsStateInD3) this.functionLevelReset();
    if (this.initiatesReset(offset, width, value)) this.functionLevelReset();
    this.interrupts.settle();
    this.translationCache?.settle();
    this.pageRequester?.settle();
    this.virtualFunctions?.settle();
  }

  /** A read of registers behind a BAR: `size` bytes (1, 2, 4 or 8), aligned to them. */
  readBar(index: number, offset: number, size: number): bigint {
    if (this.isGone) return BigInt.asUintN(8 * size, -1n);
    const value = this.msixTable?.covers(index, offset)
      ? this.msixTable.read(index, offset, size)
      : this.barAt(index).description.read(offset, size);
    return BigInt.asUintN(8 * size, BigInt(value));
  }

  writeBar(index: number, offset: number, size: number, value: bigint): void {
    if (this.isGone) return;
    if (this.msixTable?.covers(index, offset)) {
      this.msixTable.write(index, offset, size, value);
      this.interrupts.settle();
    } else {
      this.barAt(index).description.write(offset, size, value);
    }
  }

  /** A function-level reset: configuration space and device are as they were made, and virtual functions are gone. */
  functionLevelReset(): void {
    this.config.reset();
    this.virtualFunctions?.settle();
    this.msixTable?.reset();
    this.interrupts.lower();
    this.translationCache?.settle();
    this.pageRequester?.reset();
    this.reset();
  }

  /** It is pulled out, with its virtual functions: what it was doing has no effect any more, and nothing reaches it. */
  pullOut(): void {
    for (const virtual of this.virtualFunctions?.functions ?? []) virtual.pullOut();
    this.functionLevelReset();
    this.isGone = true;
  }

  /** What the device model does on a reset. */
  protected reset(): void {}

  /** Whether D3hot keeps everything; without it, coming back is a reset. */
  private get keepsStateInD3(): boolean {
    const power = this.capability(CAPABILITY_PM);
    return power === undefined || (this.config.read(power + PM_CONTROL, 2) & PM_NO_SOFT_RESET) !== 0;
  }

  private onBus(): PciPlace {
    assert(this.place !== undefined, "this function is not on a bus");
    return this.place;
  }

  private barAt(index: number): Bar {
    const bar = this.bars[index];
    assert(bar !== undefined, () => `${this.name} has no BAR ${index}`);
    return bar;
  }

  /** Where its share of a BAR of its physical function begins. */
  private shareOf(index: number): number {
    const { of, index: which } = this.virtual!;
    const bar = of.bars[index]!;
    return bar.address + which * bar.size;
  }

  private fillHeader(identity: PciIdentity): void {
    const { config } = this;
    config.set(VENDOR_ID, 2, identity.virtual ? 0xffff : identity.vendor);
    config.set(DEVICE_ID, 2, identity.virtual ? 0xffff : identity.device);
    config.set(REVISION_ID, 1, identity.revision ?? 0);
    config.set(CLASS_CODE, 1, identity.classCode & 0xff);
    config.set(CLASS_CODE + 1, 2, identity.classCode >>> 8);
    if (identity.bridge) {
      config.set(HEADER_TYPE, 1, HEADER_TYPE_BRIDGE);
      config.makeWritable(PRIMARY_BUS, 4, 0xffffff);
      config.makeWritable(IO_BASE, 2, 0xf0f0);
      config.makeWritable(MEMORY_BASE, 4, 0xfff0fff0);
      config.set(PREFETCHABLE_BASE, 4, 0x00010001); // addresses of 64 bits
      config.makeWritable(PREFETCHABLE_BASE, 4, 0xfff0fff0);
      config.makeWritable(PREFETCHABLE_BASE_UPPER, 4, 0xffffffff);
      config.makeWritable(PREFETCHABLE_LIMIT_UPPER, 4, 0xffffffff);
      config.makeWritable(BRIDGE_CONTROL, 2, 0x7f);
    } else {
      config.set(SUBSYSTEM_VENDOR_ID, 2, identity.subsystemVendor ?? identity.vendor);
      config.set(SUBSYSTEM_ID, 2, identity.subsystem ?? identity.device);
    }
    if (identity.virtual) {
      config.makeWritable(COMMAND, 2, COMMAND_MASTER);
      return;
    }
    config.set(INTERRUPT_PIN, 1, identity.interruptPin ?? 0);
    const command = COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_SERR | COMMAND_INTX_DISABLE;
    config.makeWritable(COMMAND, 2, command);
    config.makeWritable(CACHE_LINE_SIZE, 1, 0xff);
    config.makeWritable(INTERRUPT_LINE, 1, 0xff);
  }

  private initiatesReset(offset: number, width: ConfigWidth, value: number): boolean {
    const written = (register: number, mask: number): boolean => {
      const index = register - offset;
      return index >= 0 && index < width && ((value >>> (8 * index)) & mask) !== 0;
    };
    const express = this.capability(CAPABILITY_EXPRESS);
    if (express !== undefined && this.config.read(express + EXPRESS_CAPABILITIES, 4) & EXPRESS_FLR) {
      if (written(express + EXPRESS_CONTROL + 1, EXPRESS_INITIATE_FLR >>> 8)) return true;
    }
    const advanced = this.capability(CAPABILITY_AF);
    if (advanced === undefined || !(this.config.read(advanced + AF_CAPABILITIES, 1) & AF_FLR)) return false;
    return written(advanced + AF_CONTROL, AF_INITIATE_FLR);
  }

  /** A write that is never translated ahead: an interrupt message. */
  *writeMessage(address: bigint, bytes: Uint8Array): Task<boolean> {
    return this.mastersBus && (yield* this.onBus().bus.host.access(this, undefined, address, bytes, true));
  }

  private get mastersBus(): boolean {
    return !this.isGone && (this.config.read(COMMAND, 2) & COMMAND_MASTER) !== 0;
  }

  private *access(address: bigint, bytes: Uint8Array, write: boolean, pasid: number | undefined): Task<boolean> {
    if (!this.mastersBus) return false;
    const { host } = this.onBus().bus;
    const { translationCache } = this;
    if (translationCache?.isEnabled) {
      return yield* host.onItsWay(this, translationCache.access(address, bytes, write, pasid));
    }
    return yield* host.access(this, pasid, address, bytes, write);
  }
}
