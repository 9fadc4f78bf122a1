// Runs in a browser.
import { assert } from "../runtime/index.ts";
import type { CONFIG_SPACE_SIZE, EXTENDED_CONFIG_SPACE_SIZE } from "./ids.ts";

/** Width of one access to configuration space, in bytes. */
export type ConfigWidth = 1 | 2 | 4;

/**
 * The configuration space of one function, as bytes. Each bit is read-only, read-write, or write-1-to-clear; read-only is
 * what it is unless declared otherwise. The function itself changes any bit with {@link set}.
 */
export class ConfigSpace {
  readonly size: number;
  private readonly view: DataView;
  private readonly writable: Uint8Array;
  private readonly clearable: Uint8Array;
  private resetValue: Uint8Array;

  constructor(size: typeof CONFIG_SPACE_SIZE | typeof EXTENDED_CONFIG_SPACE_SIZE) {
    this.size = size;
    this.view = new DataView(new ArrayBuffer(size));
    this.writable = new Uint8Array(size);
    this.clearable = new Uint8Array(size);
    this.resetValue = new Uint8Array(size);
  }

  /** A copy of all bytes. */
  get bytes(): Uint8Array {
    return new Uint8Array(this.view.buffer.slice(0));
  }

  read(offset: number, width: ConfigWidth): number {
    switch (width) {
      case 1:
        return this.view.getUint8(offset);
      case 2:
        return this.view.getUint16(offset, true);
      case 4:
        return this.view.getUint32(offset, true);
    }
  }

  /** A write that came over the bus: changes what the bits' kinds allow. */
  write(offset: number, width: ConfigWidth, value: number): void {
    for (let index = 0; index < width; index++) {
      const at = offset + index;
      const byte = (value >>> (8 * index)) & 0xff;
      const before = this.view.getUint8(at);
      const writable = this.writable[at];
      this.view.setUint8(at, ((before & ~writable) | (byte & writable)) & ~(byte & this.clearable[at]));
    }
  }

  /** The function's own store, of any bits. */
  set(offset: number, width: ConfigWidth, value: number): void {
    switch (width) {
      case 1:
        this.view.setUint8(offset, value);
        break;
      case 2:
        this.view.setUint16(offset, value, true);
        break;
      case 4:
        this.view.setUint32(offset, value, true);
        break;
    }
  }

  /** Stores a block of bytes. */
  place(offset: number, bytes: Uint8Array): void {
    assert(offset + bytes.length <= this.size, () => `${bytes.length} bytes at ${offset} of ${this.size} config bytes`);
    new Uint8Array(this.view.buffer).set(bytes, offset);
  }

  /** Declares the bits of `mask` read-write. */
  makeWritable(offset: number, width: ConfigWidth, mask: number): void {
    for (let index = 0; index < width; index++) this.writable[offset + index] |= (mask >>> (8 * index)) & 0xff;
  }

  /** Declares the bits of `mask` write-1-to-clear. */
  makeClearable(offset: number, width: ConfigWidth, mask: number): void {
    for (let index = 0; index < width; index++) this.clearable[offset + index] |= (mask >>> (8 * index)) & 0xff;
  }

  /** What is there now is what {@link reset} restores. */
  rememberForReset(): void {
    this.resetValue = this.bytes;
  }

  /** A conventional reset: everything is as it was when the function was made. */
  reset(): void {
    this.place(0, this.resetValue);
  }
}
