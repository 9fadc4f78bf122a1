// Runs in a browser.
/** For tests and benchmarks: a model with memory, and short ways to write its tables, commands and registers by hand. */
import { PhysicalMemory } from "../../memory/physical.ts";
import { type LpaeFormat, lpae, PageTable, type UnmapResult } from "../../pagetable/index.ts";
import { System } from "../../runtime/index.ts";
import type { FaultExplanation } from "./faults.ts";
import { type FeatureChoices, smmuFeatures } from "./features.ts";
import type { InterruptLine } from "./interrupts.ts";
import {
  CMDQ_BASE,
  CMDQ_PROD,
  CR0,
  CR2,
  EVENTQ_BASE,
  EVENTQ_CONS,
  EVENTQ_PROD,
  PAGE1,
  STRTAB_BASE,
  STRTAB_BASE_CFG,
} from "./registers.ts";
import { type SmmuOptions, SmmuV3 } from "./smmuv3.ts";

const MIB = 2 ** 20;
export const RAM_BASE: number = 2 ** 30;
export const RAM_SIZE: number = 256 * MIB;
/** Nothing answers from here on. */
export const NOWHERE: number = 2 ** 36;

/** The stream table, of 2^8 entries, and the queues are here; page tables and data come from the frames behind. */
export const STREAM_TABLE: number = RAM_BASE;
const STREAM_TABLE_LOG2 = 8;
export const COMMANDS: number = RAM_BASE + 0x10000;
export const EVENTS: number = RAM_BASE + 0x20000;
const CDS = RAM_BASE + 0x30000;
const RESERVED_FRAMES = 0x100;

export interface WorkbenchOptions {
  readonly features?: FeatureChoices;
  readonly queueLog2?: number;
  readonly smmu?: SmmuOptions;
}

/** What a CD says; the rest is usual: A and R set, AA64, no TTB1. */
export interface CdFields {
  readonly table: PageTable;
  readonly asid?: number;
  /** S, R, A; default 0, 1, 1. */
  readonly stalls?: boolean;
  readonly records?: boolean;
  readonly aborts?: boolean;
  /** Bits to flip in word 0. */
  readonly flip?: bigint;
}

export interface Stage2Fields {
  readonly table: PageTable;
  readonly vmid?: number;
  readonly stalls?: boolean;
  readonly records?: boolean;
  readonly protectedTableWalk?: boolean;
}

function bits(value: boolean | number | bigint | undefined, low: number): bigint {
  return BigInt(value ?? 0) * 2n ** BigInt(low);
}

function granuleCode(format: LpaeFormat): number {
  return { 4096: 0, 65536: 1, 16384: 2 }[format.granule];
}

/** Words of a CD (§5.4). */
export function cdWords({
  table,
  asid = 1,
  stalls = false,
  records = true,
  aborts = true,
  flip = 0n,
}: CdFields): bigint[] {
  const format = table.format as LpaeFormat;
  const word0 =
    bits(format.t0sz, 0) +
    bits(granuleCode(format), 6) +
    bits(1, 30) + // EPD1
    bits(1, 31) +
    bits(5, 32) + // 48 bits of output
    bits(1, 41) +
    bits(stalls, 44) +
    bits(records, 45) +
    bits(aborts, 46) +
    bits(asid, 48);
  return [word0 ^ flip, BigInt(table.root), 0n, 0n, 0n, 0n, 0n, 0n];
}

/** Words 2 and 3 of an STE (§5.2). */
export function stage2Words(fields: Stage2Fields): [bigint, bigint] {
  const format = fields.table.format as LpaeFormat;
  const word2 =
    bits(fields.vmid ?? 1, 0) +
    bits(format.t0sz, 32) +
    bits(format.sl0, 38) +
    bits(granuleCode(format), 46) +
    bits(5, 48) +
    bits(1, 51) +
    bits(fields.protectedTableWalk, 54) +
    bits(fields.stalls, 57) +
    bits(fields.records ?? true, 58);
  return [word2, BigInt(fields.table.root)];
}

/** What an unmap fills, for those who do not care. */
export function newGather(): UnmapResult {
  return { start: 1n, last: 0n, leafSize: 0, freedTables: [] };
}

export const STE_ABORT = 0n;
export const STE_BYPASS = 4n;
export const STE_STAGE1 = 5n;
export const STE_STAGE2 = 6n;
export const STE_NESTED = 7n;

/** Words of an STE: V and Config; a CD table of 2^`contextBits` at `contexts`; stage 2. */
export function steWords(
  configuration: bigint,
  options: {
    contexts?: number;
    contextBits?: number;
    format?: number;
    s1dss?: number;
    stage2?: Stage2Fields;
    word1?: bigint;
  } = {},
): bigint[] {
  const word0 =
    1n + configuration * 2n + bits(options.format, 4) + BigInt(options.contexts ?? 0) + bits(options.contextBits, 59);
  const [word2, word3] = options.stage2 === undefined ? [0n, 0n] : stage2Words(options.stage2);
  return [word0, bits(options.s1dss, 0) + (options.word1 ?? 0n), word2, word3, 0n, 0n, 0n, 0n];
}

export class Workbench {
  readonly system = new System();
  readonly memory: PhysicalMemory;
  readonly smmu: SmmuV3;
  readonly faults: FaultExplanation[] = [];
  readonly interrupts: InterruptLine[] = [];
  private readonly queueLog2: number;
  private nextCd = CDS;

