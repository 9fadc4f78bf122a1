// Runs in a browser.
import type { RegisterBlock } from "../../memory/index.ts";
import { ENXIO, refuse } from "../../runtime/index.ts";
import { AIDR, IDR0, IDR1, IDR2, IDR3, IDR4, IDR5, IIDR } from "./registers.ts";

/** What the ID registers say that the driver uses (reference 6.1, and "Probe" of 6.7). */
export interface Features {
  readonly stage1: boolean;
  readonly stage2: boolean;
  /** Stage 2 under stage 1. */
  readonly nesting: boolean;
  /** The SMMU's own accesses are coherent with the CPU's caches. */
  readonly coherent: boolean;
  /** Has an EL2 interface, whose TLB entries must be invalidated at reset. */
  readonly hypervisor: boolean;
  readonly ats: boolean;
  readonly pri: boolean;
  readonly asidBits: 8 | 16;
  readonly vmidBits: 8 | 16;
  /** Faulting transactions of a device may be stalled, or always are. */
  readonly stalls: "possible" | "never" | "forced";
  readonly twoLevelStreamTable: boolean;
  readonly twoLevelContextTable: boolean;
  readonly streamIdBits: number;
  readonly substreamIdBits: number;
  readonly commandQueueLog2: number;
  readonly eventQueueLog2: number;
  readonly priQueueLog2: number;
  /** The STE may override shareability and memory type of incoming traffic. */
  readonly attributesOverride: boolean;
  /** Stage 2 may force write-back memory types. */
  readonly forcedWriteBack: boolean;
  readonly rangeInvalidation: boolean;
  /** TLB maintenance that CPUs broadcast reaches the SMMU. */
  readonly broadcastTlb: boolean;
  /** Hardware sets access flags and dirty states. */
  readonly dirtyState: boolean;
  /** Width of physical addresses. */
  readonly outputBits: number;
  /** 52-bit input addresses. */
  readonly largeInput: boolean;
  /** Translation granules in bytes, ascending. */
  readonly granules: readonly number[];
  /** As GET_HW_INFO hands them on. */
  readonly raw: { readonly idr: readonly number[]; readonly iidr: number; readonly aidr: number };
}

const outputWidths: readonly number[] = [32, 36, 40, 42, 44, 48, 52];

/** Reads the ID registers. Refusal ENXIO if the driver cannot work with this SMMU. */
export function readFeatures(registers: RegisterBlock, name: string): Features {
  const idr = [IDR0, IDR1, IDR2, IDR3, IDR4, IDR5].map((offset) => registers.read32(offset));
  const field = (register: number, low: number, width: number): number =>
    Math.floor(idr[register] / 2 ** low) % 2 ** width;
  const flag = (register: number, bit: number): boolean => field(register, bit, 1) === 1;
  const need = (met: boolean, what: string): void => {
    if (!met) refuse(ENXIO, () => `${name}: ${what}`);
  };

  need(flag(0, 0) || flag(0, 1), "IDR0 has neither S1P nor S2P: it translates nothing");
  need(field(0, 2, 2) >= 2, "IDR0.TTF: no AArch64 translation tables");
  need(field(0, 21, 2) !== 3, "IDR0.TTENDIAN: no little-endian tables");
  need(!flag(1, 30) && !flag(1, 29), "IDR1: tables or queues are preset");
  need(field(1, 21, 5) > 6, `IDR1.CMDQS: a command queue of ${2 ** field(1, 21, 5)} entries is too short`);
  const granules = [4096, 16384, 65536].filter((_, index) => flag(5, 4 + index));
  need(granules.length > 0, "IDR5: no translation granule");

  return {
    stage1: flag(0, 1),
    stage2: flag(0, 0),
    nesting: flag(0, 0) && flag(0, 1),
    coherent: flag(0, 4),
    hypervisor: flag(0, 9),
    ats: flag(0, 10),
    pri: flag(0, 16),
    asidBits: flag(0, 12) ? 16 : 8,
    vmidBits: flag(0, 18) ? 16 : 8,
    stalls: (["possible", "never", "forced"] as const)[field(0, 24, 2)] ?? "never",
    twoLevelStreamTable: field(0, 27, 2) === 1,
    twoLevelContextTable: flag(0, 19),
    streamIdBits: field(1, 0, 6),
    substreamIdBits: field(1, 6, 5),
    commandQueueLog2: field(1, 21, 5),
    eventQueueLog2: field(1, 16, 5),
    priQueueLog2: field(1, 11, 5),
    attributesOverride: flag(1, 27),
    forcedWriteBack: flag(3, 8),
    rangeInvalidation: flag(3, 10),
    broadcastTlb: flag(0, 5),
    dirtyState: field(0, 6, 2) >= 2,
    outputBits: outputWidths[field(5, 0, 3)] ?? 48,
    largeInput: field(5, 10, 2) === 1,
    granules,
    raw: { idr, iidr: registers.read32(IIDR), aidr: registers.read32(AIDR) },
  };
}
