// Runs in a browser.
/**
 * Stage 2: from an intermediate physical address (IPA) to a physical one, through the TLB or the tables
 * (IHI 0070 §3.4, §5.2). What it found stays in its fields until the next translation.
 */
import type { PhysicalMemory } from "../../memory/index.ts";
import { RIGHT_READ, RIGHT_WRITE, type TableTranslator, Walker } from "../../pagetable/index.ts";
import { CLASS_CD, CLASS_IN, CLASS_TT, F_PERMISSION, type Fault } from "./faults.ts";
import { hex } from "./fetch.ts";
import type { Stage2Configuration, StreamTableEntry } from "./ste.ts";
import { contextTag, Tlb } from "./tlb.ts";
import { walkFault } from "./walk-faults.ts";

/** Or-ed to an entry's rights: the memory is of a Device type. */
export const RIGHT_DEVICE_MEMORY = 0x40;

export const STAGE2_TAG: number = contextTag(0, false);

/** MemAttr of a leaf: 0b00xx is Device; with S2FWB 0b0xxx below 4 is (DDI 0487 D8.6). */
function isDevice(memoryAttribute: number, forceWriteBack: boolean): boolean {
  return forceWriteBack ? (memoryAttribute & 4) === 0 : memoryAttribute < 4;
}

export class Stage2 implements TableTranslator {
  /** By VMID and IPA. */
  readonly tlb: Tlb = new Tlb();
  /** Results: the physical address, log2 of the leaf's bytes, the rights, and whether it is Device memory. */
  physical = 0;
  shift = 0;
  rights = 0;
  /** Set when a translation failed. */
  fault: Fault | undefined = undefined;

  private readonly walker: Walker;
  /** Whose stage 1 tables are being walked. */
  private ste: StreamTableEntry | undefined = undefined;

  constructor(memory: PhysicalMemory) {
    this.walker = new Walker(memory);
  }

  /** Stage 2 of `ste`, for a walk of its stage 1 tables. */
  under(ste: StreamTableEntry): TableTranslator | undefined {
    if (ste.stage2 === undefined) return undefined;
    this.ste = ste;
    return this;
  }

  translateTable(ipa: number, write: boolean): number {
    return this.translate(this.ste!, ipa, write ? RIGHT_READ | RIGHT_WRITE : RIGHT_READ, CLASS_TT) ? this.physical : -1;
  }

  /** Translates an IPA of the stream for an access that needs `needed`. False: `fault` says why. */
  translate(ste: StreamTableEntry, ipa: number, needed: number, accessClass: number): boolean {
    const stage2 = ste.stage2!;
    const owner = ste.vmid << 16;
    const high = (ipa / 2 ** 32) | 0;
    const low = ipa | 0;
    const slot = this.tlb.find(high, low, owner, STAGE2_TAG);
    if (slot >= 0) {
      const rights = this.tlb.rights[slot];
      if ((rights & needed) === needed && !forbidsDevice(stage2, rights, accessClass)) {
        this.physical = this.tlb.output(slot, this.tlb.offset(slot, high, low));
        this.shift = this.tlb.shift(slot);
        this.rights = rights;
        return true;
      }
      // What the tables say now decides, and replaces the entry.
      this.tlb.drop(slot);
    }
    return this.walk(stage2, owner, ipa, needed, accessClass);
  }

  private walk(stage2: Stage2Configuration, owner: number, ipa: number, needed: number, accessClass: number): boolean {
    const { walker } = this;
    if (!walker.walk(stage2.stage, ipa, needed)) {
      const fault = walkFault(walker, stage2.stage, () => hex(ipa), needed, prefixOf(accessClass, ipa));
      this.fault = { ...fault, stage2: true, accessClass, ipa, writesTable: (needed & RIGHT_WRITE) !== 0 };
      return false;
    }
    const device = isDevice(walker.memoryAttribute, stage2.forceWriteBack);
    const rights = (walker.rights & (RIGHT_READ | RIGHT_WRITE)) | (device ? RIGHT_DEVICE_MEMORY : 0);
    if (forbidsDevice(stage2, rights, accessClass)) {
      const { descriptorAddress, level } = walker;
      const why = (): string =>
        `${prefixOf(accessClass, ipa)}level ${level} entry at ${hex(descriptorAddress)}: Device memory, and S2PTW is 1`;
      this.fault = { event: F_PERMISSION, stage2: true, accessClass, ipa, why };
      return false;
    }
    this.physical = walker.output;
    this.shift = walker.shift;
    this.rights = rights;
    const high = (ipa / 2 ** 32) | 0;
    this.tlb.insert(high, ipa | 0, owner, STAGE2_TAG, this.shift, this.shift, this.physical, rights, false);
    return true;
  }
}

/** S2PTW: the SMMU's own fetches for stage 1 may not go to Device memory (§5.2). */
function forbidsDevice(stage2: Stage2Configuration, rights: number, accessClass: number): boolean {
  return stage2.protectedTableWalk && accessClass !== CLASS_IN && (rights & RIGHT_DEVICE_MEMORY) !== 0;
}

function prefixOf(accessClass: number, ipa: number): string {
  if (accessClass === CLASS_CD) return `stage 2 of the CD's address ${hex(ipa)}: `;
  return accessClass === CLASS_TT ? `stage 2 of the stage 1 entry's address ${hex(ipa)}: ` : `stage 2 of ${hex(ipa)}: `;
}
