import { describe, expect, it } from "vitest";
import {
  accessControl,
  addressTranslation,
  advancedFeatures,
  type Capability,
  express,
  MsiController,
  msi,
  PciFunction,
  PciHost,
  pasid,
  powerManagement,
} from "../pci/index.ts";
import { System } from "../runtime/index.ts";
import { VirtualConfig } from "./virtual-config.ts";

class Counted extends PciFunction {
  resets = 0;
  protected override reset(): void {
    this.resets++;
  }
}

function open(capabilities: readonly Capability[] = [msi()], options: { msiVectors?: number } = {}) {
  const system = new System();
  const host = new PciHost(system, {
    target: { access: () => undefined as never },
    interrupts: new MsiController({ start: 0n, last: 0n }),
  });
  const bars = [
    { index: 0, size: 0x100000, read: () => 0, write: () => {} },
    { index: 2, size: 0x2000, kind: "memory64" as const, read: () => 0, write: () => {} },
  ];
  const member = new Counted({
    vendor: 0x1234,
    device: 1,
    classCode: 0,
    interruptPin: 1,
    bars,
    capabilities,
    scratchGaps: true,
  });
  host.root.add(member, 1);
  host.enumerate();
  const masks: boolean[] = [];
  const interrupts = {
    msiVectors: options.msiVectors,
    setIntxDisabled: (disabled: boolean) => void masks.push(disabled),
  };
  const config = new VirtualConfig(member, interrupts);
  const read = (offset: number, width: number): number => {
    const bytes = new Uint8Array(width);
    config.read(offset, bytes);
    return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
  };
  const write = (offset: number, width: number, value: number): void =>
    system.run(
      "write",
      config.write(
        offset,
        Uint8Array.from({ length: width }, (_, index) => Math.floor(value / 256 ** index) % 256),
      ),
    );
  return { member, config, interrupts, masks, read, write };
}

/** What is written, what is read back then, and what the hardware has. */
interface Row {
  readonly what: string;
  readonly offset: number;
  readonly width: number;
  readonly written: number;
  readonly seen: number;
  readonly hardware: number;
}

describe("a register that a client writes", () => {
  const rows: Row[] = [
    { what: "vendor and device", offset: 0, width: 4, written: 0xffffffff, seen: 0x00011234, hardware: 0x00011234 },
    { what: "command, with INTx disable", offset: 4, width: 2, written: 0xffff, seen: 0x0507, hardware: 0x0107 },
    { what: "status", offset: 6, width: 2, written: 0xffff, seen: 0x0010, hardware: 0x0010 },
    { what: "cache line size", offset: 0xc, width: 1, written: 0x20, seen: 0x20, hardware: 0x20 },
    { what: "latency timer", offset: 0xd, width: 1, written: 0x20, seen: 0, hardware: 0 },
    { what: "header type", offset: 0xe, width: 1, written: 0xff, seen: 0, hardware: 0 },
    { what: "BAR of 1 MiB", offset: 0x10, width: 4, written: 0xffffffff, seen: 0xfff00000, hardware: 0x10000000 },
    { what: "absent BAR", offset: 0x14, width: 4, written: 0xffffffff, seen: 0, hardware: 0 },
    { what: "64-bit BAR of 8 KiB", offset: 0x18, width: 4, written: 0xffffffff, seen: 0xffffe004, hardware: 4 },
    { what: "its upper half", offset: 0x1c, width: 4, written: 0xffffffff, seen: 0xffffffff, hardware: 0x80 },
    { what: "one byte of a BAR", offset: 0x13, width: 1, written: 0x77, seen: 0x77, hardware: 0x10 },
    { what: "ROM", offset: 0x30, width: 4, written: 0xffffffff, seen: 0, hardware: 0 },
    { what: "capability pointer", offset: 0x34, width: 1, written: 0xff, seen: 0x40, hardware: 0x40 },
    { what: "interrupt line", offset: 0x3c, width: 1, written: 0x77, seen: 0x77, hardware: 36 },
    { what: "interrupt pin", offset: 0x3d, width: 1, written: 4, seen: 1, hardware: 1 },
    { what: "MSI control", offset: 0x42, width: 1, written: 0xff, seen: 0x8e, hardware: 0x80 },
    { what: "MSI address", offset: 0x44, width: 4, written: 0x12345677, seen: 0x12345677, hardware: 0 },
    { what: "MSI data", offset: 0x4c, width: 2, written: 0xabcd, seen: 0xabcd, hardware: 0 },
    { what: "gap behind MSI", offset: 0x4e, width: 2, written: 0xabcd, seen: 0xabcd, hardware: 0xabcd },
    { what: "gap at the end", offset: 0xfc, width: 4, written: 0x11223344, seen: 0x11223344, hardware: 0x11223344 },
  ];
  it.each(rows)("$what", ({ offset, width, written, seen, hardware }) => {
    const { member, read, write } = open();
    write(offset, width, written);
    expect(read(offset, width)).toBe(seen);
    expect(member.readConfig(offset, width as 1 | 2 | 4)).toBe(hardware);
  });

  it("is written in chunks that stay within one capability", () => {
    const { member, read, write } = open();
    write(0x4c, 4, 0x11223344);
    expect([read(0x4c, 4), member.readConfig(0x4c, 4)]).toEqual([0x11223344, 0x11220000]);
  });
});

