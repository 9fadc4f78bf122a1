import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { CaseFileError, type DmaResult, type Header, type Phase, parseCaseFile, type ReplayCase } from "./case.ts";
import { compareCase, describeDifference, verdict } from "./compare.ts";
import { compareLog, type LogVerdict } from "./compare-log.ts";

/** Both stages, 16-bit tags, no substreams, no stalls, 44-bit addresses: chosen by hand. */
const header: Header = {
  header: true,
  format: 1,
  regs: {
    IDR0: "0xd44101b",
    IDR1: "0x2730010",
    IDR2: "0x0",
    IDR3: "0x1414",
    IDR4: "0x0",
    IDR5: "0x74",
    IIDR: "0x0",
    AIDR: "0x1",
    GBPA: "0x1000",
  },
  ram: [["0x40000000", "0x10000000"]],
};

const STREAM = 8;
const STE = "0x40000200";
const EVENTQ = 0x40200000;
const setup: Phase["setup"] = [
  ["w", "0x2c", 4, "0x2"],
  ["w", "0x80", 8, "0x40000000"],
  ["w", "0x88", 4, "0x8"],
  ["w", "0x90", 8, "0x40100004"],
  ["w", "0xa0", 8, `0x${(EVENTQ + 4).toString(16)}`],
  ["w", "0x20", 4, "0xd"],
];
const registers = {
  GERROR: "0x0",
  GERRORN: "0x0",
  CR0ACK: "0xd",
  CMDQ_PROD: "0x0",
  CMDQ_CONS: "0x0",
  EVENTQ_PROD: "0x0",
  EVENTQ_CONS: "0x0",
};

function read(
  iova: string,
  expected: DmaResult,
  more: object = {},
): { dma: Phase["dma"][number]; expected: DmaResult } {
  return { dma: { sid: STREAM, ssid: null, iova, len: 4, write: false, ...more }, expected };
}

function makeCase(
  mem: Phase["mem"],
  accesses: readonly { dma: Phase["dma"][number]; expected: DmaResult }[],
  end: Partial<typeof registers> = {},
  more: Partial<ReplayCase> = {},
): ReplayCase {
  return {
    name: "by-hand",
    group: "ste",
    mem,
    setup,
    dma: accesses.map(({ dma }) => dma),
    expect: { dma: accesses.map(({ expected }) => expected), ...registers, ...end },
    ...more,
  };
}

/** The case with further phases, under a key that in an object's text would look like a promise. */
function withPhases(replayCase: ReplayCase, ...phases: Phase[]): ReplayCase {
  const key: keyof ReplayCase = "then";
  return { ...replayCase, [key]: phases };
}

const bypass: Phase["mem"][number] = [STE, "0900000000000000"];
const through = { ok: true, pa: ["0x41000000"], data: "0badcafe", events: [] };
const data: Phase["mem"][number] = ["0x41000000", "0badcafe"];
const badSte = { ok: false, pa: [], events: [["0x800000004", "0x0", "0x0", "0x0"]] };

describe("a case that the model agrees with", () => {
  test("bypass, read and write", () => {
    const write = {
      dma: { sid: STREAM, ssid: null, iova: "0x41000010", len: 2, write: true, data: "aabb" },
      expected: { ok: true, pa: ["0x41000010"], found: [["0x41000010", "aabb"] as const], events: [] },
    };
    expect(compareCase(header, makeCase([bypass, data], [read("0x41000000", through), write]))).toEqual([]);
  });

  test("an access that crosses a page counts as one run, however it was split", () => {
    const crossing = { ok: true, pa: ["0x41000ffe", "0x41001000"], data: "00000000", events: [] };
    expect(compareCase(header, makeCase([bypass], [read("0x41000ffe", crossing)]))).toEqual([]);
    expect(compareCase(header, makeCase([bypass], [read("0x41000ffe", { ...crossing, pa: ["0x41000ffe"] })]))).toEqual(
      [],
    );
  });

  test("an invalid STE, with its event", () => {
    const invalid = makeCase([], [read("0x41000000", badSte)], { EVENTQ_PROD: "0x1" });
    expect(compareCase(header, invalid)).toEqual([]);
  });

  test("the low bits of the IPA do not count in a stage 2 translation fault", () => {
    // Stage 2: 4 KiB granule, 39 bits, level 1, an empty table.
    const stage2: Phase["mem"][number] = [
      STE,
      "0d000000000000000000000000000000" + "0100000059000c04" + "0000204100000000",
    ];
    const event = ["0x800000010", "0x28800000000", "0x12345678", "0x12345678"];
    const fault = makeCase([stage2], [read("0x12345678", { ok: false, pa: [], events: [event] })], {
      EVENTQ_PROD: "0x1",
    });
    expect(compareCase(header, fault)).toEqual([]);
    const other = [...event.slice(0, 3), "0x12346678"];
    const wrong = makeCase([stage2], [read("0x12345678", { ok: false, pa: [], events: [other] })], {
      EVENTQ_PROD: "0x1",
    });
    expect(compareCase(header, wrong).map(({ field }) => field)).toEqual(["events"]);
  });

  test("CMDQ_CONS.ERR counts only while its error is active", () => {
    const acknowledged = makeCase([bypass], [], {
      GERROR: "0x1",
      GERRORN: "0x1",
      CMDQ_PROD: "0x1",
      CMDQ_CONS: "0x2000001",
    });
    const commands: Phase["setup"] = [["c", "0xff", "0x0"], ["d"], ["w", "0x64", 4, "0x1"]];
    // The bad command is still there: the error comes back.
    const again = { ...acknowledged, setup: [...setup, ...commands] };
    expect(compareCase(header, again).map(({ field }) => field)).toEqual(["GERROR", "CMDQ_CONS"]);
    const repair: Phase = {
      mem: [["0x40100000", "4600000000000000"]],
      setup: [["w", "0x64", 4, "0x1"]],
      dma: [],
      expect: { ...acknowledged.expect, dma: [] },
    };
    const error = { GERROR: "0x1", CMDQ_PROD: "0x1", CMDQ_CONS: "0x1000000" };
    const broken = makeCase([bypass], [], error, { setup: [...setup, ["c", "0xff", "0x0"], ["d"]] });
    expect(compareCase(header, withPhases(broken, repair))).toEqual([]);
  });

  test("a stale answer is not compared, nor the number of events from there on", () => {
    const change: Phase = {
      mem: [[STE, "0000000000000000"]],
      setup: [],
      dma: [read("0x41000000", through, { stale_ok: true }).dma],
      expect: { ...registers, EVENTQ_PROD: "0x7", dma: [{ ...through, data: "00000000" }] },
    };
    const first = makeCase([bypass, data], [read("0x41000000", through)]);
    expect(compareCase(header, withPhases(first, change))).toEqual([]);
  });
});

