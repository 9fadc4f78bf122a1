// Runs in a browser.
/** Compares a recorded case with the model, by the rules that come with the recordings ("How to compare"). */
import { eventName } from "../index.ts";
import {
  type Dma,
  type DmaResult,
  END_REGISTERS,
  type Header,
  type Operation,
  type Phase,
  type ReplayCase,
} from "./case.ts";
import { type DmaOutcome, type PhaseOutcome, type Piece, runPhases } from "./run.ts";

/** Something that the recording and the model say differently. */
export interface Difference {
  /** From 1 on. */
  readonly phase: number;
  /** Index of the DMA in its phase, from 1 on; undefined for a register at the end of the phase. */
  readonly dma: number | undefined;
  readonly field: string;
  readonly wanted: string;
  readonly got: string;
  /** The model's own words for the faults of this DMA. */
  readonly explanation: string;
  /** True if it lies in bits alone that the recorder fills in its own way wherever they occur, mark or no mark. */
  readonly isRecorderBits: boolean;
}

/** Runs a case on a fresh model. No difference: they agree. */
export function compareCase(header: Header, replayCase: ReplayCase): Difference[] {
  const phases: readonly Phase[] = [replayCase, ...(replayCase.then ?? [])];
  const differences = comparePhases(header, phases);
  if (differences.length === 0) return differences;
  const views = [withoutTopBytes(phases), withoutIdleGranules(phases)];
  const isRecorders = views.some((view) => view !== undefined && comparePhases(header, view).length === 0);
  return isRecorders ? differences.map((difference) => ({ ...difference, isRecorderBits: true })) : differences;
}

/**
 * The recorder ignores the top byte of an address of the upper half where TBI0 is 1, which is about the lower half: see
 * docs/smmuv3-quirks.md. The phases with such bytes filled up with bit 55, or undefined if there are none.
 */
function withoutTopBytes(phases: readonly Phase[]): Phase[] | undefined {
  let found = false;
  const canonical = (dma: Dma): Dma => {
    const address = BigInt(dma.iova);
    const filledUp = 0xff80_0000_0000_0000n + (address % 2n ** 55n);
    if ((address / 2n ** 55n) % 2n === 0n || address === filledUp) return dma;
    found = true;
    return { ...dma, iova: `0x${filledUp.toString(16)}` };
  };
  const changed = phases.map((phase) => ({ ...phase, dma: phase.dma.map(canonical) }));
  return found ? changed : undefined;
}

const TLBI_BY_ADDRESS: readonly bigint[] = [0x12n, 0x13n, 0x2an];
const GRANULE = 0xc00n;
const LEVEL = 0x300n;
const RANGE = 0x03f1_f000n;

/**
 * The recorder takes an invalidation that names a granule, but neither range nor level, which is illegal: see
 * docs/smmuv3-quirks.md. The phases with no granule in such commands, or undefined if there are none.
 */
function withoutIdleGranules(phases: readonly Phase[]): Phase[] | undefined {
  let found = false;
  const legal = (operation: Operation): Operation => {
    if (operation[0] !== "c") return operation;
    const [low, high] = [BigInt(operation[1]), BigInt(operation[2])];
    const isIdle = (high & GRANULE) !== 0n && (high & LEVEL) === 0n && (low & RANGE) === 0n;
    if (!isIdle || !TLBI_BY_ADDRESS.includes(low & 0xffn)) return operation;
    found = true;
    return ["c", operation[1], `0x${(high - (high & GRANULE)).toString(16)}`];
  };
  const changed = phases.map((phase) => ({ ...phase, setup: phase.setup.map(legal) }));
  return found ? changed : undefined;
}

function comparePhases(header: Header, phases: readonly Phase[]): Difference[] {
  const outcomes = runPhases(header, phases);
  const differences: Difference[] = [];
  // Rule 4: where an answer may be stale, the model may have more events than the recording from then on.
  let countsEvents = true;
  for (const [index, phase] of phases.entries()) {
    if (phase.dma.some((dma) => dma.stale_ok)) countsEvents = false;
    differences.push(...comparePhase(index + 1, phase, outcomes[index], countsEvents));
  }
  return differences;
}

function comparePhase(phaseNumber: number, phase: Phase, outcome: PhaseOutcome, countsEvents: boolean): Difference[] {
  const differences: Difference[] = [];
  for (const [index, dma] of phase.dma.entries()) {
    if (dma.stale_ok) continue;
    const got = outcome.dma[index];
    const explanation = got.explanations.join("; ");
    for (const [field, wanted, mine] of dmaFields(dma, phase.expect.dma[index], got)) {
      if (wanted === mine) continue;
      const isRecorderBits = field === "events" && differInRecorderBits(phase.expect.dma[index], got);
      differences.push({ phase: phaseNumber, dma: index + 1, field, wanted, got: mine, explanation, isRecorderBits });
    }
  }
  const wantedGerror = Number(phase.expect.GERROR) ^ Number(phase.expect.GERRORN);
  for (const field of END_REGISTERS) {
    if (field === "EVENTQ_PROD" && !countsEvents) continue;
    // Rule 3: the error of the command queue means something only while CMDQ_ERR is active.
    const mask = field === "CMDQ_CONS" && (wantedGerror & 1) === 0 ? 0x80ffffff : 0xffffffff;
    const wanted = hex((Number(phase.expect[field]) & mask) >>> 0);
    const got = hex((outcome.registers[field] & mask) >>> 0);
    if (wanted === got) continue;
    differences.push({
      phase: phaseNumber,
      dma: undefined,
      field,
      wanted,
      got,
      explanation: "",
      isRecorderBits: false,
    });
  }
  return differences;
}