describe("what a write sets off", () => {
  it("memory decoding is the client's own idea; INTx disable masks", () => {
    const { config, masks, write } = open();
    expect(config.memoryEnabled).toBe(true);
    write(4, 2, 0x401);
    expect([config.memoryEnabled, config.intxDisabled, masks]).toEqual([false, true, [true]]);
    write(4, 2, 0x403);
    write(4, 2, 0x003);
    expect([config.memoryEnabled, masks]).toEqual([true, [true, false]]);
  });

  it("BARs that a reset behind our back lost come back with memory decoding", () => {
    const { member, write } = open();
    member.functionLevelReset();
    expect(member.bars[0]!.address).toBe(0);
    write(4, 2, 0x2);
    expect([member.bars[0]!.address, member.bars[2]!.address]).toEqual([0x10000000, 0x8000000000]);
  });

  it("MSI enable sticks only while MSI is active, and no more vectors than allocated", () => {
    const { read, write } = open([msi({ vectors: 8 })], { msiVectors: 4 });
    write(0x42, 1, 0xb1);
    expect(read(0x42, 1)).toBe(0xa1);
    const off = open([msi({ vectors: 8 })]);
    off.write(0x42, 1, 0xb1);
    expect(off.read(0x42, 1)).toBe(0x80);
  });

  it("D3hot stops memory, and what it loses is put back", () => {
    const { member, config, write } = open([powerManagement()]);
    write(0x44, 2, 3);
    expect([config.memoryEnabled, member.powerState]).toEqual([false, 3]);
    write(0x44, 2, 0);
    expect([config.memoryEnabled, member.resets, member.bars[0]!.address]).toEqual([true, 1, 0x10000000]);
  });

  it.each([
    { name: "Express", capability: express({ functionLevelReset: true }), offset: 0x48, bit: 0x8000 },
    { name: "advanced features", capability: advancedFeatures(), offset: 0x44, bit: 1 },
  ])("a reset by the $name capability; the bit reads 0", ({ capability, offset, bit }) => {
    const { member, read, write } = open([capability]);
    write(offset, 2, bit);
    expect([member.resets, read(offset, 2) & bit, member.bars[0]!.address]).toEqual([1, 0, 0x10000000]);
  });

  it("a reset bit without the feature does nothing", () => {
    const { member, read, write } = open([express()]);
    write(0x48, 2, 0x8000);
    expect([member.resets, read(0x48, 2) & 0x8000]).toEqual([0, 0]);
  });
});

describe("capabilities that a client does not see", () => {
  const slotId: Capability = { id: 0x04, bytes: new Uint8Array(4) };

  it("are left out of the chain, and their bytes are raw", () => {
    const { read } = open([slotId, msi(), slotId, powerManagement()]);
    expect([read(0x34, 1), read(0x45, 1), read(0x44, 1)]).toEqual([0x44, 0x58, 0x05]);
    expect(read(0x59, 1)).toBe(0);
  });

  it("leave no trace in the status register if nothing is left", () => {
    const { member, read } = open([slotId]);
    expect([read(6, 2), read(0x34, 1), member.readConfig(6, 2)]).toEqual([0, 0, 0x10]);
  });

  it("PME support is not offered", () => {
    const { member, read } = open([powerManagement()]);
    member.config.set(0x42, 2, 0xf803);
    const config = new VirtualConfig(member, { msiVectors: undefined, setIntxDisabled: () => {} });
    const bytes = new Uint8Array(2);
    config.read(0x42, bytes);
    expect([...bytes, read(0x42, 2)]).toEqual([3, 0, 3]);
  });

  it("extended: PASID is skipped", () => {
    const { read } = open([express(), accessControl(0x1d), pasid(), addressTranslation()]);
    expect([read(0x100, 4), read(0x110, 4)]).toEqual([0x1101000d, 0x0001000f]);
  });

  it("extended: a hidden first one leaves a place without id", () => {
    const { read } = open([express(), pasid(), addressTranslation()]);
    expect(read(0x100, 4)).toBe(0x10800000);
    expect(open([express(), pasid()]).read(0x100, 4)).toBe(0);
  });
});
