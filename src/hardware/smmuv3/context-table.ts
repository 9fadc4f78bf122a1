// Runs in a browser.
/** From a SubstreamID to its CD: one CD, linear and two-level CD tables, all possibly behind stage 2 (§3.3.2, §5.3). */
import type { PhysicalMemory } from "../../memory/index.ts";
import { RIGHT_READ } from "../../pagetable/index.ts";
import { CD_WORDS, ContextDescriptor } from "./cd.ts";
import type { ConfigurationCache } from "./config-cache.ts";
import { C_BAD_SUBSTREAMID, CLASS_CD, F_CD_FETCH, type Fault } from "./faults.ts";
import type { Features } from "./features.ts";
import { addressField, fetchWords, hex } from "./fetch.ts";
import type { Stage2 } from "./stage2.ts";
import { CD_TABLE_4K, CD_TABLE_LINEAR, type StreamTableEntry } from "./ste.ts";

const CD_BYTES = CD_WORDS * 4;
const LEVEL1_BYTES = 8;

export class ContextTable {
  private readonly features: Features;
  private readonly memory: PhysicalMemory;
  private readonly cache: ConfigurationCache;
  private readonly stage2: Stage2;
  private readonly words = new Uint32Array(CD_WORDS);

  constructor(features: Features, memory: PhysicalMemory, cache: ConfigurationCache, stage2: Stage2) {
    this.features = features;
    this.memory = memory;
    this.cache = cache;
    this.stage2 = stage2;
  }

  /** Fetches the CD of a substream (below 2^S1CDMax), or says why there is none. It may be ILLEGAL. */
  fetch(ste: StreamTableEntry, substream: number): ContextDescriptor | Fault {
    const address = this.locate(ste, substream);
    if (typeof address !== "number") return address;
    const fault = this.read(ste, address, CD_WORDS, "CD");
    return fault ?? new ContextDescriptor(address, this.words, ste, this.features);
  }

  private locate(ste: StreamTableEntry, substream: number): number | Fault {
    if (ste.contextBits === 0 || ste.contextFormat === CD_TABLE_LINEAR) {
      return ste.contextPointer + substream * CD_BYTES;
    }
    const split = ste.contextFormat === CD_TABLE_4K ? 6 : 10;
    const index = Math.floor(substream / 2 ** split);
    const pointer = this.cache.contextTableLevel1(ste.streamId, index) ?? this.fetchLevel1(ste, index);
    if (typeof pointer !== "number") return pointer;
    return pointer + (substream % 2 ** split) * CD_BYTES;
  }

  private fetchLevel1(ste: StreamTableEntry, index: number): number | Fault {
    const address = ste.contextPointer + index * LEVEL1_BYTES;
    const fault = this.read(ste, address, 2, "level 1 CD descriptor");
    if (fault !== undefined) return fault;
    const [low, high] = this.words;
    if ((low & 1) === 0) {
      return {
        event: C_BAD_SUBSTREAMID,
        why: () => `level 1 CD descriptor at ${hex(address)}: V (bit 0) is 0`,
      };
    }
    const pointer = addressField(low, high, 12);
    // Under stage 2 it is an intermediate address, and stage 2 says what is wrong with it (§3.4.3).
    const { outputBits } = this.features;
    if (ste.stage2 === undefined && pointer >= 2 ** outputBits) {
      return {
        event: C_BAD_SUBSTREAMID,
        why: () => `level 1 CD descriptor at ${hex(address)}: L2Ptr is beyond the ${outputBits} bits of IDR5.OAS`,
      };
    }
    this.cache.keepContextTableLevel1(ste.streamId, index, pointer);
    return pointer;
  }

  /** Reads words at an address of the STE's own space: physical, or intermediate under stage 2 (CLASS CD). */
  private read(ste: StreamTableEntry, address: number, count: number, what: string): Fault | undefined {
    let physical = address;
    if (ste.stage2 !== undefined) {
      if (!this.stage2.translate(ste, address, RIGHT_READ, CLASS_CD)) return this.stage2.fault!;
      physical = this.stage2.physical;
    }
    if (fetchWords(this.memory, physical, this.words, count)) return undefined;
    return {
      event: F_CD_FETCH,
      fetchAddress: physical,
      why: () => `nothing answers at ${hex(physical)}, where the ${what} should be`,
    };
  }
}
