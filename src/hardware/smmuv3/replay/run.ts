// Runs in a browser.
/** Runs a recorded case on a fresh model, and tells what it did in the terms of the recording. */
import { PhysicalMemory } from "../../../memory/index.ts";
import { System } from "../../../runtime/index.ts";
import { SmmuV3 } from "../index.ts";
import {
  CMDQ_BASE,
  CMDQ_CONS,
  CMDQ_PROD,
  CR0ACK,
  EVENTQ_BASE,
  EVENTQ_CONS,
  EVENTQ_PROD,
  GERROR,
  GERRORN,
  PAGE1,
} from "../registers.ts";
import type { Dma, END_REGISTERS, Header, Operation, Phase } from "./case.ts";

/** Bytes let through to a physical address. */
export interface Piece {
  readonly physical: number;
  readonly length: number;
}

/** What became of one DMA. */
export interface DmaOutcome {
  readonly ok: boolean;
  readonly pieces: readonly Piece[];
  /** What was read, or written, in hex. */
  readonly data: string;
  readonly events: readonly (readonly bigint[])[];
  /** The model's own words for each fault. */
  readonly explanations: readonly string[];
}

export interface PhaseOutcome {
  readonly dma: readonly DmaOutcome[];
  readonly registers: Readonly<Record<(typeof END_REGISTERS)[number], number>>;
}

const POINTER = 0x7fffffff;

/** Runs the phases of a case, without a reset between them. */
export function runPhases(header: Header, phases: readonly Phase[]): PhaseOutcome[] {
  const run = new RecordingRun(header);
  return phases.map((phase) => {
    for (const [address, bytes] of phase.mem) run.memory.write(Number(address), fromHex(bytes));
    for (const operation of phase.setup) run.operate(operation);
    const dma = phase.dma.map((access) => run.access(access));
    return { dma, registers: run.registers() };
  });
}

/** A model with memory, on which a recording is run. */
export class RecordingRun {
  readonly memory: PhysicalMemory;
  private readonly system = new System();
  private readonly smmu: SmmuV3;
  private commandBase = 0;
  private commandLog2 = 0;
  private producer = 0;
  private pieces: Piece[] = [];
  private explanations: string[] = [];

  /** `memory` from an earlier run, to go on with its content. */
  constructor({ regs, ram }: Header, memory?: PhysicalMemory) {
    const ranges = ram.map(([base, size]) => ({ base: Number(base), size: Number(size) }));
    this.memory = memory ?? new PhysicalMemory(this.system, { ram: ranges });
    this.smmu = new SmmuV3(this.system, this.memory, {
      idr0: Number(regs.IDR0),
      idr1: Number(regs.IDR1),
      idr2: Number(regs.IDR2),
      idr3: Number(regs.IDR3),
      idr4: Number(regs.IDR4),
      idr5: Number(regs.IDR5),
      iidr: Number(regs.IIDR),
      aidr: Number(regs.AIDR),
      gbpa: Number(regs.GBPA),
    });
    this.smmu.onFault = (fault) => this.explanations.push(fault.text());
    this.system.events.listen((event) => {
      if (event.kind !== "smmuv3.access.transfer") return;
      this.pieces.push({ physical: event.physical as number, length: event.length as number });
    });
  }

  operate(operation: Operation): void {
    if (operation[0] === "w") {
      this.writeRegister(Number(operation[1]), operation[2], BigInt(operation[3]));
    } else if (operation[0] === "c") {
      const index = this.producer % 2 ** this.commandLog2;
      const words = new BigUint64Array([BigInt(operation[1]), BigInt(operation[2])]);
      this.memory.write(this.commandBase + 16 * index, new Uint8Array(words.buffer));
      this.producer = (this.producer + 1) % 2 ** (this.commandLog2 + 1);
    } else {
      this.smmu.write32(CMDQ_PROD, this.producer);
    }
  }

  access(dma: Dma): DmaOutcome {
    this.pieces = [];
    this.explanations = [];
    const before = this.smmu.read32(PAGE1 + EVENTQ_PROD) & POINTER;
    const bytes = dma.write ? fromHex(dma.data!) : new Uint8Array(dma.len);
    const pasid = dma.ssid ?? undefined;
    const ok = this.system.run("dma", this.smmu.access(dma.sid, pasid, BigInt(dma.iova), bytes, dma.write));
    const after = this.smmu.read32(PAGE1 + EVENTQ_PROD) & POINTER;
    return {
      ok,
      pieces: this.pieces,
      data: toHex(bytes),
      events: this.eventsBetween(before, after),
      explanations: this.explanations,
    };
  }

  readRegister(offset: number, size: 4 | 8): bigint {
    return size === 8 ? this.smmu.read64(offset) : BigInt(this.smmu.read32(offset));
  }

  registers(): PhaseOutcome["registers"] {
    const { smmu } = this;
    return {
      GERROR: smmu.read32(GERROR),
      GERRORN: smmu.read32(GERRORN),
      CR0ACK: smmu.read32(CR0ACK),
      CMDQ_PROD: smmu.read32(CMDQ_PROD),
      CMDQ_CONS: smmu.read32(CMDQ_CONS),
      EVENTQ_PROD: smmu.read32(PAGE1 + EVENTQ_PROD),
      EVENTQ_CONS: smmu.read32(PAGE1 + EVENTQ_CONS),
    };
  }

  private writeRegister(offset: number, size: 4 | 8, value: bigint): void {
    const low = Number(value % 0x1_0000_0000n);
    const high = Number(value / 0x1_0000_0000n);
    if (offset === CMDQ_BASE) {
      this.commandLog2 = Math.min(low % 32, 19);
      this.commandBase = (high % 2 ** 20) * 2 ** 32 + low - (low % 32);
    } else if (offset === CMDQ_PROD) {
      this.producer = low;
    }
    if (size === 8) this.smmu.write64(offset, low, high);
    else this.smmu.write32(offset, low);
  }

  private eventsBetween(from: number, to: number): bigint[][] {
    const register = this.smmu.read64(EVENTQ_BASE);
    const log2 = Math.min(Number(register % 32n), 19);
    const base = Number(register % 2n ** 52n) - Number(register % 32n);
    const events: bigint[][] = [];
    for (let pointer = from; pointer !== to; pointer = (pointer + 1) % 2 ** (log2 + 1)) {
      const bytes = new Uint8Array(32);
      this.memory.read(base + 32 * (pointer % 2 ** log2), bytes);
      events.push([...new BigUint64Array(bytes.buffer)]);
    }
    return events;
  }
}

export function fromHex(text: string): Uint8Array {
  return Uint8Array.from({ length: text.length / 2 }, (_, i) => Number.parseInt(text.slice(2 * i, 2 * i + 2), 16));
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