/** The fields of one DMA as `[name, wanted, got]` in words. */
function dmaFields(dma: Dma, wanted: DmaResult, got: DmaOutcome): [string, string, string][] {
  const fields: [string, string, string][] = [
    ["ok", String(wanted.ok), String(got.ok)],
    ["events", eventsText(wanted.events.map((event) => event.map(BigInt))), eventsText(got.events)],
    ["pa", piecesText(wantedPieces(dma, wanted.pa)), piecesText(got.pieces)],
  ];
  if (dma.write) {
    const found = (wanted.found ?? []).map(([pa, bytes]) => ({ physical: Number(pa), length: bytes.length / 2 }));
    fields.push(["found", piecesText(found), piecesText(got.ok ? got.pieces : [])]);
    fields.push(["found bytes", (wanted.found ?? []).map(([, bytes]) => bytes).join(""), got.ok ? got.data : ""]);
  } else if (wanted.ok && got.ok) {
    fields.push(["data", wanted.data ?? "", got.data]);
  }
  return fields;
}

const PAGE = 4096;

/** In the high half of word 1: RnW, S2, CLASS, TTRnW (IHI 0070 §7.3.13). */
const RNW = 0x8;
const STAGE2 = 0x80;
const CLASS = 0x300;
const CLASS_INPUT = 0x200;
const TTRNW = 0x1000;

/**
 * The kind `ipa_field` of docs/smmuv3-quirks.md: in a stage 2 fault on a CD or a stage 1 table the recorder's RnW and
 * TTRnW are not the architecture's.
 */
function differInRecorderBits({ events: wanted }: DmaResult, { events: got }: DmaOutcome): boolean {
  const masked = (words: readonly bigint[]): string => {
    const high = Number(words[1] / 2n ** 32n);
    const isFetch = (high & STAGE2) !== 0 && (high & CLASS) !== CLASS_INPUT;
    const kept = isFetch ? high & ~(RNW | TTRNW) : high;
    return eventsText([[words[0], (words[1] % 2n ** 32n) + BigInt(kept) * 2n ** 32n, words[2], words[3]]]);
  };
  return wanted.map((event) => masked(event.map(BigInt))).join() === got.map(masked).join();
}

/** The recording splits at 4 KiB of the input address, if at all. */
function wantedPieces(dma: Dma, addresses: readonly string[]): Piece[] {
  const offset = Number(BigInt(dma.iova) % BigInt(PAGE));
  return addresses.map((address, index) => {
    const start = index === 0 ? 0 : index * PAGE - offset;
    const end = addresses.length === 1 ? dma.len : Math.min((index + 1) * PAGE - offset, dma.len);
    return { physical: Number(address), length: end - start };
  });
}

/** Neighbouring pieces count as one: recording and model split differently. */
function piecesText(pieces: readonly Piece[]): string {
  const merged: { physical: number; length: number }[] = [];
  for (const { physical, length } of pieces) {
    const last = merged.at(-1);
    if (last !== undefined && last.physical + last.length === physical) last.length += length;
    else merged.push({ physical, length });
  }
  return merged.map(({ physical, length }) => `${hex(physical)}+${length}`).join(" ") || "none";
}

/** Rule 2: bits 11:0 of word 3 do not count in translation faults. */
export function eventsText(events: readonly (readonly bigint[])[]): string {
  const texts = events.map((words) => {
    const event = Number(words[0] % 256n);
    const last = event >= 0x10 && event <= 0x13 ? words[3] - (words[3] % 4096n) : words[3];
    const shown = [words[0], words[1], words[2], last].map((word) => `0x${word.toString(16)}`);
    return `${eventName(event)} [${shown.join(" ")}]`;
  });
  return texts.join(", ") || "none";
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** For people: one line, the explanation on a second. */
export function describeDifference(name: string, difference: Difference): string {
  const { phase, dma, field, wanted, got, explanation } = difference;
  const place = dma === undefined ? `phase ${phase}` : `phase ${phase}, DMA ${dma}`;
  const why = explanation === "" ? "" : `\n    ${explanation}`;
  return `${name}: ${place}: ${field}: wanted ${wanted}, got ${got}${why}`;
}

/** How a case ended: a disagreement where the recorder is known, or thought, to differ is a quirk. */
export type Verdict = "passed" | "failed" | "quirk";

export function verdict(replayCase: ReplayCase, differences: readonly Difference[]): Verdict {
  if (differences.length === 0) return "passed";
  const isKnown = replayCase.qemu_quirk !== undefined || differences.every((difference) => difference.isRecorderBits);
  return isKnown ? "quirk" : "failed";
}
