// Runs in a browser.
/**
 * The educational device of QEMU's docs/specs/edu: a register to invert a number, one to compute a factorial, an
 * interrupt that software raises itself, and a DMA engine with a buffer of 4096 bytes.
 *
 * Factorial and DMA are tasks of their own: they go on after the write that started them, and can be overtaken. A DMA
 * that the bus refuses leaves the buffer as it was; the transfer still ends, and interrupts if it was asked to, since
 * the specification has no way to tell.
 */
import { type Capability, msi, PciDevice, type PciIdentity } from "../../pci/index.ts";
import type { System, Task } from "../../runtime/index.ts";

const IDENTIFICATION = 0x00;
const LIVENESS = 0x04;
const FACTORIAL = 0x08;
const STATUS = 0x20;
const INTERRUPT_STATUS = 0x24;
const INTERRUPT_RAISE = 0x60;
const INTERRUPT_ACKNOWLEDGE = 0x64;
const DMA_SOURCE = 0x80;
const DMA_DESTINATION = 0x88;
const DMA_COUNT = 0x90;
const DMA_COMMAND = 0x98;

const STATUS_COMPUTING = 0x01;
const STATUS_INTERRUPT = 0x80;
const FACTORIAL_DONE = 0x001;
const DMA_DONE = 0x100;
const DMA_START = 0x1n;
const DMA_TO_MEMORY = 0x2n;
const DMA_INTERRUPT = 0x4n;

/** Registers below it take 4 bytes only; those from it on, 4 or 8. */
const FIRST_WIDE_REGISTER = 0x80;
const BUFFER = 0x40000n;
const BUFFER_SIZE = 4096;

interface EduOptions extends Pick<PciIdentity, "virtual" | "virtualFunctions"> {
  readonly dmaMask?: bigint;
  readonly capabilities?: readonly Capability[];
}

export class EduDevice extends PciDevice {
  private readonly dmaMask: bigint;
  private readonly buffer = new Uint8Array(BUFFER_SIZE);
  private liveness = 0;
  private factorial = 0;
  private status = 0;
  private interruptStatus = 0;
  private source = 0n;
  private destination = 0n;
  private count = 0n;
  private command = 0n;
  /** Counts resets, so that what was started before one has no effect after it. */
  private era = 0;

  /**
   * `dmaMask`: the address bits that its DMA engine drives; 28 of them by default, as the specification says.
   * `capabilities`: more of them, behind MSI. `virtual`, `virtualFunctions`: as of any function, see PciIdentity.
   */
  constructor(system: System, options: EduOptions = {}) {
    super(system, {
      vendor: 0x1234,
      device: 0x11e8,
      subsystemVendor: 0x1af4,
      subsystem: 0x1100,
      revision: 0x10,
      classCode: 0x00ff00,
      interruptPin: 1,
      capabilities: [msi(), ...(options.capabilities ?? [])],
      scratchGaps: true,
      ...(options.virtual ? { virtual: true } : {}),
      ...(options.virtualFunctions ? { virtualFunctions: options.virtualFunctions } : {}),
      bars: [
        {
          index: 0,
          size: 0x100000,
          read: (offset, size) => this.readRegister(offset, size),
          write: (offset, size, value) => this.writeRegister(offset, size, value),
        },
      ],
    });
    this.dmaMask = options.dmaMask ?? 0xfffffffn;
  }

  protected override reset(): void {
    this.era++;
    this.liveness = this.factorial = this.status = this.interruptStatus = 0;
    this.source = this.destination = this.count = this.command = 0n;
    this.buffer.fill(0);
  }

