import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { replay } from "./smmuv3-replay.ts";

const header = {
  header: true,
  format: 1,
  regs: Object.fromEntries(
    ["IDR1", "IDR2", "IDR3", "IDR4", "IIDR", "AIDR"]
      .map((name) => [name, "0x0"])
      .concat([
        ["IDR0", "0xd44101b"],
        ["IDR5", "0x74"],
        ["GBPA", "0x1000"],
      ]),
  ),
  ram: [["0x40000000", "0x200000"]],
};

/** With the SMMU off, a read of four zero bytes goes through. */
function offCase(name: string, ok: boolean): object {
  const registers = ["GERROR", "GERRORN", "CR0ACK", "CMDQ_PROD", "CMDQ_CONS", "EVENTQ_PROD", "EVENTQ_CONS"];
  return {
    name,
    group: "queue",
    mem: [],
    setup: [],
    dma: [{ sid: 8, ssid: null, iova: "0x40000000", len: 4, write: false }],
    expect: {
      dma: [{ ok, pa: ["0x40000000"], data: "00000000", events: [] }],
      ...Object.fromEntries(registers.map((register) => [register, "0x0"])),
    },
  };
}

function lines(...objects: object[]): string {
  return objects.map((object) => `${JSON.stringify(object)}\n`).join("");
}

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "replay-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

function run(...files: string[]): { status: number; printed: string[] } {
  const printed: string[] = [];
  return { status: replay(files, (line) => printed.push(line)), printed };
}

test("plain and gzipped files are run; the last line counts", () => {
  const plain = file("a.jsonl", lines(header, offCase("one", true)));
  const packed = file(
    "b.jsonl.gz",
    gzipSync(lines(header, offCase("two", true), { ...offCase("three", false), qemu_quirk: "x" })),
  );
  expect(run(plain, packed)).toEqual({ status: 0, printed: ["2 passed, 0 failed, 1 quirks"] });
});

test("a failure is told, and is status 1", () => {
  const { status, printed } = run(file("c.jsonl", lines(header, offCase("wrong", false))));
  expect(status).toBe(1);
  expect(printed).toEqual(["wrong: phase 1, DMA 1: ok: wanted false, got true", "0 passed, 1 failed, 0 quirks"]);
});

test("mistakes are one clear line and status 2, before anything runs", () => {
  const good = file("d.jsonl", lines(header, offCase("wrong", false)));
  const expectMistake = (path: string, message: RegExp): void => {
    const { status, printed } = run(good, path);
    expect(status).toBe(2);
    expect(printed).toHaveLength(1);
    expect(printed[0]).toMatch(message);
  };
  expectMistake(join(folder, "absent"), /^uiommu: cannot read .*absent: no such file or directory$/);
  expectMistake(folder, /: illegal operation on a directory$/);
  expectMistake(file("e.jsonl", "what"), /e\.jsonl:1: not JSON$/);
  expectMistake(file("f.jsonl", "[1]"), /f\.jsonl:1: not a case file/);
  expectMistake(file("g.jsonl.gz", Uint8Array.of(0x1f, 0x8b, 1, 2)), /g\.jsonl\.gz: damaged gzip data$/);
  expect(run().status).toBe(2);
});
