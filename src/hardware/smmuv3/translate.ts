// Runs in a browser.
/**
 * The translation procedure (IHI 0070 §3.3, §3.4, §3.12, §15; reference 6.6), from (StreamID, SubstreamID, address) to
 * a physical address or a fault.
 *
 * The way of a translation that succeeds: a context from the configuration cache, an entry from a TLB, done; nothing is
 * allocated, and the result is left in fields. What is not cached, `resolve` (STE and CD) and `translateIn` (the walks)
 * find and put there.
 */
import type { PhysicalMemory } from "../../memory/index.ts";
import { RIGHT_READ, RIGHT_WRITE, Walker } from "../../pagetable/index.ts";
import type { Half } from "./cd.ts";
import { type ConfigurationCache, Context, NO_SUBSTREAM } from "./config-cache.ts";
import { ContextTable } from "./context-table.ts";
import {
  C_BAD_CD,
  C_BAD_STE,
  C_BAD_SUBSTREAMID,
  CLASS_IN,
  F_ADDR_SIZE,
  F_STREAM_DISABLED,
  F_TRANSLATION,
  type Fault,
  SILENT_ABORT,
} from "./faults.ts";
import { hex64 } from "./fetch.ts";
import { CR0, CR0_SMMUEN, GBPA, GBPA_ABORT, type Registers } from "./registers.ts";
import { STAGE2_TAG, Stage2 } from "./stage2.ts";
import { S1DSS_BYPASS, S1DSS_SUBSTREAM0, type StreamTableEntry } from "./ste.ts";
import { StreamTable } from "./stream-table.ts";
import { offsetIn, POWERS, Tlb } from "./tlb.ts";
import { walkFault } from "./walk-faults.ts";

const SMALLEST_SHIFT = 12;
const SMALLEST_PAGE = 2 ** SMALLEST_SHIFT;

export class Translator {
  /** Stage 1 translations, those under a stage 2 with the final physical address. */
  readonly tlb: Tlb = new Tlb();
  readonly stage2: Stage2;
  /** Results: the physical address, and how many bytes from it on are contiguous in the same way. */
  physical = 0;
  reach = 0;
  /** log2 of the bytes of the leaf. */
  shift = 0;
  /** Set when a translation failed; and the context in which it did, as far as it was known. */
  fault: Fault | undefined = undefined;
  faultContext: Context | undefined = undefined;

  private readonly registers: Registers;
  private readonly cache: ConfigurationCache;
  private readonly streams: StreamTable;
  private readonly contexts: ContextTable;
  private readonly walker: Walker;

  constructor(registers: Registers, memory: PhysicalMemory, cache: ConfigurationCache) {
    this.registers = registers;
    this.cache = cache;
    this.stage2 = new Stage2(memory);
    this.streams = new StreamTable(registers, memory, cache);
    this.contexts = new ContextTable(registers.features, memory, cache, this.stage2);
    this.walker = new Walker(memory);
  }

  /** True: `physical` and `reach` hold the answer. False: `fault` says why not. */
  translate(streamId: number, substreamId: number, high: number, low: number, write: boolean): boolean {
    if ((this.registers.get(CR0) & CR0_SMMUEN) === 0) return this.globalBypass(high, low);
    const context = this.context(streamId, substreamId);
    if (context === undefined) return false;

    const needed = write ? RIGHT_WRITE : RIGHT_READ;
    const canonicalHigh = canonical(context, high);
    if (context.usesStage1Tlb) {
      const slot = this.tlb.find(canonicalHigh, low, context.owner, context.tag);
      if (slot >= 0 && (this.tlb.rights[slot] & needed) === needed)
        return this.take(this.tlb, slot, canonicalHigh, low);
      // What the tables say now decides, and replaces the entry.
      if (slot >= 0) this.tlb.drop(slot);
    } else if (context.usesStage2Tlb) {
      const { tlb } = this.stage2;
      const slot = tlb.find(canonicalHigh, low, context.owner, STAGE2_TAG);
      if (slot >= 0 && (tlb.rights[slot] & needed) === needed) return this.take(tlb, slot, canonicalHigh, low);
    }
    return this.translateIn(context, high, low, canonicalHigh, needed);
  }

  /** The STE of a stream, which may be ILLEGAL; undefined if there is none: `fault` says why. */
  streamTableEntry(streamId: number): StreamTableEntry | undefined {
    const ste = this.streams.find(streamId);
    return "event" in ste ? this.reject(ste) : ste;
  }

  /** What a stream, or one substream of it, translates by; undefined if nothing: `fault` says why. */
  context(streamId: number, substreamId: number): Context | undefined {
    return this.cache.context(streamId, substreamId) ?? this.resolve(streamId, substreamId);
  }

