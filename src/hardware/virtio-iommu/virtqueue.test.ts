import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AVAIL, attach, BUFFER, DESC, MIB, REG, SIZE, USED, Workbench } from "./workbench.test-support.ts";

const NEEDS_RESET = 64;
const INDIRECT = 0x10000004;

/** A device with one ATTACH written at BUFFER, and room for its status behind it. */
function prepared(features = INDIRECT): Workbench {
  const bench = new Workbench().start(features);
  bench.memory.write(BUFFER, Uint8Array.from(attach(1, 8)));
  return bench;
}

describe("split virtqueues", () => {
  it("wrap around, and count on to 65536 and beyond", () => {
    const bench = new Workbench().start(0x04);
    for (let i = 1; i <= 65600; i++) bench.statusOf(attach(1 + (i % 2), 8));
    expect(bench.used()).toEqual({ index: 64, head: 0, length: 4 });
    expect(bench.device.occupancy.domains).toBe(1);
  }, 20_000);

  it("a request may be in pieces, and so may the room for its answer", () => {
    const bench = prepared();
    bench.describe(0, BUFFER, 3, 1, 5);
    bench.describe(5, BUFFER + 3, 17, 1, 2);
    bench.describe(2, BUFFER + 0x100, 1, 3, 3);
    bench.describe(3, BUFFER + 0x200, 3, 2);
    bench.words(BUFFER + 0x100, 0xffffffff);
    bench.offer(0);
    expect(bench.used()).toEqual({ index: 1, head: 0, length: 4 });
    expect(bench.bytes(BUFFER + 0x100, 2)).toEqual([0, 0xff]);
    expect(bench.device.occupancy.domains).toBe(1);
  });

  it("descriptors may lie in a table of their own", () => {
    const bench = prepared();
    bench.words(MIB, BUFFER, 0, 20, 1 + 65536, BUFFER + 0x100, 0, 4, 2);
    bench.describe(4, MIB, 32, 4);
    bench.offer(4);
    expect(bench.used()).toEqual({ index: 1, head: 4, length: 4 });
    expect(bench.device.occupancy.domains).toBe(1);
  });

  const indirect = (bench: Workbench, length: number, flags = 4): void => {
    bench.words(MIB, BUFFER, 0, 20, 1 + 65536, BUFFER + 0x100, 0, 4, 2);
    bench.describe(0, MIB, length, flags, 1);
    bench.offer(0);
  };
  it.each<[string, (bench: Workbench) => void]>([
    ["a head that does not exist", (bench) => bench.offer(SIZE)],
    [
      "a next one that does not exist",
      (bench) => {
        bench.describe(0, BUFFER, 20, 1, SIZE);
        bench.offer(0);
      },
    ],
    [
      "a loop",
      (bench) => {
        bench.describe(0, BUFFER, 20, 1, 1);
        bench.describe(1, BUFFER, 20, 1, 0);
        bench.offer(0);
      },
    ],
    [
      "what may be read behind what may be written",
      (bench) => {
        bench.describe(0, BUFFER, 20, 3, 1);
        bench.describe(1, BUFFER, 20, 0);
        bench.offer(0);
      },
    ],
    [
      "more buffers than the ring has",
      (bench) => {
        bench.words(AVAIL, (SIZE + 1) * 65536);
        bench.device.write32(REG.notify, 0);
      },
    ],
    [
      "a request that is not in memory",
      (bench) => {
        bench.describe(0, 64 * MIB, 20, 1, 1);
        bench.describe(1, BUFFER, 4, 2);
        bench.offer(0);
      },
    ],
    ["an empty indirect table", (bench) => indirect(bench, 0)],
    ["an indirect table of a half descriptor", (bench) => indirect(bench, 24)],
    ["an indirect table that ends in mid-chain", (bench) => indirect(bench, 16)],
    ["an indirect table with a next one", (bench) => indirect(bench, 32, 5)],
    [
      "an indirect table in an indirect table",
      (bench) => {
        bench.words(MIB, MIB, 0, 16, 4);
        bench.describe(0, MIB, 16, 4);
        bench.offer(0);
      },
    ],
  ])("%s breaks the device until it is reset", (_, spoil) => {
    const bench = prepared();
    spoil(bench);
    expect(bench.status).toBe(15 | NEEDS_RESET);
    expect(bench.device.read32(REG.interrupt)).toBe(2);
    expect(bench.device.occupancy.domains).toBe(0);
    bench.statusOf(attach(1, 8));
    expect(bench.used().index).toBe(0);
    bench.start(INDIRECT);
    expect(bench.statusOf(attach(1, 8))).toBe(0);
    expect(bench.status).toBe(15);
  });

  it("an indirect table that was not negotiated, or rings that are not in memory, break it too", () => {
    const bench = prepared(0x04);
    indirect(bench, 32);
    expect(bench.status).toBe(15 | NEEDS_RESET);
    const lost = new Workbench().negotiate(0x04);
    lost.device.write32(0x84, 1);
    lost.device.write32(0x94, 1);
    lost.device.write32(0xa4, 1);
    lost.device.write32(0x44, 1);
    lost.device.write32(REG.status, 15);
    expect(lost.status).toBe(15 | NEEDS_RESET);
  });

  it("garbage in rings, buffers and registers is answered or breaks the device, and is never thrown", () => {
    const write = fc.oneof(
      fc.record({ area: fc.constantFrom(DESC, AVAIL, USED, BUFFER), word: fc.nat(40), value: fc.nat(0xffffffff) }),
      fc.record({ area: fc.constantFrom(DESC, AVAIL), word: fc.nat(20), value: fc.nat(0xfffff) }),
    );
    const step = fc.oneof(
      { weight: 4, arbitrary: write },
      { weight: 2, arbitrary: fc.record({ notify: fc.nat(2), head: fc.nat(9) }) },
      { weight: 1, arbitrary: fc.record({ register: fc.nat(0x7f), value: fc.nat(0xffff) }) },
      {
        weight: 1,
        arbitrary: fc.record({ address: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), write: fc.boolean() }),
      },
    );
    fc.assert(
      fc.property(fc.array(step, { minLength: 10, maxLength: 80 }), (steps) => {
        const bench = prepared();
        for (const each of steps) {
          if ("area" in each) bench.words(each.area + each.word * 4, each.value);
          else if ("notify" in each) bench.offer(each.head, each.notify % 2);
          else if ("register" in each) bench.device.write32(each.register * 4, each.value);
          else bench.dma(8, each.address, each.write);
          expect(bench.status & ~0xff).toBe(0);
        }
        bench.start(INDIRECT);
        expect(bench.statusOf(attach(1, 8))).toBe(0);
      }),
      { numRuns: 300 },
    );
  });
});
