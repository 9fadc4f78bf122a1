// Runs in a browser.
import { assert } from "../runtime/index.ts";
import type { ConfigSpace } from "./config-space.ts";
import { BASE_ADDRESS_0 } from "./ids.ts";

/** A base address register and the registers behind it, as a device model declares them. */
export interface BarDescription {
  /** 0 to 5; a 64-bit BAR takes the next one too. */
  readonly index: number;
  /** Bytes, a power of two: at least 16 for memory, 4 for I/O ports. */
  readonly size: number;
  readonly kind?: "memory32" | "memory64" | "io";
  readonly prefetchable?: boolean;
  /** A read of `size` bytes (1, 2, 4 or 8), aligned to them; bits above `size` bytes are dropped. */
  read(offset: number, size: number): number | bigint;
  write(offset: number, size: number, value: bigint): void;
}

/** Type bits in the low part of a BAR (PCI 3.0, 6.2.5.1). */
const IO = 0x1;
const MEMORY_64 = 0x4;
const PREFETCHABLE = 0x8;

/** A base address register of one function, with what is behind it. */
export abstract class Bar {
  readonly index: number;
  readonly size: number;
  readonly kind: "memory32" | "memory64" | "io";
  /** The read-only low bits of the register. */
  readonly typeBits: number;
  readonly description: BarDescription;

  constructor(description: BarDescription) {
    const { index, size, kind = "memory32", prefetchable = false } = description;
    assert(Number.isInteger(Math.log2(size)), () => `BAR ${index}: size ${size} is not a power of two`);
    assert(size >= (kind === "io" ? 4 : 16), () => `BAR ${index}: size ${size} is too small`);
    assert(kind === "memory64" || size <= 2 ** 31, () => `BAR ${index}: size ${size} wants a 64-bit BAR`);
    assert(index + (kind === "memory64" ? 1 : 0) <= 5, () => `BAR ${index} does not fit`);
    this.index = index;
    this.size = size;
    this.kind = kind;
    this.typeBits = kind === "io" ? IO : (kind === "memory64" ? MEMORY_64 : 0) | (prefetchable ? PREFETCHABLE : 0);
    this.description = description;
  }

  /** Where it is on the bus; 0 when it was never placed. */
  abstract get address(): number;

  /** The address bits that can be set: what a write of all ones reads back, without the type bits. */
  get sizeMask(): { readonly low: number; readonly high: number } {
    return { low: this.size >= 2 ** 32 ? 0 : -this.size >>> 0, high: -Math.ceil(this.size / 2 ** 32) >>> 0 };
  }
}

/**
 * A base address register whose address is what configuration space holds: of the function itself, or in its SR-IOV
 * capability one that has a share for each virtual function, one behind the other.
 */
export class PlacedBar extends Bar {
  /** Bytes on the bus: those of all shares. */
  readonly extent: number;
  private readonly config: ConfigSpace;
  /** Offset in configuration space. */
  private readonly register: number;

  /** `registers`: where the six are of which it is one. */
  constructor(config: ConfigSpace, description: BarDescription, registers: number = BASE_ADDRESS_0, shares = 1) {
    super(description);
    this.config = config;
    this.register = registers + 4 * this.index;
    this.extent = this.size * shares;
    config.set(this.register, 4, this.typeBits);
    config.makeWritable(this.register, 4, this.sizeMask.low);
    if (this.kind === "memory64") config.makeWritable(this.register + 4, 4, this.sizeMask.high);
  }

  override get address(): number {
    const low = (this.config.read(this.register, 4) & this.sizeMask.low) >>> 0;
    return this.kind === "memory64" ? this.config.read(this.register + 4, 4) * 2 ** 32 + low : low;
  }

  /** Places it, as firmware does. */
  place(address: number): void {
    assert(address % this.size === 0, () => `BAR ${this.index} placed at unaligned ${address}`);
    this.config.write(this.register, 4, address % 2 ** 32);
    if (this.kind === "memory64") this.config.write(this.register + 4, 4, Math.floor(address / 2 ** 32));
  }
}

/** A virtual function's share of a base address register of its physical function: it has no register of its own. */
export class SharedBar extends Bar {
  private readonly place: () => number;

  constructor(description: BarDescription, place: () => number) {
    super(description);
    this.place = place;
  }

  override get address(): number {
    return this.place();
  }
}
