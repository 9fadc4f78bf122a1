import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { main } from "./main.ts";
import { replay } from "./smmuv3-replay.ts";
import { scenarioNames } from "./smmuv3-scenario-names.ts";

async function uiommu(...commandLine: string[]): Promise<{ status: number; out: string; err: string }> {
  let out = "";
  let err = "";
  const terminal = {
    out: (text: string) => void (out += text),
    err: (text: string) => void (err += text),
    colours: false,
  };
  const status = await main(["smmuv3", "record", ...commandLine], terminal);
  return { status, out, err };
}

interface Step {
  op: string;
  addr?: string;
  hex?: string;
  write?: boolean;
  expect?: { ok: boolean; data?: string; events: string[][] };
}

const stepsOf = (log: string): Step[] =>
  log
    .trim()
    .split("\n")
    .slice(1)
    .map((line) => JSON.parse(line) as Step);

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "record-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function replayed(log: string): { status: number; printed: string[] } {
  const path = join(folder, "log.jsonl");
  writeFileSync(path, log);
  const printed: string[] = [];
  return { status: replay([path], (line) => printed.push(line)), printed };
}

describe.each(Object.keys(scenarioNames))("scenario %s", (name) => {
  test("our own model, which sees the log alone, does what it promises", async () => {
    const { status, out, err } = await uiommu(name);
    expect([status, err]).toEqual([0, ""]);
    expect(replayed(out)).toEqual({ status: 0, printed: ["1 passed, 0 failed, 0 quirks"] });
  });

  test("DMA is allowed and refused in it, and memory is written only where any machine has it", async () => {
    const steps = stepsOf((await uiommu(name)).out);
    const expectations = steps.filter(({ op }) => op === "dma").map(({ expect }) => expect!);
    expect(new Set(expectations.map(({ ok }) => ok))).toEqual(new Set([true, false]));
    for (const { addr, hex } of steps.filter(({ op }) => op === "m")) {
      expect(Number(addr)).toBeGreaterThanOrEqual(0x4200_0000);
      expect((Number(addr) % 4096) + hex!.length / 2).toBeLessThanOrEqual(4096);
    }
  });

  test("it is the same each time", async () => {
    expect((await uiommu(name)).out).toBe((await uiommu(name)).out);
  });
});

/** The log of `map` with one step, the first that `choose` takes, changed or left out. */
async function changed(choose: (step: Step) => boolean, change: (step: Step) => Step | undefined): Promise<string> {
  const [header, ...rest] = (await uiommu("map")).out.trim().split("\n");
  const steps = rest.map((line) => JSON.parse(line) as Step);
  const index = steps.findIndex(choose);
  const replacement = change(steps[index]);
  steps.splice(index, 1, ...(replacement === undefined ? [] : [replacement]));
  return [header, ...steps.map((step) => JSON.stringify(step))].join("\n");
}

describe("a log that is not true is found out", () => {
  const isRead = ({ op, expect }: Step): boolean => op === "dma" && expect!.data !== undefined;
  const isFault = ({ op, expect }: Step): boolean => op === "dma" && expect!.events.length > 0;

  test.each<[string, (step: Step) => boolean, (step: Step) => Step | undefined, RegExp]>([
    ["other data", isRead, (step) => ({ ...step, expect: { ...step.expect!, data: "00" } }), /: DMA: data: wanted 00/],
    [
      "another end",
      isRead,
      (step) => ({ ...step, expect: { ...step.expect!, ok: false } }),
      /ok: wanted false, got true/,
    ],
    [
      "no event",
      isFault,
      (step) => ({ ...step, expect: { ...step.expect!, events: [] } }),
      /wanted none, got F_TRANSLATION/,
    ],
    [
      "another register",
      ({ op }) => op === "r",
      (step) => ({ ...step, val: "0x1" }),
      /:\d+: register 0x0: wanted 0x1, got 0x/,
    ],
    [
      "a command that is missing",
      ({ op, hex }) => op === "m" && hex!.startsWith("03000000"),
      () => undefined,
      /wanted/,
    ],
  ])("%s", async (_, choose, change, message) => {
    const { status, printed } = replayed(await changed(choose, change));
    expect(status).toBe(1);
    expect(printed.join("\n")).toMatch(message);
    expect(printed.at(-1)).toBe("0 passed, 1 failed, 0 quirks");
  });
});

describe("what is typed", () => {
  test("an unknown scenario is one line that names those that there are, and status 2", async () => {
    const { status, out, err } = await uiommu("unmapp");
    expect([status, out]).toEqual([2, ""]);
    expect(err).toBe(
      `uiommu: smmuv3 record: there is no scenario "unmapp"; there are ${Object.keys(scenarioNames).join(", ")}\n`,
    );
  });

  test("the help lists the scenarios", async () => {
    const { status, out } = await uiommu("--help");
    expect(status).toBe(0);
    for (const [name, about] of Object.entries(scenarioNames)) {
      expect(out.split("\n").some((line) => line.startsWith(`  ${name} `) && line.endsWith(about))).toBe(true);
    }
  });
});
