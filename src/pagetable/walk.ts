// Runs in a browser.
/**
 * The hardware's walk of a page table: from an input address to a physical address, or to a fault (DDI 0487 D8.2 to
 * D8.5, pseudocode AArch64.S1Translate and S2Translate).
 *
 * There is one walker. The SMMU model uses it for both stages: a stage-1 walk under a stage 2 gets a
 * {@link TableTranslator}, which says where each descriptor, an IPA to the walk, really is. Whoever wants to see the
 * steps gives an observer (see explain.ts).
 *
 * It reads the tables' bytes and nothing else: no knowledge of the mapper that wrote them, no cache. A walk allocates
 * nothing: what it found stays in the Walker's fields until the next walk.
 *
 * Faults are found in the order of the architecture: going down, in each entry an invalid one first, then an address
 * beyond the output size; in the leaf then the access flag, then permissions.
 */
import { BusError, type PhysicalMemory, wordIndex } from "../memory/index.ts";
import { INVALID, LEAF, TABLE } from "./formats/format.ts";
import type { LpaeFormat } from "./formats/lpae.ts";
import {
  ACCESS_FLAG,
  CONTIGUOUS,
  DIRTY_BIT_MODIFIER,
  madeDirty,
  NOT_GLOBAL,
  permissionBits,
  READ_ONLY,
  type RightsTable,
  restrict,
  STAGE2_WRITE,
  stage1Rights,
  stage2Rights,
  tableRestrictions,
} from "./formats/lpae-attributes.ts";
import { type Rights, writes } from "./rights.ts";
import { bitsFrom, highWord, joinWords } from "./words.ts";

/** One stage of translation, as a CD or STE sets it up. */
export interface StageOptions {
  /** Granule, T0SZ, start level and IPS or S2PS, decoded. */
  readonly format: LpaeFormat;
  /** TTB or S2TTB; bits below the size of the root are taken as 0. */
  readonly root: number;
  /** A leaf whose access flag is 0 faults: AFFD = 0. Default: true. */
  readonly accessFlagFaults?: boolean;
  /** Stage 1: table descriptors take rights from what is below: HAD = 0. Default: true. */
  readonly hierarchicalPermissions?: boolean;
  /** Stage 1: WXN. */
  readonly writeImpliesNoExecute?: boolean;
  /** Stage 1: PAN. */
  readonly privilegedAccessNever?: boolean;
  /** Stage 1: the regime has one privilege (STRW = EL2 without E2H, EL3). */
  readonly onePrivilege?: boolean;
  /** Stage 2: XN tells privileged from unprivileged execution (IDR3.XNX). Default: true. */
  readonly executePerPrivilege?: boolean;
  /** HA: the walk sets access flags. */
  readonly setAccessFlag?: boolean;
  /** HD (with HA): a write makes a writable-clean leaf (DBM, not writable) writable. */
  readonly setDirty?: boolean;
}

/** The same, ready to be walked any number of times. */
export class TranslationStage {
  readonly format: LpaeFormat;
  readonly root: number;
  readonly accessFlagFaults: boolean;
  readonly hierarchicalPermissions: boolean;
  readonly setAccessFlag: boolean;
  readonly setDirty: boolean;
  readonly rights: RightsTable;

  constructor(options: StageOptions) {
    const { format } = options;
    this.format = format;
    this.root = options.root - (options.root % (format.rootEntries * 8));
    this.accessFlagFaults = options.accessFlagFaults ?? true;
    this.hierarchicalPermissions = format.stage === 1 && (options.hierarchicalPermissions ?? true);
    this.setAccessFlag = options.setAccessFlag ?? false;
    this.setDirty = options.setDirty ?? false;
    this.rights =
      format.stage === 1
        ? stage1Rights({
            writeImpliesNoExecute: options.writeImpliesNoExecute ?? false,
            privilegedAccessNever: options.privilegedAccessNever ?? false,
            onePrivilege: options.onePrivilege ?? false,
          })
        : stage2Rights(options.executePerPrivilege ?? true);
  }
}

/** Stage 2 under the tables of a stage 1. */
export interface TableTranslator {
  /**
   * Where the descriptor at `ipa` is: a physical address, or -1 if stage 2 refuses (it then knows the fault).
   * `write` is true when hardware is about to change the descriptor (HA, HD).
   */
  translateTable(ipa: number, write: boolean): number;
}

/** Sees each descriptor as it is read. */
export interface WalkObserver {
  descriptor(walker: Walker, index: number): void;
}

