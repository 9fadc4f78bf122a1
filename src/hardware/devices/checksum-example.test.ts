import { describe, expect, it } from "vitest";
import { ADDRESS, ChecksumDevice, GO, LENGTH, SUM } from "../../../examples/checksum-device.ts";
import { COMMAND, enableVectors, MsiController, PciHost } from "../../pci/index.ts";
import { System, type Task } from "../../runtime/index.ts";

/** Memory without an IOMMU in between: 4096 bytes at 0x1000. */
class PlainMemory {
  readonly bytes = new Uint8Array(4096);

  *access(_requester: number, _pasid: unknown, address: bigint, bytes: Uint8Array, write: boolean): Task<boolean> {
    const start = Number(address) - 0x1000;
    if (start < 0 || start + bytes.length > this.bytes.length) return false;
    if (write) this.bytes.set(bytes, start);
    else bytes.set(this.bytes.subarray(start, start + bytes.length));
    return true;
  }
}

describe("the device of docs/device-author-guide.md", () => {
  function plug() {
    const system = new System();
    const memory = new PlainMemory();
    const interrupts = new MsiController({ start: 0x8000000n, last: 0x80fffffn });
    const host = new PciHost(system, { target: memory, interrupts });
    const device = new ChecksumDevice(system);
    host.root.add(device, 1);
    host.enumerate();
    device.writeConfig(COMMAND, 2, 0x6);
    let count = 0;
    enableVectors(device, "msi", 1, () => count++);
    const sum = (address: bigint, length: bigint): bigint => {
      device.writeBar(0, ADDRESS, 8, address);
      device.writeBar(0, LENGTH, 8, length);
      device.writeBar(0, GO, 8, 1n);
      system.tasks.drain();
      return device.readBar(0, SUM, 8);
    };
    return { system, device, memory, sum, interrupts: () => count };
  }

  it("adds up what it reads, and interrupts", () => {
    const { memory, sum, interrupts } = plug();
    memory.bytes.set([1, 2, 3, 4], 16);
    expect(sum(0x1010n, 4n)).toBe(10n);
    expect(interrupts()).toBe(1);
  });

  it("says so when the bus refuses", () => {
    const { sum, interrupts } = plug();
    expect(sum(0x9000n, 4n)).toBe(0xffffffffffffffffn);
    expect(interrupts()).toBe(1);
  });

  it("forgets what it was at when it is reset", () => {
    const { system, device, interrupts } = plug();
    device.writeBar(0, LENGTH, 8, 1n);
    device.writeBar(0, GO, 8, 1n);
    device.functionLevelReset();
    system.tasks.drain();
    expect([device.readBar(0, SUM, 8), interrupts()]).toEqual([0n, 0]);
  });

  it("has its registers at 0 after a reset", () => {
    const { device, memory, sum } = plug();
    memory.bytes[0] = 7;
    sum(0x1000n, 1n);
    device.functionLevelReset();
    expect(device.readBar(0, SUM, 8)).toBe(0n);
  });
});