  /**
   * As {@link translate}, but `physical` is the intermediate address that stage 1 gives, and `shift` is of its leaf alone;
   * stage 2 must allow the access too (§13.6.3). Where stage 1 is skipped, that is the input address.
   */
  translateStage1(context: Context, high: number, low: number, needed: number): boolean {
    const { ste, descriptor } = context;
    let output = (high >>> 0) * 2 ** 32 + (low >>> 0);
    let shift = SMALLEST_SHIFT;
    if (descriptor !== undefined) {
      if (!this.walkStage1(context, high, low, canonical(context, high), needed)) return false;
      ({ output, shift } = this.walker);
    } else if (this.isBeyondOutput(high, low)) {
      return this.fail(this.beyondOutput(high, low), context);
    }
    if (!this.stage2.translate(ste, output, needed, CLASS_IN)) return this.fail(this.stage2.fault!, context);
    this.physical = output;
    this.shift = shift;
    this.reach = POWERS[shift] - (output % POWERS[shift]);
    return true;
  }

  private take(tlb: Tlb, slot: number, high: number, low: number): true {
    this.shift = tlb.shift(slot);
    const offset = offsetIn(this.shift, high, low);
    this.physical = tlb.output(slot, offset);
    this.reach = POWERS[this.shift] - offset;
    return true;
  }

  private fail(fault: Fault, context?: Context): false {
    this.fault = fault;
    this.faultContext = context;
    return false;
  }

  /** SMMUEN is 0: GBPA decides, nothing is recorded (§3.11, §6.3.14). */
  private globalBypass(high: number, low: number): boolean {
    if ((this.registers.get(GBPA) & GBPA_ABORT) !== 0) {
      return this.fail({ event: SILENT_ABORT, why: () => "CR0.SMMUEN is 0 and GBPA.ABORT is 1" });
    }
    if (this.isBeyondOutput(high, low)) {
      return this.fail({
        event: SILENT_ABORT,
        why: () => `beyond the ${this.registers.features.outputBits} bits of IDR5.OAS`,
      });
    }
    return this.bypass(high, low);
  }

  private bypass(high: number, low: number): true {
    this.physical = (high >>> 0) * 2 ** 32 + (low >>> 0);
    this.shift = SMALLEST_SHIFT;
    this.reach = SMALLEST_PAGE - (this.physical & (SMALLEST_PAGE - 1));
    return true;
  }

  private isBeyondOutput(high: number, low: number): boolean {
    return (high >>> 0) * 2 ** 32 + (low >>> 0) >= 2 ** this.registers.features.outputBits;
  }

  /** Finds STE and CD of a stream that has no context in the cache; undefined if there is a `fault`. */
  private resolve(streamId: number, substreamId: number): Context | undefined {
    const ste = this.streamTableEntry(streamId);
    if (ste === undefined) return undefined;
    const { illegal } = ste;
    if (illegal !== undefined) return this.reject({ event: C_BAD_STE, why: () => `${ste.label}: ${illegal}` });
    if (ste.abort) return this.reject({ event: SILENT_ABORT, why: () => `${ste.label}: Config (bits 3:1) is abort` });
    const substream = this.substreamOf(ste, substreamId);
    if (typeof substream === "object") return this.reject(substream);
    let descriptor: Context["descriptor"];
    if (substream !== NO_SUBSTREAM) {
      const fetched = this.contexts.fetch(ste, substream);
      if ("event" in fetched) return this.reject(fetched, new Context(streamId, substreamId, ste, undefined));
      descriptor = fetched;
    }
    const context = new Context(streamId, substreamId, ste, descriptor);
    this.cache.keepContext(context);
    return context;
  }

  private reject(fault: Fault, context?: Context): undefined {
    this.fail(fault, context);
  }

  /** Which CD a transaction uses; {@link NO_SUBSTREAM} if stage 1 is bypassed (§3.3.2, §5.2 S1DSS, §7.3.7, §7.3.9). */
  private substreamOf(ste: StreamTableEntry, substreamId: number): number | Fault {
    const bad = (why: () => string): Fault => ({ event: C_BAD_SUBSTREAMID, why });
    if (substreamId === NO_SUBSTREAM) {
      if (!ste.stage1) return NO_SUBSTREAM;
      if (ste.contextBits === 0 || ste.defaultSubstream === S1DSS_SUBSTREAM0) return 0;
      if (ste.defaultSubstream === S1DSS_BYPASS) return NO_SUBSTREAM;
      return {
        event: F_STREAM_DISABLED,
        why: () => `${ste.label}: no SubstreamID, and S1DSS (bits 65:64) is terminate`,
      };
    }
    if (!ste.stage1) return bad(() => `${ste.label}: a SubstreamID, but Config (bits 3:1) has no stage 1`);
    if (ste.contextBits === 0) return bad(() => `${ste.label}: a SubstreamID, but S1CDMax (bits 63:59) is 0`);
    if (substreamId >= 2 ** ste.contextBits) {
      return bad(
        () => `${ste.label}: S1CDMax (bits 63:59) is ${ste.contextBits}, so there are ${2 ** ste.contextBits} CDs`,
      );
    }
    if (substreamId === 0 && ste.defaultSubstream === S1DSS_SUBSTREAM0) {
      return {
        event: F_STREAM_DISABLED,
        why: () => `${ste.label}: S1DSS (bits 65:64) keeps SubstreamID 0 for transactions without one`,
      };
    }
    return substreamId;
  }