  /** An access of a size that the register does not take reads 0; one of 8 bytes below 0x80, all ones. */
  private readRegister(offset: number, size: number): bigint {
    if (size < 4) return 0n;
    if (size === 8 && offset < FIRST_WIDE_REGISTER) return -1n;
    switch (offset) {
      case IDENTIFICATION:
        return 0x010000edn;
      case LIVENESS:
        return BigInt(this.liveness);
      case FACTORIAL:
        return BigInt(this.factorial);
      case STATUS:
        return BigInt(this.status);
      case INTERRUPT_STATUS:
        return BigInt(this.interruptStatus);
      case DMA_SOURCE:
        return this.source;
      case DMA_DESTINATION:
        return this.destination;
      case DMA_COUNT:
        return this.count;
      case DMA_COMMAND:
        return this.command;
      default:
        return -1n;
    }
  }

  private writeRegister(offset: number, size: number, value: bigint): void {
    if (size < 4 || (size === 8 && offset < FIRST_WIDE_REGISTER)) return;
    if (offset >= FIRST_WIDE_REGISTER) this.writeDmaRegister(offset, value);
    else this.writeControlRegister(offset, Number(value));
  }

  private writeControlRegister(offset: number, value: number): void {
    switch (offset) {
      case LIVENESS:
        this.liveness = ~value >>> 0;
        break;
      case FACTORIAL:
        if (this.status & STATUS_COMPUTING) break;
        this.status |= STATUS_COMPUTING;
        this.system.tasks.spawn(`factorial of ${this.name}`, this.computeFactorial(value, this.era));
        break;
      case STATUS:
        this.status = (this.status & STATUS_COMPUTING) | (value & STATUS_INTERRUPT);
        break;
      case INTERRUPT_RAISE:
        this.raise(value);
        break;
      case INTERRUPT_ACKNOWLEDGE:
        this.interruptStatus = (this.interruptStatus & ~value) >>> 0;
        if (this.interruptStatus === 0) this.clearInterrupt();
        break;
    }
  }

  private writeDmaRegister(offset: number, value: bigint): void {
    // The engine works from its registers: they stay as they are while it does.
    if (this.command & DMA_START) return;
    switch (offset) {
      case DMA_SOURCE:
        this.source = value;
        break;
      case DMA_DESTINATION:
        this.destination = value;
        break;
      case DMA_COUNT:
        this.count = value;
        break;
      case DMA_COMMAND:
        if (!(value & DMA_START)) break;
        this.command = value;
        this.system.tasks.spawn(`DMA of ${this.name}`, this.transfer(this.era));
        break;
    }
  }

  private raise(cause: number): void {
    this.interruptStatus = (this.interruptStatus | cause) >>> 0;
    if (this.interruptStatus !== 0) this.interrupt();
  }

  /** The factorial modulo 2^32. */
  private *computeFactorial(of: number, era: number): Task<void> {
    yield* this.system.tasks.point();
    let product = 1;
    // The product has more than 31 factors of 2 from 34! on.
    for (let factor = Math.min(of, 34); factor > 1; factor--) product = Math.imul(product, factor) >>> 0;
    if (era !== this.era) return;
    this.factorial = product;
    this.status &= ~STATUS_COMPUTING;
    if (this.status & STATUS_INTERRUPT) this.raise(FACTORIAL_DONE);
  }

  private *transfer(era: number): Task<void> {
    if (era !== this.era) return;
    const { command, source, destination, count } = this;
    const toMemory = (command & DMA_TO_MEMORY) !== 0n;
    const offset = Number((toMemory ? source : destination) - BUFFER);
    const address = (toMemory ? destination : source) & this.dmaMask;
    // The specification names no other place: a transfer that is not within the buffer moves nothing.
    if (offset >= 0 && offset + Number(count) <= BUFFER_SIZE) {
      const bytes = this.buffer.slice(offset, offset + Number(count));
      if (toMemory) {
        yield* this.dma.write(address, bytes);
      } else if ((yield* this.dma.read(address, bytes)) && era === this.era) {
        this.buffer.set(bytes, offset);
      }
    }
    if (era !== this.era) return;
    this.command -= DMA_START;
    if (command & DMA_INTERRUPT) this.raise(DMA_DONE);
  }
}
