// Runs in a browser.
/**
 * The register file (IHI 0070 §6.1 to 6.3): what each register keeps, which bits of it can be written, and when.
 *
 * Registers are 32-bit words; a 64-bit register is two of them. Bits that do not exist are RES0: written in vain, read
 * as 0. A field that is not writable at the moment keeps its value, as SMMUv3.2 has it. Effects of a write are not known here.
 */
import { decodeFeatures, type Features, type IdRegisters } from "./features.ts";

export const IDR0 = 0x00;
export const IDR1 = 0x04;
export const IDR2 = 0x08;
export const IDR3 = 0x0c;
export const IDR4 = 0x10;
export const IDR5 = 0x14;
export const IIDR = 0x18;
export const AIDR = 0x1c;
export const CR0 = 0x20;
export const CR0ACK = 0x24;
export const CR1 = 0x28;
export const CR2 = 0x2c;
export const STATUSR = 0x40;
export const GBPA = 0x44;
export const IRQ_CTRL = 0x50;
export const IRQ_CTRLACK = 0x54;
export const GERROR = 0x60;
export const GERRORN = 0x64;
export const GERROR_IRQ_CFG0 = 0x68;
export const GERROR_IRQ_CFG1 = 0x70;
export const GERROR_IRQ_CFG2 = 0x74;
export const STRTAB_BASE = 0x80;
export const STRTAB_BASE_CFG = 0x88;
export const CMDQ_BASE = 0x90;
export const CMDQ_PROD = 0x98;
export const CMDQ_CONS = 0x9c;
export const EVENTQ_BASE = 0xa0;
/** Producers and consumers of output queues are on page 1, at {@link PAGE1} plus these offsets. */
export const EVENTQ_PROD = 0xa8;
export const EVENTQ_CONS = 0xac;
export const EVENTQ_IRQ_CFG0 = 0xb0;
export const EVENTQ_IRQ_CFG1 = 0xb8;
export const EVENTQ_IRQ_CFG2 = 0xbc;
export const PRIQ_BASE = 0xc0;
export const PRIQ_PROD = 0xc8;
export const PRIQ_CONS = 0xcc;
export const PRIQ_IRQ_CFG0 = 0xd0;
export const PRIQ_IRQ_CFG1 = 0xd8;
export const PRIQ_IRQ_CFG2 = 0xdc;
export const PAGE1 = 0x10000;
/** Bytes of both pages. */
export const REGISTERS_SIZE = 0x20000;

export const CR0_SMMUEN = 1;
export const CR0_PRIQEN = 2;
export const CR0_EVENTQEN = 4;
export const CR0_CMDQEN = 8;
export const CR0_ATSCHK = 0x10;
export const CR2_E2H = 1;
export const CR2_RECINVSID = 2;
export const CR2_PTM = 4;
export const GBPA_ABORT = 1 << 20;
export const GBPA_UPDATE = 0x80000000;
export const IRQ_GERROR = 1;
export const IRQ_PRIQ = 2;
export const IRQ_EVENTQ = 4;
/** In PRIQ_IRQ_CFG2 (LO): interrupts are for the last requests of groups (§6.3.36). */
export const PRIQ_LAST_ONLY = 0x80000000;

/** Bit 62 of base registers: RA or WA. */
const ALLOCATION_HINT = 0x40000000;
/** MemAttr and SH of MSIs. */
const MESSAGE_ATTRIBUTES = 0x3f;

/** Global errors (§6.3.19). */
export const CMDQ_ERR = 1;
export const EVENTQ_ABT_ERR = 4;
export const PRIQ_ABT_ERR = 8;
export const MSI_CMDQ_ABT_ERR = 16;
export const MSI_EVENTQ_ABT_ERR = 32;
export const MSI_PRIQ_ABT_ERR = 64;
export const MSI_GERROR_ABT_ERR = 128;

/** Bits of CR0 or IRQ_CTRL that must be 0 for a write to count. */
interface Guard {
  readonly cr0?: number;
  readonly irqCtrl?: number;
}

interface Rule extends Guard {
  /** Bits that software can write. */
  readonly mask: number;
}

const PAGE0_WORDS = 0x100 / 4;

export class Registers {
  readonly features: Features;
  private readonly words = new Uint32Array(PAGE0_WORDS);
  /** For each register the fields that can be written, by what guards them. */
  private readonly rules: Rule[][] = Array.from({ length: PAGE0_WORDS }, () => []);

  constructor(ids: IdRegisters) {
    this.features = decodeFeatures(ids);
    const initial: [number, number][] = [
      [IDR0, ids.idr0],
      [IDR1, ids.idr1],
      [IDR2, ids.idr2],
      [IDR3, ids.idr3],
      [IDR4, ids.idr4],
      [IDR5, ids.idr5],
      [IIDR, ids.iidr],
      [AIDR, ids.aidr],
      [GBPA, ids.gbpa],
    ];
    for (const [offset, value] of initial) this.set(offset, value);
    this.makeRules();
  }

  /** The value of a register of this block, without the checks of software's accesses. */
  get(offset: number): number {
    return this.words[offset >> 2];
  }

  set(offset: number, value: number): void {
    this.words[offset >> 2] = value;
  }

  /** What software reads at an offset from the base of page 0. */
  read(offset: number): number {
    const register = registerAt(offset);
    return register === undefined ? 0 : this.words[register >> 2];
  }

