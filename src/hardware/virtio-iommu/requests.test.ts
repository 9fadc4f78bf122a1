import { describe, expect, it } from "vitest";
import { attach, detach, map, probe, unmap, Workbench } from "./workbench.test-support.ts";

const [OK, UNSUPP, INVAL, RANGE, NOENT] = [0, 2, 4, 5, 6];
const PAGE = 0x1000n;

describe("requests", () => {
  it("are read and answered bit for bit", () => {
    const bench = new Workbench().start(0x34);
    // prettier-ignore
    const attachBytes = [1, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    expect(attach(7, 8)).toEqual(attachBytes);
    expect(bench.send(attachBytes)).toEqual({ answer: [0, 0, 0, 0], written: 4 });
    const mapBytes = [
      ...[3, 0, 0, 0, 7, 0, 0, 0],
      ...[0, 0x10, 0, 0, 1, 0, 0, 0],
      ...[0xff, 0x2f, 0, 0, 1, 0, 0, 0],
      ...[0, 0, 8, 0, 0, 0, 0, 0],
      ...[1, 0, 0, 0],
    ];
    expect(bench.send(mapBytes)).toEqual({ answer: [0, 0, 0, 0], written: 4 });
    expect(bench.device.translate(8, 0x1_0000_2345n, false)).toEqual({ physical: 0x81345, reach: 0xcbb });
    expect(bench.device.translate(8, 0x1_0000_2345n, true)).toBeUndefined();
    const unmapBytes = [...[4, 0, 0, 0, 7, 0, 0, 0], ...mapBytes.slice(8, 24), ...[0, 0, 0, 0]];
    expect(bench.send(unmapBytes)).toEqual({ answer: [0, 0, 0, 0], written: 4 });
    expect(bench.device.translate(8, 0x1_0000_2345n, false)).toBeUndefined();
    const detachBytes = [2, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    expect(bench.send(detachBytes)).toEqual({ answer: [0, 0, 0, 0], written: 4 });
    expect(bench.device.occupancy).toEqual({ domains: 0, mappings: 0 });
  });

  it("ATTACH: unknown flags, endpoints and ids are refused, and nothing has changed", () => {
    const bench = new Workbench({ domainRange: { first: 2, last: 9 } }).start(0x06);
    expect(bench.statusOf(attach(2, 8, 1))).toBe(INVAL);
    expect(bench.statusOf(attach(2, 8, 2))).toBe(INVAL);
    expect(bench.statusOf(attach(2, 8, 0, 1))).toBe(INVAL);
    expect(bench.statusOf(attach(2, 9))).toBe(NOENT);
    expect(bench.statusOf(attach(1, 8))).toBe(RANGE);
    expect(bench.statusOf(attach(10, 8))).toBe(RANGE);
    expect(bench.device.occupancy.domains).toBe(0);
    expect(bench.statusOf(attach(9, 8))).toBe(OK);
  });

  it("ATTACH elsewhere detaches; a domain's last endpoint takes its mappings along", () => {
    const bench = new Workbench().start(0x04);
    bench.statusOf(attach(1, 8));
    bench.statusOf(map(1, 0n, 0xfffn, 0x8000n));
    expect(bench.statusOf(attach(1, 8))).toBe(OK);
    expect(bench.device.occupancy).toEqual({ domains: 1, mappings: 1 });
    bench.statusOf(attach(1, 16));
    bench.statusOf(attach(2, 8));
    expect(bench.device.occupancy).toEqual({ domains: 2, mappings: 1 });
    bench.statusOf(attach(2, 16));
    expect(bench.device.occupancy).toEqual({ domains: 1, mappings: 0 });
    expect(bench.statusOf(map(1, 0n, 0xfffn, 0x8000n))).toBe(NOENT);
  });

  it("bypass domains translate nothing, and are no place for mappings or for others", () => {
    const bench = new Workbench({ bypass: false }).start(0x44);
    expect(bench.statusOf(attach(1, 8, 1))).toBe(OK);
    expect(bench.device.translate(8, 0x1234n, true)?.physical).toBe(0x1234);
    expect(bench.statusOf(map(1, 0n, 0xfffn, 0n))).toBe(INVAL);
    expect(bench.statusOf(unmap(1, 0n, 0xfffn))).toBe(INVAL);
    expect(bench.statusOf(attach(1, 16))).toBe(INVAL);
    bench.statusOf(attach(2, 16));
    expect(bench.statusOf(attach(2, 8, 1))).toBe(INVAL);
  });

  it("DETACH: only from where the endpoint is", () => {
    const bench = new Workbench().start(0x04);
    bench.statusOf(attach(1, 8));
    bench.statusOf(attach(2, 16));
    expect(bench.statusOf(detach(1, 9))).toBe(NOENT);
    expect(bench.statusOf(detach(3, 8))).toBe(INVAL);
    expect(bench.statusOf(detach(2, 8))).toBe(INVAL);
    expect(bench.statusOf(detach(1, 8))).toBe(OK);
    expect(bench.statusOf(detach(1, 8))).toBe(INVAL);
  });

  it("DETACH ignores its reserved field", () => {
    const bench = new Workbench().start(0x04);
    bench.statusOf(attach(1, 8));
    expect(bench.statusOf(detach(1, 8, 1n))).toBe(OK);
  });

  it("MAP: domain, flags, alignment, range and overlap", () => {
    const bench = new Workbench({ inputRange: { start: 0x10000n, last: 0xffff_ffffn } }).start(0x05);
    expect(bench.statusOf(map(1, 0x10000n, 0x10fffn, 0n))).toBe(NOENT);
    bench.statusOf(attach(1, 8));
    expect(bench.statusOf(map(1, 0x10000n, 0x10fffn, 0n, 8))).toBe(INVAL);
    expect(bench.statusOf(map(1, 0x10000n, 0x10fffn, 0n, 4))).toBe(INVAL);
    expect(bench.statusOf(map(1, 0x10000n, 0xffffn, 0n))).toBe(INVAL);
    for (const [start, last, physical] of [
      [0x10001n, 0x10fffn, 0n],
      [0x10000n, 0x10ffen, 0n],
      [0x10000n, 0x10fffn, 1n],
      [0xf000n, 0x10fffn, 0n],
      [0x10000n, 0x1_0000_0fffn, 0n],
    ]) {
      expect(bench.statusOf(map(1, start, last, physical))).toBe(RANGE);
    }
    expect(bench.statusOf(map(1, 0x10000n, 0x11fffn, 0n))).toBe(OK);
    expect(bench.statusOf(map(1, 0x11000n, 0x12fffn, 0n))).toBe(INVAL);
    expect(bench.device.occupancy.mappings).toBe(1);
  });

  it("MAP: no address of a reserved region", () => {
    const reserved = [{ kind: "msi", start: 0x800_0000n, last: 0x80f_ffffn }] as const;
    const bench = new Workbench({}, { reserved }).start(0x04);
    bench.statusOf(attach(1, 8));
    expect(bench.statusOf(map(1, 0x7ff_f000n, 0x800_0fffn, 0n))).toBe(INVAL);
    expect(bench.statusOf(map(1, 0x80f_f000n, 0x80f_ffffn, 0n))).toBe(INVAL);
    expect(bench.statusOf(map(1, 0x7ff_f000n, 0x7ff_ffffn, 0n))).toBe(OK);
    expect(bench.statusOf(map(1, 0x810_0000n, 0x810_0fffn, 0n))).toBe(OK);
    const untold = new Workbench({ probe: false }, { reserved }).start(0x04);
    untold.statusOf(attach(1, 8));
    expect(untold.statusOf(map(1, 0x800_0000n, 0x800_0fffn, 0n))).toBe(OK);
  });

  it("MAP: the whole of 64 bits in one mapping", () => {
    const bench = new Workbench().start(0x04);
    bench.statusOf(attach(1, 8));
    expect(bench.statusOf(map(1, 0n, 2n ** 64n - 1n, 0n))).toBe(OK);
    expect(bench.device.translate(8, 0xffff_f000n, false)?.physical).toBe(0xffff_f000);
  });

  // The examples of §5.13.6.6, in pages.
  it.each([
    ["nothing", [], [0, 4], OK, 0],
    ["one of one", [[0, 8]], [0, 8], OK, 0],
    [
      "two neighbours",
      [
        [0, 4],
        [5, 9],
      ],
      [0, 9],
      OK,
      0,
    ],
    ["half of one", [[0, 8]], [0, 4], RANGE, 1],
    [
      "the first of two",
      [
        [0, 4],
        [5, 9],
      ],
      [0, 4],
      OK,
      1,
    ],
    ["one and the gap behind it", [[0, 4]], [0, 9], OK, 0],
    [
      "two with a gap",
      [
        [0, 4],
        [10, 14],
      ],
      [0, 14],
      OK,
      0,
    ],
    [
      "one whole, one half",
      [
        [0, 4],
        [5, 9],
      ],
      [0, 7],
      RANGE,
      2,
    ],
  ] as [string, number[][], number[], number, number][])("UNMAP of %s", (_, mapped, [from, to], status, left) => {
    const bench = new Workbench().start(0x04);
    bench.statusOf(attach(1, 8));
    const range = ([first, last]: number[]): [bigint, bigint] => [BigInt(first) * PAGE, BigInt(last + 1) * PAGE - 1n];
    for (const pages of mapped) expect(bench.statusOf(map(1, ...range(pages), 0n))).toBe(OK);
    expect(bench.statusOf(unmap(1, ...range([from, to])))).toBe(status);
    expect(bench.device.occupancy.mappings).toBe(left);
  });

  it("UNMAP: no domain, reserved bits, a range that ends before it begins", () => {
    const bench = new Workbench().start(0x04);
    expect(bench.statusOf(unmap(1, 0n, 0xfffn))).toBe(NOENT);
    bench.statusOf(attach(1, 8));
    expect(bench.statusOf(unmap(1, 0n, 0xfffn, 1))).toBe(INVAL);
    expect(bench.statusOf(unmap(1, 0x1000n, 0n))).toBe(INVAL);
  });

  it("PROBE: properties, zeros, status", () => {
    const reserved = [
      { kind: "msi", start: 0x800_0000n, last: 0x80f_ffffn },
      { kind: "reserved", start: 2n ** 40n, last: 2n ** 40n + 0xfffn },
    ] as const;
    const bench = new Workbench({}, { reserved }).start(0x14);
    const { answer, written } = bench.send(probe(8), 516);
    expect(written).toBe(516);
    expect(answer.slice(0, 52)).toEqual([
      ...[1, 0, 20, 0, 1, 0, 0, 0],
      ...[0, 0, 0, 8, 0, 0, 0, 0, 0xff, 0xff, 0xf, 8, 0, 0, 0, 0],
      ...[1, 0, 20, 0, 0, 0, 0, 0],
      ...[0, 0, 0, 0, 0, 1, 0, 0, 0xff, 0xf, 0, 0, 0, 1, 0, 0],
      ...[0, 0, 0, 0],
    ]);
    expect(answer.slice(52).every((byte) => byte === 0)).toBe(true);
    expect(bench.send(probe(9), 516).answer[512]).toBe(NOENT);
    expect(bench.send(probe(8), 12)).toEqual({ answer: [...new Array(8).fill(0), INVAL, 0, 0, 0], written: 12 });
    expect(bench.send(probe(8).slice(0, 71), 516).answer[512]).toBe(INVAL);
  });

  it("a request that is not negotiated, too short, unknown, or without room for an answer", () => {
    const bench = new Workbench().start(0x00);
    bench.statusOf(attach(1, 8));
    expect(bench.statusOf(map(1, 0n, 0xfffn, 0n))).toBe(UNSUPP);
    expect(bench.statusOf(attach(1, 8).slice(0, 19))).toBe(INVAL);
    const untouched = [0xee, 0xee, 0xee, 0xee];
    expect(bench.send([9, 0, 0, 0])).toEqual({ answer: untouched, written: 0 });
    const withoutProbe = new Workbench({ probe: false }).start(0x04);
    expect(withoutProbe.send(probe(8))).toEqual({ answer: untouched, written: 0 });
    expect(bench.send([])).toEqual({ answer: untouched, written: 0 });
    expect(bench.send(attach(1, 8), 3)).toEqual({ answer: untouched.slice(1), written: 0 });
    expect(bench.status).toBe(15);
  });
});