/**
 * Why a walk ended without an address.
 * - `"translation"`: the entry is invalid, or the input is beyond the input size (then there is no descriptor).
 * - `"address-size"`: the address in the entry, or the root's (then there is no descriptor), is beyond the output size.
 * - `"access-flag"`, `"permission"`: of the leaf.
 * - `"external-abort"`: nothing answers where the descriptor should be.
 * - `"table"`: stage 2 refused the descriptor's address; the {@link TableTranslator} knows more.
 */
export type WalkFault = "translation" | "address-size" | "access-flag" | "permission" | "external-abort" | "table";

export class Walker {
  /** Undefined after a walk that succeeded. */
  fault: WalkFault | undefined = undefined;
  /** The level of the last descriptor: the leaf's, or the one that faulted (the start level if there was none). */
  level = 0;
  /** Base address of the table that holds it: an IPA if stage 2 is below. */
  table = 0;
  /** Address of the last descriptor, in the same space; -1 if there was none. */
  descriptorAddress = -1;
  /** Where it is in physical memory; -1 if it could not be found. */
  descriptorPhysical = -1;
  /** The last descriptor: the words, signed as bit operations give them. */
  low = 0;
  high = 0;

  /** What the input address translates to: a physical address, or an IPA if stage 2 is below. Only without a fault. */
  output = 0;
  /** log2 of the leaf's size. Only without a fault, or with one of access flag or permission. */
  shift = 0;
  /** All that the leaf and the tables above it grant, not only what was asked for. As `shift`. */
  rights: Rights = 0;

  /** Sees each step. */
  observer: WalkObserver | undefined = undefined;
  /** False for who only looks: what HA and HD would write to the table is left out. */
  updatesTables = true;

  private readonly memory: PhysicalMemory;
  /** Where stage 2 put the descriptor that was read last. */
  private nestedPhysical = -1;

  constructor(memory: PhysicalMemory) {
    this.memory = memory;
  }

  /** The fault is of reaching a descriptor, not of what it says. */
  get faultOnFetch(): boolean {
    return this.fault === "external-abort" || this.fault === "table";
  }

  /** Bytes of the leaf. */
  get size(): number {
    return 2 ** this.shift;
  }

  /** Stage 1: the leaf's index into MAIR. */
  get attributeIndex(): number {
    return (this.low >>> 2) & 7;
  }

  /** Stage 2: MemAttr[3:0]. */
  get memoryAttribute(): number {
    return (this.low >>> 2) & 0xf;
  }

  /** SH: 0 non-shareable, 2 outer, 3 inner shareable. */
  get shareability(): number {
    return (this.low >>> 8) & 3;
  }

  /** Stage 1: nG, so a TLB entry belongs to one ASID. */
  get notGlobal(): boolean {
    return (this.low & NOT_GLOBAL) !== 0;
  }

  /** The hint that the neighbours continue this leaf. */
  get contiguous(): boolean {
    return (this.high & CONTIGUOUS) !== 0;
  }

  /**
   * Translates `input` (a number below 2^52; a stage-1 caller has taken off the bits that choose TTB0 or TTB1) for an
   * access that needs `needed`. True: `output`, `shift`, `rights` and the leaf are there. False: `fault` and where.
   */
  walk(stage: TranslationStage, input: number, needed: Rights, tables?: TableTranslator): boolean {
    const { format } = stage;
    // Addresses go down as pairs of words: to make a number of each and take it apart again would double the time.
    let tableHigh = highWord(stage.root);
    let tableLow = stage.root | 0;
    let level = format.startLevel;
    if (input >= format.inputEnd) return this.refuseRoot("translation", stage);
    if (stage.root >= format.outputEnd) return this.refuseRoot("address-size", stage);

    const inputHigh = highWord(input);
    const inputLow = input | 0;
    const beyondOutput = format.outputBits - 32;
    let shift = format.shift(level);
    let indexMask = format.rootEntries - 1;
    let restrictions = 0;
    for (;;) {
      const index = bitsFrom(inputHigh, inputLow, shift) & indexMask;
      const fetched = this.fetch(tableHigh, tableLow | (index * 8), tables);
      const { low, high } = this;
      const kind = format.kind(level, low);
      const outputHigh = format.addressHigh(low, high);
      const beyond = outputHigh >>> beyondOutput !== 0;
      if (!fetched || kind !== TABLE || beyond || this.observer !== undefined) {
        this.locate(level, joinWords(tableHigh, tableLow), index, tables !== undefined);
        if (!fetched) return false;
        if (this.observer !== undefined) this.observer.descriptor(this, index);
        if (kind === INVALID) return this.refuse("translation");
        if (beyond) return this.refuse("address-size");
        if (kind === LEAF) {
          this.shift = shift;
          return (
            this.takeLeaf(stage, needed, restrictions, tables) &&
            this.setOutput(shift, outputHigh, low, inputHigh, inputLow)
          );
        }
      }
      if (stage.hierarchicalPermissions) restrictions |= tableRestrictions(high);
      tableHigh = outputHigh;
      tableLow = format.addressLow(low);
      indexMask = format.tableEntries - 1;
      shift -= format.bitsPerLevel;
      level++;
    }
  }