  constructor(options: WorkbenchOptions = {}) {
    this.memory = new PhysicalMemory(this.system, { ram: [{ base: RAM_BASE, size: RAM_SIZE }] });
    this.memory.allocate(RESERVED_FRAMES);
    this.queueLog2 = options.queueLog2 ?? 6;
    this.smmu = new SmmuV3(this.system, this.memory, {
      ...smmuFeatures(options.features),
      interrupt: (line) => this.interrupts.push(line),
      ...options.smmu,
    });
    this.smmu.onFault = (fault) => this.faults.push(fault);
    this.writeRegister64(STRTAB_BASE, STREAM_TABLE);
    this.smmu.write32(STRTAB_BASE_CFG, STREAM_TABLE_LOG2);
    this.writeRegister64(CMDQ_BASE, COMMANDS + this.queueLog2);
    this.writeRegister64(EVENTQ_BASE, EVENTS + this.queueLog2);
    this.smmu.write32(CR2, 2);
  }

  /** Turns on translation and both queues. */
  enable(): this {
    this.smmu.write32(CR0, 0xd);
    return this;
  }

  writeRegister64(offset: number, value: number): void {
    this.smmu.write64(offset, value % 2 ** 32, Math.floor(value / 2 ** 32));
  }

  /** Writes 64-bit words to memory. */
  write(address: number, ...words: bigint[]): void {
    for (const [i, word] of words.entries()) {
      this.memory.writeWord(address + 8 * i, Number(word % 2n ** 32n));
      this.memory.writeWord(address + 8 * i + 4, Number(word / 2n ** 32n));
    }
  }

  /** Reads a 64-bit word of memory. */
  read(address: number): bigint {
    return BigInt(this.memory.readWord(address + 4)) * 2n ** 32n + BigInt(this.memory.readWord(address));
  }

  steAddress(streamId: number): number {
    return STREAM_TABLE + streamId * 64;
  }

  writeSte(streamId: number, words: readonly bigint[]): void {
    this.write(this.steAddress(streamId), ...words);
  }

  /** Writes CDs one after the other; returns the address of the first. */
  writeCds(...cds: (readonly bigint[])[]): number {
    const address = this.nextCd;
    for (const cd of cds) {
      this.write(this.nextCd, ...cd);
      this.nextCd += 64;
    }
    return address;
  }

  stage1Table(options: { granule?: 4096 | 16384 | 65536; inputBits?: number } = {}): PageTable {
    const { granule = 4096, inputBits = 48 } = options;
    return new PageTable(this.system, this.memory, lpae({ stage: 1, granule, inputBits, outputBits: 48 }));
  }

  stage2Table(inputBits = 40): PageTable {
    return new PageTable(this.system, this.memory, lpae({ stage: 2, granule: 4096, inputBits, outputBits: 48 }));
  }

  /** A stream with stage 1 through one CD. */
  stage1Stream(streamId: number, cd: CdFields): void {
    this.writeSte(streamId, steWords(STE_STAGE1, { contexts: this.writeCds(cdWords(cd)) }));
  }

  stage2Stream(streamId: number, stage2: Stage2Fields): void {
    this.writeSte(streamId, steWords(STE_STAGE2, { stage2 }));
  }

  nestedStream(streamId: number, cd: CdFields, stage2: Stage2Fields): void {
    this.writeSte(streamId, steWords(STE_NESTED, { contexts: this.writeCds(cdWords(cd)), stage2 }));
  }

  /** Puts commands, pairs of 64-bit words, in the queue and tells the SMMU. */
  commands(...commands: (readonly [bigint, bigint])[]): void {
    let producer = this.smmu.read32(CMDQ_PROD);
    for (const command of commands) {
      this.write(COMMANDS + (producer % 2 ** this.queueLog2) * 16, ...command);
      producer = (producer + 1) % 2 ** (this.queueLog2 + 1);
    }
    this.smmu.write32(CMDQ_PROD, producer);
  }

  /** Takes the records out of the event queue, as four 64-bit words each. */
  takeEvents(): bigint[][] {
    const mask = 2 ** (this.queueLog2 + 1);
    const records: bigint[][] = [];
    const consumer = this.smmu.read32(PAGE1 + EVENTQ_CONS);
    const producer = this.smmu.read32(PAGE1 + EVENTQ_PROD);
    for (let at = consumer % mask; at !== producer % mask; at = (at + 1) % mask) {
      const address = EVENTS + (at % 2 ** this.queueLog2) * 32;
      records.push([0, 8, 16, 24].map((offset) => this.read(address + offset)));
    }
    this.smmu.write32(PAGE1 + EVENTQ_CONS, producer);
    return records;
  }

  /** The physical address of an access, or its fault's words. */
  translate(streamId: number, address: bigint | number, write = false, substreamId = -1): number | string {
    const value = BigInt(address);
    const high = Number(value / 2n ** 32n);
    const outcome = this.smmu.translate(streamId, substreamId, high, Number(value % 2n ** 32n), write);
    return outcome === 0 ? this.smmu.physical : (this.faults.at(-1)?.text() ?? "no fault was told");
  }

  /** A whole DMA of a device; true if it went through. */
  access(requester: number, address: bigint | number, bytes: Uint8Array, write: boolean, pasid?: number): boolean {
    return this.system.run("dma", this.smmu.access(requester, pasid, BigInt(address), bytes, write));
  }
}