describe("a case that it does not agree with", () => {
  const wrong = makeCase([], [read("0x41000000", through)]);

  test("is told by place and field, with the model's own words", () => {
    const differences = compareCase(header, wrong);
    expect(differences.map(({ phase, dma, field, wanted, got }) => [phase, dma, field, wanted, got])).toEqual([
      [1, 1, "ok", "true", "false"],
      [1, 1, "events", "none", "C_BAD_STE [0x800000004 0x0 0x0 0x0]"],
      [1, 1, "pa", "0x41000000+4", "none"],
      [1, undefined, "EVENTQ_PROD", "0x0", "0x1"],
    ]);
    expect(describeDifference("by-hand", differences[0])).toBe(
      "by-hand: phase 1, DMA 1: ok: wanted true, got false\n" +
        "    read from 0x41000000 by stream 0x8: C_BAD_STE: STE at 0x40000200: V (bit 0) is 0",
    );
  });

  test("failed, or is a quirk where the recorder is known to differ", () => {
    expect(verdict(wrong, compareCase(header, wrong))).toBe("failed");
    expect(verdict({ ...wrong, qemu_quirk: "known" }, compareCase(header, wrong))).toBe("quirk");
    expect(verdict({ ...wrong, qemu_quirk: "known" }, [])).toBe("passed");
  });

  test("is a quirk without a mark if only bits differ that the recorder fills in its own way", () => {
    const bits = compareCase(header, wrong).map((difference) => ({ ...difference, isRecorderBits: true }));
    expect(verdict(wrong, bits)).toBe("quirk");
    expect(verdict(wrong, [...bits, { ...bits[0], isRecorderBits: false }])).toBe("failed");
  });

  test("is a quirk without a mark if the recorder takes an invalidation of a granule without range or level", () => {
    const command = (high: string): Phase["setup"] => [...setup, ["c", "0x12", high], ["c", "0x46", "0x0"], ["d"]];
    const taken = { CMDQ_PROD: "0x2", CMDQ_CONS: "0x2" };
    const idle = makeCase([bypass], [], taken, { setup: command("0x400") });
    expect(compareCase(header, idle).map(({ field }) => field)).toEqual(["GERROR", "CMDQ_CONS"]);
    expect(verdict(idle, compareCase(header, idle))).toBe("quirk");
    const levelled = makeCase([bypass], [], taken, { setup: command("0x700") });
    expect(compareCase(header, levelled)).toEqual([]);
    const wrong = makeCase([bypass], [], { ...taken, CMDQ_CONS: "0x1" }, { setup: command("0x400") });
    expect(verdict(wrong, compareCase(header, wrong))).toBe("failed");
  });

  test("is a quirk without a mark if the recorder takes TBI0 for the upper half too", () => {
    const words = (...values: bigint[]): string => Buffer.from(new BigUint64Array(values).buffer).toString("hex");
    const lower = 25n + 2n ** 14n; // T0SZ, EPD0
    const upper = 25n * 2n ** 16n + 2n * 2n ** 22n; // T1SZ, TG1 of 4 KiB
    const rest = 2n ** 31n + (4n + 0x40n + 0x200n + 0x6000n) * 2n ** 32n; // V; IPS, TBI0, AA64, R and A
    const memory: Phase["mem"] = [
      [STE, words(0xbn + 0x40300000n)],
      ["0x40300000", words(lower + upper + rest, 0n, 0x40301000n)],
      ["0x40301ff8", words(0x40000441n)],
      data,
    ];
    const access = { ...through, pa: ["0x41000000"] };
    const ignored = makeCase(memory, [read("0xb3ffffffc1000000", access)]);
    expect(compareCase(header, makeCase(memory, [read("0xffffffffc1000000", access)]))).toEqual([]);
    expect(verdict(ignored, compareCase(header, ignored))).toBe("quirk");
    const elsewhere = makeCase(memory, [read("0xb3ffffffc2000000", access)]);
    expect(verdict(elsewhere, compareCase(header, elsewhere))).toBe("failed");
  });
});