  /**
   * Software writes `value`. Returns the register that took the write, as its offset on page 0, or undefined if there
   * is none, or it keeps its value at this time.
   */
  write(offset: number, value: number): number | undefined {
    const register = registerAt(offset);
    if (register === undefined) return undefined;
    const mask = this.writableBits(register);
    // A write counts only with UPDATE set (§6.3.14).
    if (mask === 0 || (register === GBPA && (value & GBPA_UPDATE) === 0)) return undefined;
    const index = register >> 2;
    this.words[index] = (this.words[index] & ~mask) | (value & mask);
    return register;
  }

  /** Bits that a write would change now. */
  private writableBits(register: number): number {
    let bits = 0;
    for (const { mask, cr0 = 0, irqCtrl = 0 } of this.rules[register >> 2]) {
      if ((this.get(CR0) & cr0) === 0 && (this.get(IRQ_CTRL) & irqCtrl) === 0) bits |= mask;
    }
    return bits;
  }

  private makeRules(): void {
    const { features } = this;
    const rule = (offset: number, mask: number, guard: Guard = {}): void => {
      this.rules[offset >> 2].push({ mask, ...guard });
    };
    const anyQueue = CR0_CMDQEN | CR0_EVENTQEN | CR0_PRIQEN;
    // Address bits beyond IDR5.OAS are not stored: such an address is truncated (§3.4.3).
    const addressHigh = 2 ** (features.outputBits - 32) - 1;
    const baseHigh = ALLOCATION_HINT | addressHigh;
    rule(
      CR0,
      CR0_SMMUEN | CR0_EVENTQEN | CR0_CMDQEN | (features.pri ? CR0_PRIQEN : 0) | (features.ats ? CR0_ATSCHK : 0),
    );
    // Attributes of the accesses to tables, and to queues (§6.3.11); nothing here depends on them.
    rule(CR1, 0xfc0, { cr0: CR0_SMMUEN });
    rule(CR1, 0x03f, { cr0: anyQueue });
    const optionalControls = (features.hypervisor ? CR2_E2H : 0) | (features.broadcastTlb ? CR2_PTM : 0);
    rule(CR2, CR2_RECINVSID | optionalControls, { cr0: CR0_SMMUEN });
    rule(GBPA, 0x801f_3f1f | 0);
    rule(IRQ_CTRL, IRQ_GERROR | IRQ_EVENTQ | (features.pri ? IRQ_PRIQ : 0));
    rule(GERRORN, 0x1fd);
    rule(STRTAB_BASE, 0xffffffc0, { cr0: CR0_SMMUEN });
    rule(STRTAB_BASE + 4, baseHigh, { cr0: CR0_SMMUEN });
    rule(STRTAB_BASE_CFG, features.twoLevelStreamTable ? 0x307ff : 0x3f, { cr0: CR0_SMMUEN });
    const queue = (base: number, producer: number, consumer: number, log2: number, enable: number): void => {
      rule(base, 0xffffffff, { cr0: enable });
      rule(base + 4, baseHigh, { cr0: enable });
      const pointer = 2 ** (log2 + 1) - 1;
      const input = base === CMDQ_BASE;
      rule(producer, input ? pointer : pointer + 2 ** 31, input ? {} : { cr0: enable });
      rule(consumer, input ? pointer + 0x7f000000 : pointer + 2 ** 31, input ? { cr0: enable } : {});
    };
    queue(CMDQ_BASE, CMDQ_PROD, CMDQ_CONS, features.commandQueueLog2, CR0_CMDQEN);
    queue(EVENTQ_BASE, EVENTQ_PROD, EVENTQ_CONS, features.eventQueueLog2, CR0_EVENTQEN);
    if (features.pri) queue(PRIQ_BASE, PRIQ_PROD, PRIQ_CONS, features.pageRequestQueueLog2, CR0_PRIQEN);
    if (!features.msi) return;
    const message = (address: number, irqCtrl: number, attributes: number): void => {
      rule(address, 0xfffffffc, { irqCtrl });
      rule(address + 4, addressHigh, { irqCtrl });
      rule(address + 8, 0xffffffff, { irqCtrl });
      rule(address + 12, attributes, { irqCtrl });
    };
    message(GERROR_IRQ_CFG0, IRQ_GERROR, MESSAGE_ATTRIBUTES);
    message(EVENTQ_IRQ_CFG0, IRQ_EVENTQ, MESSAGE_ATTRIBUTES);
    if (features.pri) message(PRIQ_IRQ_CFG0, IRQ_PRIQ, MESSAGE_ATTRIBUTES | PRIQ_LAST_ONLY);
  }
}

/** The register behind an offset, as its offset on page 0; undefined where there is none. */
function registerAt(offset: number): number | undefined {
  if (offset >= PAGE1) {
    const low = offset - PAGE1;
    return low === EVENTQ_PROD || low === EVENTQ_CONS || low === PRIQ_PROD || low === PRIQ_CONS ? low : undefined;
  }
  // Their page 0 aliases are not implemented (§6.2).
  if (offset === EVENTQ_PROD || offset === EVENTQ_CONS || offset === PRIQ_PROD || offset === PRIQ_CONS)
    return undefined;
  return offset < PAGE0_WORDS * 4 ? offset : undefined;
}
