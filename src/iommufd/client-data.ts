// Runs in a browser.
import type { UserData } from "../iommu/index.ts";
import type { Process } from "../memory/index.ts";
import { E2BIG, refuse } from "../runtime/index.ts";

/** No driver's struct comes near it. */
const LONGEST = 2 ** 20;

/**
 * Driver data of a client, read when a driver asks for it: a driver refuses a type or a length that it does not know
 * before anybody finds the pointer unreadable.
 */
export class ClientData implements UserData {
  readonly type: number;
  /** Bytes. */
  readonly length: number;
  private readonly process: Process;
  private readonly address: bigint;

  constructor(process: Process, type: number, address: bigint, length: number) {
    this.process = process;
    this.type = type;
    this.address = address;
    this.length = length;
  }

  /** Refusal EFAULT if they cannot be read. */
  get bytes(): Uint8Array {
    if (this.length > LONGEST) refuse(E2BIG, () => `${this.length} bytes of driver data: no driver knows so many`);
    const bytes = new Uint8Array(this.length);
    this.process.memory.read(this.address, bytes);
    return bytes;
  }

  write(answer: Uint8Array): void {
    this.process.memory.write(this.address, answer.subarray(0, this.length));
  }
}