  private refuse(fault: WalkFault): false {
    this.fault = fault;
    return false;
  }

  /** Nothing was read: it is the input or the root that is wrong. */
  private refuseRoot(fault: WalkFault, stage: TranslationStage): false {
    this.level = stage.format.startLevel;
    this.table = stage.root;
    this.descriptorAddress = -1;
    this.descriptorPhysical = -1;
    return this.refuse(fault);
  }

  private locate(level: number, table: number, index: number, nested: boolean): void {
    this.level = level;
    this.table = table;
    this.descriptorAddress = table + index * 8;
    this.descriptorPhysical = nested ? this.nestedPhysical : this.descriptorAddress;
  }

  /** Reads the descriptor at an address, given as words, into `low` and `high`. */
  private fetch(addressHigh: number, addressLow: number, tables: TableTranslator | undefined): boolean {
    if (tables === undefined) {
      const words = this.memory.chunk((addressHigh << 11) | (addressLow >>> 21));
      if (words !== undefined) {
        const at = wordIndex(addressLow);
        this.low = words[at] | 0;
        this.high = words[at + 1] | 0;
        return true;
      }
    }
    return this.fetchElsewhere(joinWords(addressHigh, addressLow), tables);
  }

  /** The descriptor is where stage 2 says, in untouched RAM, in a frame of another, or nowhere. */
  private fetchElsewhere(address: number, tables: TableTranslator | undefined): boolean {
    const physical = tables === undefined ? address : tables.translateTable(address, false);
    this.nestedPhysical = physical;
    if (physical < 0) return this.refuse("table");
    try {
      this.low = this.memory.readWord(physical) | 0;
      this.high = this.memory.readWord(physical + 4) | 0;
      return true;
    } catch (error) {
      if (error instanceof BusError) return this.refuse("external-abort");
      throw error;
    }
  }

  /** Checks access flag and permissions of the leaf, and updates it where hardware does (HTTU). */
  private takeLeaf(
    stage: TranslationStage,
    needed: Rights,
    restrictions: number,
    tables: TableTranslator | undefined,
  ): boolean {
    const { low, high } = this;
    let packed = permissionBits(low, high);
    let rights = stage.rights[restrictions === 0 ? packed : restrict(packed, restrictions)];
    let update = low;
    if ((low & ACCESS_FLAG) === 0) {
      if (stage.setAccessFlag) update |= ACCESS_FLAG;
      else if (stage.accessFlagFaults) {
        this.rights = rights;
        return this.refuse("access-flag");
      }
    }
    if ((rights & needed) !== needed && stage.setDirty && (high & DIRTY_BIT_MODIFIER) !== 0 && writes(needed)) {
      packed = madeDirty(stage.format.stage, packed);
      rights = stage.rights[restrictions === 0 ? packed : restrict(packed, restrictions)];
      update = stage.format.stage === 1 ? update & ~READ_ONLY : update | STAGE2_WRITE;
    }
    this.rights = rights;
    if ((rights & needed) !== needed) return this.refuse("permission");
    this.fault = undefined;
    return update === low || this.update(update, tables);
  }

  /** Changes the low word of the leaf in memory, in one store: nothing runs between the read and this. */
  private update(low: number, tables: TableTranslator | undefined): boolean {
    if (!this.updatesTables) return true;
    if (tables !== undefined && tables.translateTable(this.descriptorAddress, true) < 0) return this.refuse("table");
    try {
      this.memory.writeWord(this.descriptorPhysical, low >>> 0);
    } catch (error) {
      if (error instanceof BusError) return this.refuse("external-abort");
      throw error;
    }
    this.low = low;
    return true;
  }

  /** Bits of the leaf's address above its size, bits of the input below. Bits that a block has no use for are ignored. */
  private setOutput(shift: number, leafHigh: number, leafLow: number, inputHigh: number, inputLow: number): true {
    if (shift < 32) {
      const below = (1 << shift) - 1;
      this.output = joinWords(leafHigh, (leafLow & ~below) | (inputLow & below));
    } else {
      const below = (1 << (shift - 32)) - 1;
      this.output = joinWords((leafHigh & ~below) | (inputHigh & below), inputLow);
    }
    return true;
  }
}
