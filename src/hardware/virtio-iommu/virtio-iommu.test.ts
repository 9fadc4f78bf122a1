import { describe, expect, it } from "vitest";
import { attach, BUFFER, MIB, map, unmap, Workbench } from "./workbench.test-support.ts";

/** Lets the device write one event, into BUFFER + 0x2000. */
function offerEvent(bench: Workbench, length = 24): void {
  bench.memory.write(BUFFER + 0x2000, new Uint8Array(32));
  bench.describe(0, BUFFER + 0x2000, length, 2, 0, 1);
  bench.offer(0, 1);
}

const event = (bench: Workbench): number[] => bench.bytes(BUFFER + 0x2000, 24);

describe("accesses", () => {
  it("reach what is mapped, across neighbours, and stop where nothing is", () => {
    const bench = new Workbench().start(0x04);
    bench.statusOf(attach(1, 8));
    bench.statusOf(map(1, 0x1000n, 0x1fffn, BigInt(MIB)));
    bench.statusOf(map(1, 0x2000n, 0x2fffn, BigInt(2 * MIB), 1));
    bench.memory.write(MIB + 0xffe, Uint8Array.of(1, 2));
    bench.memory.write(2 * MIB, Uint8Array.of(3, 4));
    const bytes = new Uint8Array(4);
    expect(bench.system.run("dma", bench.device.access(8, undefined, 0x1ffen, bytes, false))).toBe(true);
    expect([...bytes]).toEqual([1, 2, 3, 4]);
    expect(bench.dma(8, 0x1ffen, true)).toBe(false);
    expect(bench.dma(8, 0x2ffen)).toBe(false);
    expect(bench.dma(16, 0x1000n)).toBe(false);
    expect(bench.dma(8, 0x1000n, false, 4, 1)).toBe(false);
    bench.statusOf(unmap(1, 0x1000n, 0x1fffn));
    expect(bench.dma(8, 0x1000n)).toBe(false);
  });

  it("abort without a fault where memory is not", () => {
    const bench = new Workbench().start(0x04);
    bench.statusOf(attach(1, 8));
    bench.statusOf(map(1, 0x1000n, 0x1fffn, BigInt(64 * MIB)));
    bench.device.onFault = () => expect.unreachable();
    expect(bench.dma(8, 0x1000n)).toBe(false);
  });

  it("without a domain: as bypass says, whether the driver knows of bypass or not", () => {
    expect(new Workbench({ bypass: true }).dma(8, 0x1000n)).toBe(true);
    expect(new Workbench({ bypass: true }).dma(9, 0x1000n)).toBe(false);
    expect(new Workbench({ bypass: false }).dma(8, 0x1000n)).toBe(false);
    expect(new Workbench().dma(8, 0x1000n)).toBe(false);
    expect(new Workbench({ bypass: true }).start(0x04).dma(8, 0x1000n)).toBe(true);
    const bench = new Workbench({ bypass: true }).start(0x44);
    expect(bench.dma(8, 0x1000n)).toBe(true);
    bench.device.write32(0x124, 0);
    expect(bench.dma(8, 0x1000n)).toBe(false);
  });
});

describe("fault events", () => {
  it("are written bit for bit, with an interrupt", () => {
    const bench = new Workbench().start(0x04);
    offerEvent(bench);
    bench.dma(16, 0x1_2345_6789n, true);
    const address = [0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0];
    expect(event(bench)).toEqual([1, 0, 0, 0, 2, 1, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, ...address]);
    expect(bench.used(1)).toEqual({ index: 1, head: 0, length: 24 });
    expect(bench.interrupts).toBe(1);
    bench.statusOf(attach(1, 16));
    offerEvent(bench);
    bench.dma(16, 0x1_2345_6789n);
    expect(event(bench)).toEqual([2, 0, 0, 0, 1, 1, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, ...address]);
  });

  it("are lost without a buffer, or with one that is too short; people are told all the same", () => {
    const bench = new Workbench().start(0x04);
    const told: string[] = [];
    bench.device.onFault = (fault) => void told.push(fault.text());
    bench.dma(8, 0x5000n);
    offerEvent(bench, 16);
    bench.dma(8, 0x6000n);
    expect(bench.used(1).length).toBe(0);
    offerEvent(bench);
    bench.dma(8, 0x7000n);
    expect(told).toEqual([
      "viommu: read of endpoint 0x8 at 0x5000 faults: it is attached to no domain, and bypass is off (not recorded: the event queue has no buffer)",
      "viommu: read of endpoint 0x8 at 0x6000 faults: it is attached to no domain, and bypass is off (not recorded: the event queue has no buffer)",
      "viommu: read of endpoint 0x8 at 0x7000 faults: it is attached to no domain, and bypass is off",
    ]);
  });
});
