// Runs in a browser.
/** An SMMU that acknowledges and consumes but never translates, for tests of the driver alone. */
import type { PhysicalMemory, RegisterBlock } from "../../memory/index.ts";
import { SYNC } from "./commands.ts";
import {
  CMDQ_BASE,
  CMDQ_CONS,
  CMDQ_PROD,
  CR0,
  CR0ACK,
  GBPA,
  GERROR,
  GERRORN,
  IDR0,
  IDR1,
  IDR3,
  IDR5,
  IRQ_CTRL,
  IRQ_CTRLACK,
} from "./registers.ts";

/** Two stages, two-level stream table, 16-bit tags and stream ids, 44-bit addresses, 4K pages. */
export const fakeIdentification: Readonly<Record<number, number>> = {
  [IDR0]: 0x3 | (2 << 2) | (1 << 4) | (1 << 12) | (1 << 18) | (1 << 24) | (1 << 27),
  [IDR1]: 16 | (7 << 16) | (8 << 21),
  [IDR5]: 4 | (1 << 4),
  [IDR3]: 0,
};

export class FakeSmmu implements RegisterBlock {
  /** 32-bit registers by offset. */
  readonly registers: Map<number, number>;
  /** Every write of a register. */
  readonly writes: { readonly offset: number; readonly value: number }[] = [];
  /** Every command, in the order consumed. */
  readonly commands: number[][] = [];
  /** Whether the SMMU stops at a command as illegal. */
  isIllegal: (command: readonly number[]) => boolean = () => false;
  onError: (() => void) | undefined;
  private readonly memory: PhysicalMemory;

  constructor(memory: PhysicalMemory, identification: Readonly<Record<number, number>> = {}) {
    this.memory = memory;
    const all = { ...fakeIdentification, ...identification };
    this.registers = new Map(Object.entries(all).map(([offset, value]) => [Number(offset), value >>> 0]));
  }

  read32(offset: number): number {
    return this.registers.get(offset) ?? 0;
  }

  write32(offset: number, value: number): void {
    this.writes.push({ offset, value });
    this.registers.set(offset, value >>> 0);
    if (offset === CR0) this.registers.set(CR0ACK, value);
    if (offset === IRQ_CTRL) this.registers.set(IRQ_CTRLACK, value);
    if (offset === GBPA) this.registers.set(GBPA, value % 2 ** 31);
    if (offset === CMDQ_PROD || offset === GERRORN) this.consume();
  }

  read64(offset: number): bigint {
    return BigInt(this.read32(offset + 4)) * 2n ** 32n + BigInt(this.read32(offset));
  }

  write64(offset: number, low: number, high: number): void {
    this.writes.push({ offset, value: low });
    this.registers.set(offset, low >>> 0);
    this.registers.set(offset + 4, high >>> 0);
  }

  private consume(): void {
    if (this.read32(GERROR) !== this.read32(GERRORN)) return;
    const base = this.read32(CMDQ_BASE);
    const entries = 2 ** (base % 32);
    const ring = Math.floor(base / 32) * 32 + (this.read32(CMDQ_BASE + 4) % 2 ** 20) * 2 ** 32;
    for (let cons = this.read32(CMDQ_CONS) % 2 ** 24; cons !== this.read32(CMDQ_PROD); ) {
      const at = ring + (cons % entries) * 16;
      const command = [0, 4, 8, 12].map((offset) => this.memory.readWord(at + offset));
      if ((command[0] & 0xff) !== SYNC && this.isIllegal(command)) {
        this.registers.set(CMDQ_CONS, cons + 2 ** 24);
        this.registers.set(GERROR, this.read32(GERROR) ^ 1);
        this.onError?.();
        return;
      }
      this.commands.push(command);
      cons = (cons + 1) % (2 * entries);
      this.registers.set(CMDQ_CONS, cons);
    }
  }
}
