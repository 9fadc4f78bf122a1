// Runs in a browser.
import {
  AF_CAPABILITIES,
  AF_CONTROL,
  AF_FLR,
  BASE_ADDRESS_0,
  CAPABILITY_AF,
  CAPABILITY_EXPRESS,
  CAPABILITY_MSI,
  CAPABILITY_PM,
  CAPABILITY_VPD,
  COMMAND,
  COMMAND_INTX_DISABLE,
  COMMAND_IO,
  COMMAND_MEMORY,
  type ConfigWidth,
  EXPRESS_CAPABILITIES,
  EXPRESS_CONTROL,
  EXPRESS_FLR,
  INTERRUPT_PIN,
  MSI_CONTROL,
  MSI_ENABLE,
  type PciFunction,
  PM_CONTROL,
  PM_STATE,
  ROM_ADDRESS,
  restoreState,
  type SavedState,
  saveState,
  tryResetFunction,
} from "../pci/index.ts";
import type { Task } from "../runtime/index.ts";
import { ConfigMap, GAP } from "./config-map.ts";

/** What configuration space and interrupts need to know of each other. */
export interface ConfigInterrupts {
  /** The client's INTx-disable bit changed. */
  setIntxDisabled(disabled: boolean): void;
  /** Vectors allocated for MSI; undefined while MSI is not the active type. */
  readonly msiVectors: number | undefined;
}

const READ_REQUEST = 0x7000;
const PAYLOAD = 0x00e0;
const VPD_ADDRESS = 2;
const VPD_DATA = 4;
const VPD_FLAG = 0x8000;

/**
 * Configuration space as a client of VFIO sees it (reference 5.9). An access goes in chunks of at most 4 bytes, aligned
 * and within one capability; which bits of a chunk are virtual or writable says the map, what a write sets off beyond
 * that is a trap here.
 */
export class VirtualConfig {
  private readonly map: ConfigMap;
  private readonly member: PciFunction;
  private readonly interrupts: ConfigInterrupts;
  /** BAR registers as the machine set them: what a backdoor reset loses. */
  private readonly realBars: readonly number[];
  private beforeD3: SavedState | undefined;

  constructor(member: PciFunction, interrupts: ConfigInterrupts) {
    this.map = new ConfigMap(member);
    this.member = member;
    this.interrupts = interrupts;
    this.realBars = member.bars.map((_, index) => member.readConfig(BASE_ADDRESS_0 + 4 * index, 4));
  }

  get size(): number {
    return this.member.config.size;
  }

  /** Zero if the client is not to use INTx. */
  get interruptPin(): number {
    return this.map.shadow[INTERRUPT_PIN];
  }

  get intxDisabled(): boolean {
    return (this.map.readShadow(COMMAND, 2) & COMMAND_INTX_DISABLE) !== 0;
  }

  /** Memory BARs answer: the client left decoding on, if it can be turned off, and the function is not asleep. */
  get memoryEnabled(): boolean {
    const decodes = this.member.isVirtual || (this.map.readShadow(COMMAND, 2) & COMMAND_MEMORY) !== 0;
    return decodes && this.member.powerState < 3;
  }

  /** Both ends must be inside. */
  read(offset: number, into: Uint8Array): void {
    for (const { at, width } of this.chunks(offset, into.length)) {
      const value = this.readChunk(at, width);
      for (let index = 0; index < width; index++) into[at - offset + index] = (value >>> (8 * index)) & 0xff;
    }
  }

  /** Both ends must be inside. */
  *write(offset: number, from: Uint8Array): Task<void> {
    for (const { at, width } of this.chunks(offset, from.length)) {
      let value = 0;
      for (let index = width - 1; index >= 0; index--) value = value * 256 + from[at - offset + index];
      yield* this.writeChunk(at, width, value);
    }
  }

