// Runs in a browser.
/** Runs a driver's log on the model, and compares what the log says that the driver and its devices saw. */
import type { Header } from "./case.ts";
import { eventsText } from "./compare.ts";
import type { LogDma, LogRead, LogStep, Number64, PlacedStep } from "./log.ts";
import { fromHex, RecordingRun } from "./run.ts";

/** What a part of a log, from one reset to the next, came to. */
export interface LogVerdict {
  /** One line for each difference; the explanation of a fault on a second. */
  readonly differences: readonly string[];
}

/** A log without a reset is one part. */
export function compareLog(header: Header, log: readonly PlacedStep[]): LogVerdict[] {
  const verdicts: { differences: string[] }[] = [];
  let run = new RecordingRun(header);
  for (const { place, step } of log) {
    if (verdicts.length === 0 || step.op === "reset") verdicts.push({ differences: [] });
    if (step.op === "reset") run = new RecordingRun(header, step.clear === false ? run.memory : undefined);
    else verdicts.at(-1)!.differences.push(...perform(run, step).map((text) => `${place}: ${text}`));
  }
  return verdicts;
}

/** Performs one step, and tells what the log says differently. */
function perform(run: RecordingRun, step: Exclude<LogStep, { op: "reset" }>): string[] {
  switch (step.op) {
    case "m":
      run.memory.write(Number(step.addr), fromHex(step.hex));
      return [];
    case "mr":
      return [];
    case "w":
      run.operate(["w", hex(step.off), step.size ?? 4, hex(step.val)]);
      return [];
    case "c":
      run.operate(["c", hex(step.lo), hex(step.hi ?? 0)]);
      return [];
    case "d":
      run.operate(["d"]);
      return [];
    case "r":
      return read(run, step);
    case "dma":
      return access(run, step);
  }
}

function read(run: RecordingRun, { off, size = 4, val, mask }: LogRead): string[] {
  const got = run.readRegister(Number(off), size);
  if (val === undefined) return [];
  const isSame =
    mask === undefined ? got === BigInt(val) : BigInt.asUintN(64, got & BigInt(mask)) === (BigInt(val) & BigInt(mask));
  return isSame ? [] : [`register ${hex(off)}: wanted ${hex(val)}, got ${hex(String(got))}`];
}

function access(run: RecordingRun, { sid, ssid, iova, len, write = false, data, expect }: LogDma): string[] {
  const got = run.access({
    sid: Number(sid),
    ssid: ssid === undefined || ssid === null ? null : Number(ssid),
    iova: hex(iova),
    len: Number(len),
    write,
    data,
  });
  const differences: string[] = [];
  const compare = (field: string, wanted: string | undefined, mine: string): void => {
    if (wanted !== undefined && wanted !== mine) differences.push(`DMA: ${field}: wanted ${wanted}, got ${mine}`);
  };
  compare("ok", expect?.ok === undefined ? undefined : String(expect.ok), String(got.ok));
  if (!write) compare("data", expect?.data, got.data);
  compare(
    "events",
    expect?.events && eventsText(expect.events.map((event) => event.map(BigInt))),
    eventsText(got.events),
  );
  const why = got.explanations.map((text) => `\n    ${text}`).join("");
  return differences.map((difference) => difference + why);
}

function hex(value: Number64): string {
  return `0x${BigInt(value).toString(16)}`;
}
