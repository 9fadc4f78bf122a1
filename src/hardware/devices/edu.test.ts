import { describe, expect, it } from "vitest";
import { COMMAND, enableVectors, MsiController, type PciFunction, PciHost } from "../../pci/index.ts";
import { System, type Task } from "../../runtime/index.ts";
import { EduDevice } from "./edu.ts";

function plug(options: ConstructorParameters<typeof EduDevice>[1] = {}) {
  const system = new System();
  const accesses: { address: bigint; length: number; write: boolean }[] = [];
  const memory = new Uint8Array(8192);
  const target = {
    refuses: false,
    *access(_requester: number, _pasid: unknown, address: bigint, bytes: Uint8Array, write: boolean): Task<boolean> {
      yield* system.tasks.point();
      accesses.push({ address, length: bytes.length, write });
      if (target.refuses) {
        if (!write) bytes.fill(0xee);
        return false;
      }
      if (write) memory.set(bytes, Number(address));
      else bytes.set(memory.subarray(Number(address), Number(address) + bytes.length));
      return true;
    },
  };
  const host = new PciHost(system, { target, interrupts: new MsiController({ start: 0x8000000n, last: 0x80fffffn }) });
  const edu = new EduDevice(system, options);
  host.root.add(edu, 1);
  host.enumerate();
  edu.writeConfig(COMMAND, 2, 0x6);
  const read = (offset: number, size = 4): bigint => edu.readBar(0, offset, size);
  const write = (offset: number, value: bigint, size = 4): void => edu.writeBar(0, offset, size, value);
  const dma = (source: bigint, destination: bigint, count: bigint, command: bigint): void => {
    write(0x80, source, 8);
    write(0x88, destination, 8);
    write(0x90, count, 8);
    write(0x98, command);
  };
  return { system, edu, memory, target, accesses, read, write, dma };
}

function line(edu: PciFunction): { count: number } {
  const heard = { count: 0 };
  edu.interrupts.onLine(() => heard.count++);
  return heard;
}

describe("registers of edu", () => {
  it("has its identity and inverts a number", () => {
    const { read, write } = plug();
    expect(read(0)).toBe(0x010000edn);
    write(4, 0x12345678n);
    expect(read(4)).toBe(0xedcba987n);
  });

  it.each([
    { offset: 0x00, size: 1, value: 0n },
    { offset: 0x00, size: 2, value: 0n },
    { offset: 0x00, size: 8, value: 0xffffffffffffffffn },
    { offset: 0x64, size: 4, value: 0xffffffffn },
    { offset: 0x80, size: 2, value: 0n },
    { offset: 0x40000, size: 8, value: 0xffffffffffffffffn },
  ])("$size bytes at $offset read $value", ({ offset, size, value }) => {
    expect(plug().read(offset, size)).toBe(value);
  });

  it("takes 4 or 8 bytes from 0x80 on; 4 bytes leave nothing in the upper half", () => {
    const { read, write } = plug();
    write(0x80, 0x1122334455667788n, 8);
    expect([read(0x80, 8), read(0x80)]).toEqual([0x1122334455667788n, 0x55667788n]);
    write(0x80, 0x99n);
    expect(read(0x80, 8)).toBe(0x99n);
    write(0x80, 0xffffn, 2);
    expect(read(0x80, 8)).toBe(0x99n);
  });

  it("computes factorials modulo 2^32 by itself, and interrupts if asked to", () => {
    const { system, edu, read, write } = plug();
    const interrupts = line(edu);
    write(8, 10n);
    expect(read(0x20)).toBe(1n);
    system.tasks.drain();
    expect([read(0x20), read(8), interrupts.count]).toEqual([0n, 3628800n, 0]);
    write(0x20, 0x80n);
    write(8, 0xffffffffn);
    system.tasks.drain();
    expect([read(0x20), read(8), read(0x24), interrupts.count]).toEqual([0x80n, 0n, 1n, 1]);
  });

  it("keeps INTx up until every cause is acknowledged", () => {
    const { edu, read, write } = plug();
    const interrupts = line(edu);
    write(0x60, 3n);
    write(0x64, 1n);
    expect([read(0x24), edu.readConfig(6, 2) & 8, interrupts.count]).toEqual([2n, 8, 1]);
    write(0x64, 2n);
    expect([read(0x24), edu.readConfig(6, 2) & 8]).toEqual([0n, 0]);
  });
});

