// Runs in a browser.
/** From a StreamID to its STE: linear and two-level stream tables (IHI 0070 §3.3.1, §5.1, §6.3.23 to 6.3.25). */
import type { PhysicalMemory } from "../../memory/index.ts";
import type { ConfigurationCache, StreamTableLevel1 } from "./config-cache.ts";
import { C_BAD_STREAMID, F_STE_FETCH, type Fault } from "./faults.ts";
import { addressField, fetchWords, hex } from "./fetch.ts";
import { CR2, CR2_E2H, type Registers, STRTAB_BASE, STRTAB_BASE_CFG } from "./registers.ts";
import { STE_WORDS, StreamTableEntry } from "./ste.ts";

const STE_BYTES = STE_WORDS * 4;
const LEVEL1_BYTES = 8;

/** STRTAB_BASE_CFG: SPLIT; reserved values count as 6. */
function splitOf(configuration: number): number {
  const split = (configuration >>> 6) & 0x1f;
  return split === 8 || split === 10 ? split : 6;
}

function alignDown(address: number, size: number): number {
  return address - (address % size);
}

export class StreamTable {
  private readonly registers: Registers;
  private readonly memory: PhysicalMemory;
  private readonly cache: ConfigurationCache;
  private readonly words = new Uint32Array(STE_WORDS);

  constructor(registers: Registers, memory: PhysicalMemory, cache: ConfigurationCache) {
    this.registers = registers;
    this.memory = memory;
    this.cache = cache;
  }

  /** The STE of a stream, from the cache or from memory, or why there is none. It may be ILLEGAL. */
  find(streamId: number): StreamTableEntry | Fault {
    const cached = this.cache.stream(streamId);
    if (cached !== undefined) return cached;
    const address = this.locate(streamId);
    if (typeof address !== "number") return address;
    if (!fetchWords(this.memory, address, this.words, STE_WORDS)) return abortedFetch(address, "the STE");
    const el2Host = (this.registers.get(CR2) & CR2_E2H) !== 0;
    const ste = new StreamTableEntry(streamId, address, this.words, this.registers.features, el2Host);
    this.cache.keepStream(ste);
    return ste;
  }

  private locate(streamId: number): number | Fault {
    const { registers } = this;
    const configuration = registers.get(STRTAB_BASE_CFG);
    const base = addressField(registers.get(STRTAB_BASE), registers.get(STRTAB_BASE + 4), 6);
    const log2Size = Math.min(configuration & 0x3f, registers.features.streamIdBits);
    if (streamId >= 2 ** log2Size) {
      return badStream(() => `the stream table has ${2 ** log2Size} entries (STRTAB_BASE_CFG.LOG2SIZE ${log2Size})`);
    }
    const twoLevel = registers.features.twoLevelStreamTable && ((configuration >>> 16) & 3) === 1;
    if (!twoLevel) return alignDown(base, 2 ** log2Size * STE_BYTES) + streamId * STE_BYTES;

    const split = splitOf(configuration);
    const index = Math.floor(streamId / 2 ** split);
    const tableSize = Math.max(2 ** Math.max(log2Size - split, 0) * LEVEL1_BYTES, 64);
    const level1Address = alignDown(base, tableSize) + index * LEVEL1_BYTES;
    const level1 = this.cache.streamTableLevel1(index) ?? this.fetchLevel1(level1Address, index, split);
    if ("event" in level1) return level1;
    const offset = streamId % 2 ** split;
    if (offset >= level1.count) {
      const { count } = level1;
      return badStream(
        () => `level 1 descriptor at ${hex(level1Address)}: its Span gives ${count} STEs, wanted is ${offset}`,
      );
    }
    return level1.pointer + offset * STE_BYTES;
  }

  /** §5.1: Span 0 means no second level; Span n has 2^(n-1) STEs; more than SPLIT + 1 is reserved and counts as 0. */
  private fetchLevel1(address: number, index: number, split: number): StreamTableLevel1 | Fault {
    if (!fetchWords(this.memory, address, this.words, 2)) return abortedFetch(address, "the level 1 descriptor");
    const [low, high] = this.words;
    const span = low & 0x1f;
    const count = span === 0 || span > split + 1 ? 0 : 2 ** (span - 1);
    const pointer = alignDown(addressField(low, high, 6), Math.max(count, 1) * STE_BYTES);
    const level1 = { pointer, count };
    this.cache.keepStreamTableLevel1(index, level1);
    return level1;
  }
}

function badStream(why: () => string): Fault {
  return { event: C_BAD_STREAMID, why };
}

function abortedFetch(address: number, what: string): Fault {
  return {
    event: F_STE_FETCH,
    fetchAddress: address,
    why: () => `nothing answers at ${hex(address)}, where ${what} should be`,
  };
}