describe("case files", () => {
  const line = JSON.stringify(makeCase([bypass, data], [read("0x41000000", through)]));
  const headerLine = JSON.stringify(header);

  test("a header and cases", () => {
    const { cases } = parseCaseFile("f", `${headerLine}\n${line}\n\n${line}\n`);
    expect(cases).toHaveLength(2);
  });

  test("a header and the steps of a log, each with its place", () => {
    const { log } = parseCaseFile("f", `${headerLine}\n{"op":"reset"}\n\n{"op":"w","off":"0x20","val":1}\n`);
    expect(log.map(({ place, step }) => [place, step.op])).toEqual([
      ["f:2", "reset"],
      ["f:4", "w"],
    ]);
  });

  test.each<[string, string]>([
    [`${headerLine}\n{"op":"x"}`, 'f:2: not a step: unknown op "x"'],
    [`${headerLine}\n{"op":"m","addr":1,"hex":"0"}`, "f:2: not a step: m needs addr and hex"],
    [`${headerLine}\n{"op":"dma","sid":1,"iova":0,"len":4,"write":true}`, "dma needs len bytes of data to write"],
    ["", "f: empty, where a header line was expected"],
    ["what", "f:1: not JSON"],
    [line, "f:1: not a case file"],
    [headerLine.replace('"0x10000000"', '"0x10000001"'), "f:1: not a case file"],
    [`${headerLine}\n{}`, "f:2: not a case: it has no name"],
    [`${headerLine}\n{"name":"x"}`, 'f:2: not a case: phase 1 of x: mem must be [["0x…", bytes], …]'],
    [`${headerLine}\n${line.replace('"w"', '"x"')}`, "setup has an unknown operation"],
    [`${headerLine}\n${line.replace('"GERROR"', '"GERR"')}`, "expect.GERROR is missing"],
  ])("mistake %#", (text, message) => {
    let error: unknown;
    try {
      parseCaseFile("f", text);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(CaseFileError);
    expect((error as CaseFileError).message).toContain(message);
  });
});

describe("a log", () => {
  const steps = (...lines: object[]): LogVerdict[] => {
    const text = [header, ...lines].map((line) => JSON.stringify(line)).join("\n");
    return compareLog(header, parseCaseFile("f", text).log);
  };
  const bypassed = [
    { op: "m", addr: STE, hex: bypass[1] },
    { op: "m", addr: 0x41000000, hex: data[1] },
    { op: "w", off: "0x80", size: 8, val: "0x40000000" },
    { op: "w", off: "0x88", val: 8 },
    { op: "w", off: 0x20, val: 1 },
  ];
  const dma = { op: "dma", sid: STREAM, iova: "0x41000000", len: 4, expect: { ok: true, data: through.data } };

  test("is run in order; registers are compared in the bits asked for", () => {
    const check = { op: "r", off: "0x24", val: "0xff01", mask: "0xff" };
    expect(steps(...bypassed, { op: "r", off: "0x24", val: 1 }, check, dma)).toEqual([{ differences: [] }]);
  });

  test("parts at each reset; memory stays if asked for", () => {
    const off = { op: "dma", sid: STREAM, iova: "0x41000000", len: 4, expect: { data: "00000000" } };
    const kept = { ...off, expect: { data: through.data } };
    const [first, second, third] = steps(...bypassed, dma, { op: "reset", clear: false }, kept, { op: "reset" }, kept);
    expect([first.differences, second.differences]).toEqual([[], []]);
    expect(third.differences).toEqual([`f:11: DMA: data: wanted ${through.data}, got 00000000`]);
  });
});

const recording = join(import.meta.dirname, "../../../../../shared/conformance/smmuv3/vectors-a.jsonl.gz");

test.skipIf(!existsSync(recording))(`all recorded cases of ${recording} (skipped if it is not there)`, () => {
  const text = new TextDecoder().decode(gunzipSync(readFileSync(recording)));
  const { header: recordedHeader, cases } = parseCaseFile("vectors-a", text);
  expect(cases.length).toBeGreaterThan(600);
  const failed = cases.filter((each) => verdict(each, compareCase(recordedHeader, each)) === "failed");
  expect(failed.map(({ name }) => name)).toEqual([]);
});
