/** A device of one's own: it adds up the bytes of a buffer in memory and interrupts when it is done. */
import { msi, PciDevice } from "../src/pci/index.ts";
import type { System, Task } from "../src/runtime/index.ts";

/** Registers of BAR 0, each 8 bytes wide: where the buffer is, its length (16 bits), go (1 while busy), the sum. */
export const ADDRESS = 0x00;
export const LENGTH = 0x08;
export const GO = 0x10;
export const SUM = 0x18;
const ERROR = 0xffffffffffffffffn;

export class ChecksumDevice extends PciDevice {
  private readonly registers = new BigUint64Array(4);
  private resets = 0;

  constructor(system: System) {
    super(system, {
      vendor: 0x1234,
      device: 0xc5c5,
      classCode: 0x120000,
      interruptPin: 1,
      capabilities: [msi()],
      bars: [
        {
          index: 0,
          size: 4096,
          read: (offset) => this.registers[offset / 8] ?? 0n,
          write: (offset, _size, value) => this.writeRegister(offset, value),
        },
      ],
    });
  }

  protected override reset(): void {
    this.registers.fill(0n);
    this.resets++;
  }

  private writeRegister(offset: number, value: bigint): void {
    this.clearInterrupt();
    if (this.registers[GO / 8] === 1n || offset > GO) return;
    this.registers[offset / 8] = value;
    if (offset === GO) this.system.tasks.spawn(`checksum of ${this.name}`, this.addUp(this.resets));
  }

  private *addUp(resets: number): Task<void> {
    const bytes = new Uint8Array(Number(this.registers[LENGTH / 8] % 65536n));
    const done = yield* this.dma.read(this.registers[ADDRESS / 8], bytes);
    if (resets !== this.resets) return;
    this.registers[SUM / 8] = done ? BigInt(bytes.reduce((sum, byte) => sum + byte, 0)) : ERROR;
    this.registers[GO / 8] = 0n;
    this.interrupt();
  }
}