  /** Translates without the TLBs' answer, and tells them. */
  private translateIn(context: Context, high: number, low: number, canonicalHigh: number, needed: number): boolean {
    const { ste, descriptor } = context;
    if (descriptor === undefined) {
      if (this.isBeyondOutput(high, low)) return this.fail(this.beyondOutput(high, low), context);
      if (ste.stage2 === undefined) return this.bypass(high, low);
      return this.throughStage2(context, (high >>> 0) * 2 ** 32 + (low >>> 0), needed);
    }
    if (!this.walkStage1(context, high, low, canonicalHigh, needed)) return false;
    const { walker } = this;
    const leafShift = walker.shift;
    let { output, rights } = walker;
    let shift = leafShift;
    const global = !walker.notGlobal;
    if (ste.stage2 !== undefined) {
      const { stage2 } = this;
      if (!stage2.translate(ste, output, needed, CLASS_IN)) return this.fail(stage2.fault!, context);
      output = stage2.physical;
      rights &= stage2.rights;
      if (stage2.shift < shift) shift = stage2.shift;
    }
    this.tlb.insert(canonicalHigh, low, context.owner, context.tag, shift, leafShift, output, rights, global);
    this.physical = output;
    this.shift = shift;
    this.reach = POWERS[shift] - offsetIn(shift, canonicalHigh, low);
    return true;
  }

  /** Walks the stage 1 tables of a context that has a CD. True: the walker has the leaf. */
  private walkStage1(context: Context, high: number, low: number, canonicalHigh: number, needed: number): boolean {
    const { ste } = context;
    const descriptor = context.descriptor!;
    if (descriptor.illegal !== undefined) {
      return this.fail({ event: C_BAD_CD, why: () => `${descriptor.label}: ${descriptor.illegal}` }, context);
    }
    // The sign chooses the half; with TBI it is bit 55 alone (DDI 0487 D8.1.2).
    const upper = canonicalHigh < 0;
    const half = upper ? descriptor.upper : descriptor.lower;
    if (half === undefined) {
      const why = (): string =>
        `${descriptor.label}: EPD${upper ? "1 (bit 30)" : "0 (bit 14)"} disables ${hex64(low, high)}`;
      return this.fail({ event: F_TRANSLATION, why }, context);
    }
    const { walker } = this;
    if (walker.walk(half.stage, inputOf(half, canonicalHigh, low), needed, this.stage2.under(ste))) return true;
    if (walker.fault === "table") return this.fail(this.stage2.fault!, context);
    return this.fail(
      walkFault(walker, half.stage, () => hex64(low, high), needed),
      context,
    );
  }

  private throughStage2(context: Context, ipa: number, needed: number): boolean {
    const { stage2 } = this;
    if (!stage2.translate(context.ste, ipa, needed, CLASS_IN)) return this.fail(stage2.fault!, context);
    this.physical = stage2.physical;
    this.shift = stage2.shift;
    this.reach = POWERS[stage2.shift] - (this.physical % POWERS[stage2.shift]);
    return true;
  }

  /** Stage 1 is bypassed: its output is the input, which must fit the address size (§3.4.1). */
  private beyondOutput(high: number, low: number): Fault {
    const { outputBits } = this.registers.features;
    return {
      event: F_ADDR_SIZE,
      why: () => `stage 1 is bypassed, and ${hex64(low, high)} is beyond the ${outputBits} bits of IDR5.OAS`,
    };
  }
}

/** The upper word with its top byte filled up where the context ignores it, as a signed word. */
function canonical({ topByteIgnored }: Context, high: number): number {
  return topByteIgnored === 0 ? high | 0 : withoutTopByte(topByteIgnored, high);
}

/** Bit 55 in place of the top byte, if its half ignores it; `high` as a signed word. */
function withoutTopByte(topByteIgnored: number, high: number): number {
  const half = (high >>> 23) & 1;
  return ((topByteIgnored >>> half) & 1) === 1 ? (high << 8) >> 8 : high | 0;
}

/** The address within its half, as the walker wants it; beyond every input size if it is in the gap between them. */
function inputOf(half: Half, canonicalHigh: number, low: number): number {
  if (canonicalHigh >= 0) return canonicalHigh * 2 ** 32 + (low >>> 0);
  // The upper half ends at 2^64: what is within it is at most 2^inputBits below that.
  const fromEnd = canonicalHigh * 2 ** 32 + (low >>> 0);
  const { inputEnd } = half.stage.format;
  return fromEnd >= -inputEnd ? fromEnd + inputEnd : inputEnd;
}