describe("DMA of edu", () => {
  it("copies from memory to its buffer and back, as tasks of its own", () => {
    const { system, memory, read, dma } = plug();
    memory.set([1, 2, 3, 4], 100);
    dma(100n, 0x40010n, 4n, 1n);
    expect(read(0x98)).toBe(1n);
    system.tasks.drain();
    expect(read(0x98)).toBe(0n);
    dma(0x40010n, 200n, 4n, 3n);
    system.tasks.drain();
    expect([...memory.subarray(200, 205)]).toEqual([1, 2, 3, 4, 0]);
  });

  it("leaves its registers alone while it is under way", () => {
    const { system, memory, read, write, dma } = plug();
    memory[0] = 9;
    dma(0n, 0x40000n, 1n, 1n);
    write(0x80, 0x1234n, 8);
    write(0x98, 3n);
    system.tasks.drain();
    expect([read(0x80, 8), read(0x98)]).toEqual([0n, 0n]);
  });

  it("leaves the buffer as it was when the bus refuses, and interrupts all the same", () => {
    const { system, edu, memory, target, read, dma } = plug();
    const interrupts = line(edu);
    memory.set([5, 6], 0);
    dma(0n, 0x40000n, 2n, 1n);
    system.tasks.drain();
    target.refuses = true;
    dma(0n, 0x40000n, 2n, 5n);
    system.tasks.drain();
    expect([read(0x24), interrupts.count]).toEqual([0x100n, 1]);
    target.refuses = false;
    dma(0x40000n, 64n, 2n, 3n);
    system.tasks.drain();
    expect([...memory.subarray(64, 66)]).toEqual([5, 6]);
  });

  it.each([
    { destination: 0x3ffffn, count: 1n },
    { destination: 0x40fffn, count: 2n },
    { destination: 0x40000n, count: 2n ** 63n },
    { destination: 0n, count: 1n },
  ])("moves nothing outside of its buffer: $count bytes at $destination", ({ destination, count }) => {
    const { system, accesses, read, dma } = plug();
    dma(0n, destination, count, 1n);
    system.tasks.drain();
    expect([accesses.length, read(0x98)]).toEqual([0, 0n]);
  });

  it("drives 28 address bits unless told otherwise", () => {
    for (const [dmaMask, address] of [
      [undefined, 0x10n],
      [2n ** 64n - 1n, 0xf0000010n],
    ] as const) {
      const { system, target, accesses, dma } = plug({ dmaMask });
      target.refuses = true;
      dma(0xf0000010n, 0x40000n, 4n, 1n);
      system.tasks.drain();
      expect(accesses).toEqual([{ address, length: 4, write: false }]);
    }
  });

  it("is refused without bus mastering", () => {
    const { system, edu, accesses, dma } = plug();
    edu.writeConfig(COMMAND, 2, 0x2);
    dma(0n, 0x40000n, 4n, 1n);
    system.tasks.drain();
    expect(accesses).toEqual([]);
  });

  it("has no effect any more after a reset", () => {
    const { system, edu, read, dma } = plug();
    const interrupts = line(edu);
    dma(0n, 0x40000n, 4n, 5n);
    edu.functionLevelReset();
    system.tasks.drain();
    expect([read(0x98), read(0x24), interrupts.count]).toEqual([0n, 0n, 0]);
  });

  it("interrupts by MSI without raising INTx, through the doorbell and never the IOMMU", () => {
    const { system, edu, accesses, dma } = plug();
    const vectors: number[] = [];
    enableVectors(edu, "msi", 1, (vector) => vectors.push(vector));
    dma(0n, 0x40000n, 4n, 5n);
    system.tasks.drain();
    expect(vectors).toEqual([0]);
    expect(accesses.length).toBe(1);
    expect(edu.readConfig(6, 2) & 8).toBe(0);
  });
});
