// Runs in a browser.
/**
 * Context tables without a stream table: for another IOMMU that lets its driver attach tables of Arm's form. It is told where
 * a stream's table is by a call; the rest is as in the SMMU itself, caches included.
 */
import type { PhysicalMemory } from "../../memory/index.ts";
import { ConfigurationCache, NO_SUBSTREAM } from "./config-cache.ts";
import { type FeatureChoices, smmuFeatures } from "./features.ts";
import { CR0, CR0_SMMUEN, Registers } from "./registers.ts";
import { CD_TABLE_64K, CD_TABLE_LINEAR, REGIME_EL1, S1DSS_SUBSTREAM0, STE_WORDS, StreamTableEntry } from "./ste.ts";
import { Translator } from "./translate.ts";

const VALID = 1;
const CONFIG_STAGE1 = 5;

/** A context table, in the words of an STE. */
export interface AttachedTable {
  /** S1Fmt. */
  readonly format: number;
  /** S1ContextPtr. */
  readonly pointer: number;
  /** S1CDMax. */
  readonly log2Contexts: number;
  /** S1DSS. */
  readonly defaultSubstream: number;
}

export class ContextTables {
  /** After {@link translate} succeeded. */
  get physical(): number {
    return this.translator.physical;
  }

  /** Bytes from there on that are translated alike. */
  get reach(): number {
    return this.translator.reach;
  }

  private readonly registers: Registers;
  private readonly cache = new ConfigurationCache();
  private readonly translator: Translator;
  private readonly entries = new Map<number, StreamTableEntry>();

  /** Faults end at once: nothing is stalled, nothing is recorded here. */
  constructor(memory: PhysicalMemory, choices: FeatureChoices = {}) {
    this.registers = new Registers(smmuFeatures({ ...choices, stage2: false, stalls: "terminate" }));
    this.registers.set(CR0, CR0_SMMUEN);
    this.translator = new Translator(this.registers, memory, this.cache);
  }

  /** What an ASID can have. */
  get asidBits(): number {
    return this.registers.features.asid16 ? 16 : 8;
  }

  get substreamBits(): number {
    return this.registers.features.substreamIdBits;
  }

  /** True if tables may have two levels. */
  get allowsTwoLevels(): boolean {
    return this.registers.features.twoLevelContextTable;
  }

  has(streamId: number): boolean {
    return this.entries.has(streamId);
  }

  /** From now on the stream translates by this table; false if there can be none such, and then nothing has changed. */
  attach(streamId: number, { format, pointer, log2Contexts, defaultSubstream }: AttachedTable): boolean {
    if ((format !== CD_TABLE_LINEAR && format !== CD_TABLE_64K) || defaultSubstream > S1DSS_SUBSTREAM0) return false;
    const words = new Uint32Array(STE_WORDS);
    words[0] = VALID | (CONFIG_STAGE1 << 1) | (format << 4) | (pointer % 2 ** 32);
    words[1] = Math.floor(pointer / 2 ** 32) | (log2Contexts << 27);
    words[2] = defaultSubstream;
    const entry = new StreamTableEntry(streamId, pointer, words, this.registers.features, false);
    if (entry.illegal !== undefined) return false;
    this.entries.set(streamId, entry);
    this.cache.invalidateStreams(streamId, streamId, false);
    return true;
  }

  /** Forgets the stream; and all translations, since nobody says which were only its own. */
  detach(streamId: number): void {
    this.entries.delete(streamId);
    this.cache.invalidateStreams(streamId, streamId, false);
    this.translator.tlb.clear();
  }

  /** Forgets all streams and all that was found by them. */
  reset(): void {
    this.entries.clear();
    this.cache.clear();
    this.translator.tlb.clear();
  }

  /** Forgets the context of one substream and the way to it. */
  forgetContext(streamId: number, substreamId: number): void {
    this.cache.invalidateContext(streamId, substreamId, false);
  }

  forgetContexts(streamId: number): void {
    this.cache.invalidateContexts(streamId);
  }

  /** Forgets all translations under an ASID, or of all ASIDs. */
  forgetTranslations(asid: number | undefined): void {
    this.translator.tlb.invalidate({ regime: REGIME_EL1, vmid: 0, ...(asid === undefined ? {} : { asid }) });
  }

  /** Forgets those of `count` pages of 2^granuleLog2 bytes from an address on. */
  forgetRange(asid: number, address: bigint, count: number, granuleLog2: number): void {
    const high = Number(address / 0x1_0000_0000n);
    const low = Number(address % 0x1_0000_0000n) | 0;
    this.translator.tlb.invalidateRange({ regime: REGIME_EL1, vmid: 0, asid }, { high, low, count, granuleLog2 });
  }

  /** Translates one access of an attached stream; `substreamId` undefined for none. False, and `why` says why not. */
  translate(streamId: number, substreamId: number | undefined, address: bigint, write: boolean): boolean {
    const entry = this.entries.get(streamId);
    if (entry === undefined) return false;
    // The one place where an STE is: nothing is fetched for it.
    if (this.cache.stream(streamId) !== entry) this.cache.keepStream(entry);
    const high = Number(address / 0x1_0000_0000n);
    const low = Number(address % 0x1_0000_0000n);
    return this.translator.translate(streamId, substreamId ?? NO_SUBSTREAM, high, low, write);
  }

  /** Why the last {@link translate} failed, in words. */
  why(): string {
    return this.translator.fault?.why() ?? "no table is attached";
  }
}
