// Runs in a browser.
import {
  BASE_ADDRESS_0,
  CAPABILITY_LIST,
  CAPABILITY_MSI,
  COMMAND,
  COMMAND_MEMORY,
  type ConfigWidth,
  DEVICE_ID,
  EXTENDED_CAPABILITIES,
  HEADER_SIZE,
  INTERRUPT_PIN,
  idsOf,
  type PciFunction,
  STATUS,
  STATUS_CAPABILITY_LIST,
  VENDOR_ID,
} from "../pci/index.ts";
import {
  type CapabilityReader,
  extendedRules,
  type FieldRule,
  headerFields,
  msiFields,
  standardRules,
} from "./config-rules.ts";

/** A capability that the client sees. */
export interface VisibleCapability {
  readonly id: number;
  readonly extended: boolean;
  readonly offset: number;
  readonly length: number;
}

/** What {@link ConfigMap.owners} says of a byte that belongs to no visible capability. */
export const GAP = -1;
/** What it says of a byte of the header. */
export const HEADER = 0;

/**
 * Which rule holds for each byte of a function's configuration space, and the shadow of the virtual bits. Made when the
 * device is opened: hidden capabilities are left out of the chains then.
 */
export class ConfigMap {
  readonly member: PciFunction;
  /** 0 for the header, the index in `capabilities` plus one, or {@link GAP}. */
  readonly owners: Int16Array;
  readonly virtual: Uint8Array;
  readonly writable: Uint8Array;
  readonly shadow: Uint8Array;
  readonly capabilities: VisibleCapability[] = [];

  constructor(member: PciFunction) {
    const { size } = member.config;
    this.member = member;
    this.owners = new Int16Array(size).fill(GAP);
    this.owners.fill(HEADER, 0, HEADER_SIZE);
    this.virtual = new Uint8Array(size);
    this.writable = new Uint8Array(size);
    this.shadow = member.config.bytes;
    this.declare(0, headerFields);
    if (member.virtual !== undefined) this.declareVirtual();
    this.walkStandard();
    this.walkExtended();
    // A pin without a line of the machine behind it cannot interrupt.
    if (member.interruptLine === 0) this.shadow[INTERRUPT_PIN] = 0;
  }

  /** The capability that a byte belongs to. */
  capabilityAt(offset: number): VisibleCapability | undefined {
    const owner = this.owners[offset];
    return owner > HEADER ? this.capabilities[owner - 1] : undefined;
  }

  readShadow(offset: number, width: ConfigWidth): number {
    let value = 0;
    for (let index = width - 1; index >= 0; index--) value = value * 256 + this.shadow[offset + index];
    return value;
  }

  writeShadow(offset: number, width: ConfigWidth, value: number): void {
    for (let index = 0; index < width; index++) this.shadow[offset + index] = (value >>> (8 * index)) & 0xff;
  }

  private declare(base: number, fields: readonly FieldRule[]): void {
    for (const { offset, width, virtual, writable } of fields) {
      for (let index = 0; index < width; index++) {
        this.virtual[base + offset + index] |= (virtual >>> (8 * index)) & 0xff;
        this.writable[base + offset + index] |= (writable >>> (8 * index)) & 0xff;
      }
    }
  }

  /** A virtual function's ids and BARs are not in its configuration space, and it always answers to memory accesses. */
  private declareVirtual(): void {
    const { member } = this;
    const { vendor, device } = idsOf(member);
    this.writeShadow(VENDOR_ID, 2, vendor);
    this.writeShadow(DEVICE_ID, 2, device);
    this.writeShadow(COMMAND, 2, COMMAND_MEMORY);
    this.declare(COMMAND, [{ offset: 0, width: 2, virtual: COMMAND_MEMORY, writable: 0 }]);
    for (const bar of member.bars) if (bar) this.writeShadow(BASE_ADDRESS_0 + 4 * bar.index, 4, bar.typeBits);
  }

  private add(capability: VisibleCapability): void {
    this.capabilities.push(capability);
    this.owners.fill(this.capabilities.length, capability.offset, capability.offset + capability.length);
  }

  private reader(base: number): CapabilityReader {
    return (offset, width) => this.member.readConfig(base + offset, width);
  }

  private walkStandard(): void {
    const { member } = this;
    let link = CAPABILITY_LIST;
    const status = member.readConfig(STATUS, 2);
    let next = status & STATUS_CAPABILITY_LIST ? member.readConfig(CAPABILITY_LIST, 1) & 0xfc : 0;
    for (let left = 48; next >= HEADER_SIZE && left > 0; left--) {
      const base = next;
      const id = member.readConfig(base, 1);
      next = member.readConfig(base + 1, 1) & 0xfc;
      const rule = standardRules.get(id);
      if (rule === undefined) continue;
      const length = rule.length(this.reader(base));
      this.shadow[link] = base;
      link = base + 1;
      this.add({ id, extended: false, offset: base, length });
      this.declare(base, [{ offset: 1, width: 1, virtual: 0xff, writable: 0 }]);
      this.declare(base, id === CAPABILITY_MSI ? msiFields(member.readConfig(base + 2, 2)) : rule.fields);
      if (rule.raw) this.writable.fill(0xff, base + 2, base + length);
      if (id === 0x01) this.shadow[base + 3] &= 0x07; // PME support
    }
    this.shadow[link] = 0;
    if (this.capabilities.length === 0) this.shadow[STATUS] &= ~STATUS_CAPABILITY_LIST;
  }

  private walkExtended(): void {
    const { member } = this;
    if (member.config.size <= EXTENDED_CAPABILITIES) return;
    let previous: number | undefined;
    let next = EXTENDED_CAPABILITIES;
    for (let left = 480; next >= EXTENDED_CAPABILITIES && left > 0; left--) {
      const base = next;
      const header = member.readConfig(base, 4);
      if (header === 0) break;
      next = (header >>> 20) & 0xffc;
      const rule = extendedRules.get(header & 0xffff);
      if (rule !== undefined) {
        const length = rule.length(this.reader(base));
        this.add({ id: header & 0xffff, extended: true, offset: base, length });
        this.declare(base, rule.fields);
        if (rule.raw) this.writable.fill(0xff, base + 4, base + length);
        this.writeShadow(base, 4, (header & 0xfffff) >>> 0);
      } else if (base === EXTENDED_CAPABILITIES) {
        // The chain begins here whatever lies here: what is hidden leaves a place without id and version.
        this.writeShadow(base, 4, 0);
      } else {
        continue;
      }
      this.declare(base, [{ offset: 0, width: 4, virtual: rule ? 0xfff00000 : 0xffffffff, writable: 0 }]);
      if (previous !== undefined) this.linkExtended(previous, base);
      previous = base;
    }
  }

  private linkExtended(previous: number, base: number): void {
    const header = this.readShadow(previous, 4) & 0xfffff;
    this.writeShadow(previous, 4, header + base * 0x100000);
  }
}
