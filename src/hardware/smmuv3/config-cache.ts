// Runs in a browser.
/**
 * What the SMMU remembers of its configuration (IHI 0070 §3.21.3, §16.2): STEs by StreamID, contexts by StreamID and
 * SubstreamID, and the first-level descriptors that led to them. Everything stays until an invalidation names it, or
 * another entry needs its place; a change in memory alone is not seen. Invalid structures are kept like valid ones, so
 * a driver that forgets the invalidation after making one valid is found out. Fetches that were aborted are not kept.
 */
import { type ContextDescriptor, hasAsid, hasVmid } from "./cd.ts";
import type { StreamTableEntry } from "./ste.ts";
import { contextTag } from "./tlb.ts";

/** The SubstreamID of a transaction without one. */
export const NO_SUBSTREAM = -1;

/** A stream, or one substream of it, ready to translate. */
export class Context {
  readonly streamId: number;
  /** Or {@link NO_SUBSTREAM}. */
  readonly substreamId: number;
  readonly ste: StreamTableEntry;
  /** Undefined where stage 1 is bypassed. */
  readonly descriptor: ContextDescriptor | undefined;
  /** ASID and VMID of the translations, and their tag, as the TLB wants them. */
  readonly owner: number;
  readonly tag: number;
  /** Stage 1 is on, and its CD is good: the stage 1 TLB may answer. */
  readonly usesStage1Tlb: boolean;
  /** Stage 2 is all there is: its TLB may answer. */
  readonly usesStage2Tlb: boolean;
  /** TBI: bit 0 lower half, bit 1 upper half. */
  readonly topByteIgnored: number;

  constructor(streamId: number, substreamId: number, ste: StreamTableEntry, descriptor: ContextDescriptor | undefined) {
    this.streamId = streamId;
    this.substreamId = substreamId;
    this.ste = ste;
    this.descriptor = descriptor;
    const asid = descriptor !== undefined && hasAsid(ste.regime) ? descriptor.asid : 0;
    this.owner = asid | (hasVmid(ste.regime) ? ste.vmid << 16 : 0);
    this.tag = contextTag(ste.regime, ste.stage2 !== undefined, descriptor?.privateAsid);
    this.usesStage1Tlb = descriptor !== undefined && descriptor.illegal === undefined;
    this.usesStage2Tlb = descriptor === undefined && ste.stage2 !== undefined;
    this.topByteIgnored = descriptor?.topByteIgnored ?? 0;
  }
}

/** A first-level descriptor of the stream table: where its second level is, and how many STEs it has (0: none). */
export interface StreamTableLevel1 {
  readonly pointer: number;
  readonly count: number;
}

const PLACES = 1024;
/** First-level descriptors kept at most; then all are forgotten. */
const MOST_LEVEL1 = 4096;

function contextPlace(streamId: number, substreamId: number): number {
  return (streamId ^ Math.imul(substreamId + 1, 0x9e3779b1)) & (PLACES - 1);
}

/** `value` of `map[key]`, with a bound on the size. */
function keep<T>(map: Map<number, T>, key: number, value: T): T {
  if (map.size >= MOST_LEVEL1) map.clear();
  map.set(key, value);
  return value;
}

const SUBSTREAMS = 2 ** 20;

export class ConfigurationCache {
  private readonly streams = new Array<StreamTableEntry | undefined>(PLACES).fill(undefined);
  private readonly contexts = new Array<Context | undefined>(PLACES).fill(undefined);
  private readonly streamLevel1 = new Map<number, StreamTableLevel1>();
  /** Second-level addresses of CD tables, by StreamID and first-level index. */
  private readonly contextLevel1 = new Map<number, number>();

  stream(streamId: number): StreamTableEntry | undefined {
    const ste = this.streams[streamId & (PLACES - 1)];
    return ste !== undefined && ste.streamId === streamId ? ste : undefined;
  }

  keepStream(ste: StreamTableEntry): void {
    this.streams[ste.streamId & (PLACES - 1)] = ste;
  }

  context(streamId: number, substreamId: number): Context | undefined {
    const context = this.contexts[contextPlace(streamId, substreamId)];
    return context !== undefined && context.streamId === streamId && context.substreamId === substreamId
      ? context
      : undefined;
  }

  keepContext(context: Context): void {
    this.contexts[contextPlace(context.streamId, context.substreamId)] = context;
  }

  streamTableLevel1(index: number): StreamTableLevel1 | undefined {
    return this.streamLevel1.get(index);
  }

  keepStreamTableLevel1(index: number, level1: StreamTableLevel1): void {
    keep(this.streamLevel1, index, level1);
  }

  contextTableLevel1(streamId: number, index: number): number | undefined {
    return this.contextLevel1.get(streamId * SUBSTREAMS + index);
  }

  keepContextTableLevel1(streamId: number, index: number, pointer: number): void {
    keep(this.contextLevel1, streamId * SUBSTREAMS + index, pointer);
  }

  /** CMD_CFGI_ALL (§4.3.3). */
  clear(): void {
    this.streams.fill(undefined);
    this.contexts.fill(undefined);
    this.streamLevel1.clear();
    this.contextLevel1.clear();
  }

  /** CMD_CFGI_STE and CMD_CFGI_STE_RANGE (§4.3.1, §4.3.2): the STEs and what was fetched through them. */
  invalidateStreams(first: number, last: number, leafOnly: boolean): void {
    const within = (streamId: number): boolean => streamId >= first && streamId <= last;
    if (first === last) {
      if (this.stream(first) !== undefined) this.streams[first & (PLACES - 1)] = undefined;
    } else {
      this.forget(this.streams, (ste) => within(ste.streamId));
    }
    this.forgetContexts(within);
    // Which STEs a first-level descriptor leads to depends on SPLIT; forgetting all of them is allowed.
    if (!leafOnly) this.streamLevel1.clear();
  }

  /** CMD_CFGI_CD (§4.3.4). SubstreamID 0 is also the context of transactions without one (S1DSS). */
  invalidateContext(streamId: number, substreamId: number, leafOnly: boolean): void {
    const forget = (substream: number): void => {
      if (this.context(streamId, substream) !== undefined) {
        this.contexts[contextPlace(streamId, substream)] = undefined;
      }
    };
    forget(substreamId);
    if (substreamId === 0) forget(NO_SUBSTREAM);
    if (!leafOnly) this.forgetContextLevel1((id) => id === streamId);
  }

  /** CMD_CFGI_CD_ALL (§4.3.5). */
  invalidateContexts(streamId: number): void {
    this.forgetContexts((id) => id === streamId);
  }

  private forgetContexts(within: (streamId: number) => boolean): void {
    this.forget(this.contexts, (context) => within(context.streamId));
    this.forgetContextLevel1(within);
  }

  private forgetContextLevel1(within: (streamId: number) => boolean): void {
    for (const key of this.contextLevel1.keys()) {
      if (within(Math.floor(key / SUBSTREAMS))) this.contextLevel1.delete(key);
    }
  }

  private forget<T>(places: (T | undefined)[], matches: (entry: T) => boolean): void {
    for (let i = 0; i < PLACES; i++) {
      const entry = places[i];
      if (entry !== undefined && matches(entry)) places[i] = undefined;
    }
  }
}
