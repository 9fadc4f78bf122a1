import { describe, expect, it } from "vitest";
import { attach, MIB, REG, Workbench } from "./workbench.test-support.ts";

describe("virtio-mmio registers", () => {
  it("say what the device is", () => {
    const { device } = new Workbench();
    expect(device.read32(0)).toBe(0x74726976);
    expect(device.read32(4)).toBe(2);
    expect(device.read32(8)).toBe(23);
    device.write32(0x30, 0);
    expect(device.read32(0x34)).toBe(256);
    device.write32(0x30, 2);
    expect(device.read32(0x34)).toBe(0);
    expect(device.read32(0xb0)).toBe(0xffffffff);
  });

  it("offer features in two words", () => {
    const { device } = new Workbench({ inputRange: { start: 0n, last: 2n ** 48n - 1n }, bypass: true });
    expect(device.read32(0x10)).toBe(0x10000075);
    device.write32(0x14, 1);
    expect(device.read32(0x10)).toBe(1);
    device.write32(0x14, 2);
    expect(device.read32(0x10)).toBe(0);
    expect(new Workbench({ domainRange: { first: 2, last: 9 }, probe: false, mmio: false }).device.read32(0x10)).toBe(
      0x10000006,
    );
  });

  it("show the configuration bit for bit", () => {
    const { device } = new Workbench({
      pageSizeMask: 0x4020_1000n,
      inputRange: { start: 0x1000n, last: 0xffff_ffff_ffffn },
      domainRange: { first: 3, last: 77 },
      bypass: true,
    });
    const words = Array.from({ length: 11 }, (_, word) => device.read32(0x100 + word * 4));
    expect(words).toEqual([0x40201000, 0, 0x1000, 0, 0xffffffff, 0xffff, 3, 77, 512, 1, 0]);
    expect(device.read64(0x110)).toBe(0xffff_ffff_ffffn);
  });

  it("do not agree on features that are not offered, or without VERSION_1", () => {
    expect(new Workbench().negotiate(0x04).status).toBe(11);
    expect(new Workbench().negotiate(0x04, 0).status).toBe(3);
    expect(new Workbench().negotiate(0x84).status).toBe(3);
    const bench = new Workbench().negotiate(0x84);
    bench.device.write32(REG.status, 15);
    expect(bench.status).toBe(3);
  });

  it("keep a queue's place once it is ready, and refuse a queue that is none", () => {
    const { device } = new Workbench().start(0x04);
    device.write32(0x30, 0);
    expect(device.read32(0x44)).toBe(1);
    device.write32(0x38, 3);
    expect(device.read32(0x44)).toBe(1);
    for (const size of [0, 3, 512]) {
      device.write32(0x44, 0);
      device.write32(0x38, size);
      device.write32(0x44, 1);
      expect(device.read32(0x44)).toBe(0);
    }
    device.write32(0x38, 8);
    device.write32(0x80, 8);
    device.write32(0x44, 1);
    expect(device.read32(0x44)).toBe(0);
  });

  it("forget everything at a reset, but not bypass", () => {
    const bench = new Workbench({ bypass: true }).start(0x44);
    bench.device.write32(0x124, 0);
    expect(bench.statusOf(attach(1, 8))).toBe(0);
    expect(bench.device.read32(REG.interrupt)).toBe(1);
    bench.device.write32(REG.status, 0);
    expect(bench.status).toBe(0);
    expect(bench.device.read32(REG.interrupt)).toBe(0);
    expect(bench.device.read32(0x44)).toBe(0);
    expect(bench.device.occupancy).toEqual({ domains: 0, mappings: 0 });
    expect(bench.device.read32(0x124)).toBe(0);
  });

  it("let bypass be written only by a driver that negotiated it, and only 0 and 1", () => {
    const without = new Workbench({ bypass: true }).start(0x04).device;
    without.write32(0x124, 0);
    expect(without.read32(0x124)).toBe(1);
    const { device } = new Workbench({ bypass: true }).start(0x44);
    device.write32(0x124, 2);
    expect(device.read32(0x124)).toBe(1);
    device.write32(0x124, 0);
    expect(device.read32(0x124)).toBe(0);
  });

  it("interrupt for a used buffer until it is acknowledged, unless the driver does not want that", () => {
    const bench = new Workbench().start(0x04);
    bench.statusOf(attach(1, 8));
    expect([bench.interrupts, bench.device.read32(REG.interrupt)]).toEqual([1, 1]);
    bench.device.write32(REG.ack, 1);
    expect(bench.device.read32(REG.interrupt)).toBe(0);
    bench.memory.write(0x11000, Uint8Array.of(1, 0));
    bench.statusOf(attach(1, 16));
    expect(bench.interrupts).toBe(1);
  });

  it("answer what was available before DRIVER_OK once it is set, not before", () => {
    const bench = new Workbench().negotiate(0x04);
    const { device, memory } = bench;
    device.write32(0x30, 0);
    device.write32(0x38, 8);
    device.write32(0x80, 0x10000);
    device.write32(0x90, 0x11000);
    device.write32(0xa0, 0x12000);
    device.write32(0x44, 1);
    memory.write(MIB, Uint8Array.from(attach(1, 8)));
    bench.describe(0, MIB, 20, 1, 1);
    bench.describe(1, MIB + 32, 4, 2);
    bench.offer(0);
    expect(bench.used().index).toBe(0);
    device.write32(REG.status, 15);
    expect(bench.used()).toEqual({ index: 1, head: 0, length: 4 });
  });
});
