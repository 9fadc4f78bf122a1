// Runs in a browser.
import { assert, Refusal } from "../runtime/index.ts";
import { MSI_CONTROL, MSI_ENABLE, MSI_WIDE, MSIX_CONTROL, MSIX_ENABLE, msiLayout } from "./capabilities.ts";
import type { InterruptController, Message } from "./dma.ts";
import type { PciFunction } from "./function.ts";
import { CAPABILITY_MSI, CAPABILITY_MSIX } from "./ids.ts";
import type { MsixTable } from "./msix-table.ts";

/** Message interrupts of a function that an operating system has enabled. Nobody else touches the capability meanwhile. */
export interface Vectors {
  readonly count: number;
  /** Makes sure that a vector is usable; false if it is not, and cannot become so while enabled (MSI). */
  add(vector: number): boolean;
  /** Disables them and takes the messages back. */
  free(): void;
}

/** The number of vectors that the function's capability offers. */
export function vectorCapacity(member: PciFunction, kind: "msi" | "msix"): number {
  if (kind === "msix") return member.msixTable?.vectors ?? 0;
  const base = member.capability(CAPABILITY_MSI);
  return base === undefined ? 0 : 2 ** ((member.readConfig(base + MSI_CONTROL, 2) >>> 1) & 7);
}

/** Enables `count` vectors (from 0 on), or as many as the controller has. `handler` gets the vector that was raised. */
export function enableVectors(
  member: PciFunction,
  kind: "msi" | "msix",
  count: number,
  handler: (vector: number) => void,
): Vectors {
  assert(count > 0 && count <= vectorCapacity(member, kind), () => `${member.name}: ${count} vectors of ${kind}`);
  const controller = member.place!.bus.host.interrupts;
  return kind === "msi"
    ? enableMsi(member, controller, count, handler)
    : new MsixVectors(member, controller, count, handler);
}

function enableMsi(
  member: PciFunction,
  controller: InterruptController,
  wanted: number,
  handler: (vector: number) => void,
): Vectors {
  const base = member.capability(CAPABILITY_MSI)!;
  let count = wanted;
  let block = 2 ** Math.ceil(Math.log2(count));
  let message: Message | undefined;
  while (message === undefined) {
    try {
      message = controller.allocate(member.requesterId, handler, block);
    } catch (error) {
      if (!(error instanceof Refusal) || block === 1) throw error;
      block /= 2;
      count = block;
    }
  }
  const given = message;
  const control = member.readConfig(base + MSI_CONTROL, 2) & ~0x71;
  writeMsiMessage(member, base, given);
  member.writeConfig(base + MSI_CONTROL, 2, control | (Math.log2(block) << 4) | MSI_ENABLE);
  return {
    count,
    add: (vector) => vector < count,
    free: () => {
      member.writeConfig(base + MSI_CONTROL, 2, control);
      writeMsiMessage(member, base, { address: 0n, data: 0 });
      controller.free(given);
    },
  };
}

function writeMsiMessage(member: PciFunction, base: number, { address, data }: Message): void {
  const control = member.readConfig(base + MSI_CONTROL, 2);
  member.writeConfig(base + 4, 4, Number(address % 0x100000000n));
  if (control & MSI_WIDE) member.writeConfig(base + 8, 4, Number(address / 0x100000000n));
  member.writeConfig(base + msiLayout(control).data, 2, data);
}

class MsixVectors implements Vectors {
  private readonly member: PciFunction;
  private readonly controller: InterruptController;
  private readonly handler: (vector: number) => void;
  private readonly messages = new Map<number, Message>();

  constructor(member: PciFunction, controller: InterruptController, count: number, handler: (vector: number) => void) {
    this.member = member;
    this.controller = controller;
    this.handler = handler;
    for (let vector = 0; vector < count; vector++) {
      if (!this.add(vector)) break;
    }
    this.writeControl(MSIX_ENABLE);
  }

  get count(): number {
    return this.messages.size;
  }

  add(vector: number): boolean {
    if (this.messages.has(vector)) return true;
    try {
      const message = this.controller.allocate(this.member.requesterId, () => this.handler(vector));
      this.messages.set(vector, message);
      this.writeEntry(vector, message, 0);
      return true;
    } catch (error) {
      if (error instanceof Refusal) return false;
      throw error;
    }
  }

  free(): void {
    this.writeControl(0);
    for (const [vector, message] of this.messages) {
      this.writeEntry(vector, { address: 0n, data: 0 }, 1);
      this.controller.free(message);
    }
    this.messages.clear();
  }

  private get table(): MsixTable {
    return this.member.msixTable!;
  }

  private writeEntry(vector: number, { address, data }: Message, control: number): void {
    const { bar, offset } = this.table.table;
    this.member.writeBar(bar, offset + vector * 16, 8, address);
    this.member.writeBar(bar, offset + vector * 16 + 8, 4, BigInt(data));
    this.member.writeBar(bar, offset + vector * 16 + 12, 4, BigInt(control));
  }

  private writeControl(value: number): void {
    this.member.writeConfig(this.member.capability(CAPABILITY_MSIX)! + MSIX_CONTROL, 2, value);
  }
}