  private *chunks(offset: number, length: number): Iterable<{ at: number; width: ConfigWidth }> {
    const { owners } = this.map;
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const fits = (width: number): boolean =>
        at % width === 0 && at + width <= end && owners[at] === owners[at + width - 1];
      const width = fits(4) ? 4 : fits(2) ? 2 : 1;
      yield { at, width };
      at += width;
    }
  }

  private readChunk(offset: number, width: ConfigWidth): number {
    const { map, member } = this;
    const virtual = maskAt(map.virtual, offset, width);
    const hardware = member.readConfig(offset, width);
    return ((hardware & ~virtual) | (map.readShadow(offset, width) & virtual)) >>> 0;
  }

  private *writeChunk(offset: number, width: ConfigWidth, value: number): Task<void> {
    const { map, member } = this;
    const virtual = maskAt(map.virtual, offset, width);
    if (map.owners[offset] === GAP && virtual === 0) {
      member.writeConfig(offset, width, value);
      return;
    }
    const wasDisabled = this.intxDisabled;
    const writable = maskAt(map.writable, offset, width);
    if (writable & virtual) {
      const shadow = map.readShadow(offset, width);
      const mask = writable & virtual;
      map.writeShadow(offset, width, (shadow & ~mask) | (value & mask));
    }
    const through = writable & ~virtual;
    if (covers(offset, width, COMMAND)) this.beforeCommand(value);
    if (through) member.writeConfig(offset, width, (member.readConfig(offset, width) & ~through) | (value & through));
    if (this.intxDisabled !== wasDisabled) this.interrupts.setIntxDisabled(!wasDisabled);
    if (offset < ROM_ADDRESS + 4) this.afterHeader(offset, width);
    else yield* this.afterCapability(offset, width, value);
  }

  /** Keeps the client's own idea of decoding; what it turns on must be where it was before a reset behind our back. */
  private beforeCommand(value: number): void {
    const { map, member } = this;
    const decoding = COMMAND_IO | COMMAND_MEMORY;
    const shadow = map.readShadow(COMMAND, 1) & ~decoding;
    map.writeShadow(COMMAND, 1, shadow | (value & decoding));
    if ((value & decoding) === 0) return;
    for (const [index, real] of this.realBars.entries()) {
      const register = BASE_ADDRESS_0 + 4 * index;
      if (member.readConfig(register, 4) !== real) member.writeConfig(register, 4, real);
    }
  }

  private afterHeader(offset: number, width: ConfigWidth): void {
    for (let index = 0; index < 6; index++) {
      const register = BASE_ADDRESS_0 + 4 * index;
      if (offset < register + 4 && offset + width > register) this.sizeBar(index);
    }
    // No function here has an expansion ROM.
    if (offset >= ROM_ADDRESS) this.map.writeShadow(ROM_ADDRESS, 4, 0);
  }

  /** Leaves of the shadow BAR what a real one of this size would keep. */
  private sizeBar(index: number): void {
    const { map, member } = this;
    const register = BASE_ADDRESS_0 + 4 * index;
    const value = map.readShadow(register, 4);
    const bar = member.bars[index];
    const lower = index > 0 ? member.bars[index - 1] : undefined;
    if (bar) map.writeShadow(register, 4, ((value & bar.sizeMask.low) | bar.typeBits) >>> 0);
    else if (lower?.kind === "memory64") map.writeShadow(register, 4, (value & lower.sizeMask.high) >>> 0);
    else map.writeShadow(register, 4, 0);
  }

  private *afterCapability(offset: number, width: ConfigWidth, value: number): Task<void> {
    const capability = this.map.capabilityAt(offset);
    if (capability === undefined || capability.extended) return;
    const base = capability.offset;
    const written = (register: number): boolean => covers(offset, width, base + register);
    switch (capability.id) {
      case CAPABILITY_PM:
        if (written(PM_CONTROL)) this.setPowerState(base, (value >>> (8 * (base + PM_CONTROL - offset))) & PM_STATE);
        break;
      case CAPABILITY_VPD:
        if (written(VPD_ADDRESS + 1)) this.accessVpd(base);
        break;
      case CAPABILITY_MSI:
        if (written(MSI_CONTROL)) this.limitMsi(base);
        break;
      case CAPABILITY_EXPRESS:
        if (written(EXPRESS_CONTROL + 1)) yield* this.controlExpress(base);
        break;
      case CAPABILITY_AF:
        if (written(AF_CONTROL)) yield* this.controlAdvanced(base);
        break;
    }
  }

  /** What D3hot loses is put back on the way to D0. */
  private setPowerState(base: number, state: number): void {
    const { member } = this;
    const control = member.readConfig(base + PM_CONTROL, 2) & ~PM_STATE;
    if (state === 3 && member.powerState !== 3) this.beforeD3 = saveState(member);
    member.writeConfig(base + PM_CONTROL, 2, control | state);
    if (state === 0 && this.beforeD3 !== undefined) {
      restoreState(member, this.beforeD3);
      this.beforeD3 = undefined;
    }
  }

  /** The flag says what to do: 0 read, 1 write; it is turned over when that is done. */
  private accessVpd(base: number): void {
    const { map, member } = this;
    const address = map.readShadow(base + VPD_ADDRESS, 2);
    if (address & VPD_FLAG) member.writeConfig(base + VPD_DATA, 4, map.readShadow(base + VPD_DATA, 4));
    member.writeConfig(base + VPD_ADDRESS, 2, address);
    if (!(address & VPD_FLAG)) map.writeShadow(base + VPD_DATA, 4, member.readConfig(base + VPD_DATA, 4));
    map.writeShadow(base + VPD_ADDRESS, 2, address ^ VPD_FLAG);
  }

  /** Enable sticks only while MSI is active, and no more vectors are enabled than were allocated. */
  private limitMsi(base: number): void {
    const { map, member, interrupts } = this;
    const granted = Math.ceil(Math.log2(interrupts.msiVectors ?? 1));
    let control = map.readShadow(base + MSI_CONTROL, 1);
    if (interrupts.msiVectors === undefined) control &= ~MSI_ENABLE;
    control = (control & ~0x70) | (Math.min((control >>> 4) & 7, granted) << 4);
    map.writeShadow(base + MSI_CONTROL, 1, control);
    member.writeConfig(base + MSI_CONTROL, 1, control);
  }

  private *controlExpress(base: number): Task<void> {
    const { map, member } = this;
    const register = base + EXPRESS_CONTROL;
    const control = map.readShadow(register, 2);
    if (control & 0x8000) {
      map.writeShadow(register, 2, control & 0x7fff);
      if (member.readConfig(base + EXPRESS_CAPABILITIES, 4) & EXPRESS_FLR) yield* tryResetFunction(member);
    }
    const hardware = member.readConfig(register, 2);
    const payload = (hardware & PAYLOAD) >>> 5;
    const request = Math.max((control & READ_REQUEST) >>> 12, payload);
    member.writeConfig(register, 2, (hardware & ~READ_REQUEST) | (request << 12));
  }

  private *controlAdvanced(base: number): Task<void> {
    const { map, member } = this;
    const initiated = map.shadow[base + AF_CONTROL] & 1;
    map.shadow[base + AF_CONTROL] &= ~1;
    if (initiated && member.readConfig(base + AF_CAPABILITIES, 1) & AF_FLR) yield* tryResetFunction(member);
  }
}

/** `width` mask bytes from `offset` on, as one number. */
function maskAt(masks: Uint8Array, offset: number, width: ConfigWidth): number {
  let value = 0;
  for (let index = width - 1; index >= 0; index--) value = value * 256 + masks[offset + index];
  return value;
}

/** Whether an access touches the byte at `register`. */
function covers(offset: number, width: ConfigWidth, register: number): boolean {
  return register >= offset && register < offset + width;
}
