/**
 * `uiommu smmuv3 replay FILE...`: runs recorded hardware cases and logs of drivers on the model alone, and prints each
 * difference and, last, `N passed, N failed, N quirks`. A log, or each part of it that begins with a reset, is one case.
 */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import {
  type CaseFile,
  CaseFileError,
  compareCase,
  compareLog,
  describeDifference,
  parseCaseFile,
  verdict,
} from "../hardware/smmuv3/replay/index.ts";
import { CommandError, reasonOf, type Terminal } from "./terminal.ts";

/** Exit statuses: all agree, some failed. */
const AGREED = 0;
const FAILED = 1;

/** The command. Files that cannot be used are a {@link CommandError}. */
export function replayCommand(files: readonly string[], terminal: Terminal): number {
  return replayFiles(files, (line) => terminal.out(`${line}\n`));
}

/** The same, with all that there is to say, line by line, to `print`; the exit status is 2 for files that cannot be used. */
export function replay(files: readonly string[], print: (line: string) => void): number {
  try {
    return replayFiles(files, print);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    print(`uiommu: ${error.message}`);
    return error.status;
  }
}

function replayFiles(files: readonly string[], print: (line: string) => void): number {
  if (files.length === 0) throw new CommandError("smmuv3 replay: no file given; wanted is FILE.jsonl or FILE.jsonl.gz");
  // All are read before the first runs: a mistake in the last is told at once.
  const loaded = files.map(load);
  const counts = { passed: 0, failed: 0, quirk: 0 };
  for (const { header, cases, log } of loaded) {
    for (const replayCase of cases) {
      const differences = compareCase(header, replayCase);
      const outcome = verdict(replayCase, differences);
      counts[outcome]++;
      if (outcome !== "failed") continue;
      for (const difference of differences) print(describeDifference(replayCase.name, difference));
    }
    for (const { differences } of compareLog(header, log)) {
      counts[differences.length === 0 ? "passed" : "failed"]++;
      for (const difference of differences) print(difference);
    }
  }
  print(`${counts.passed} passed, ${counts.failed} failed, ${counts.quirk} quirks`);
  return counts.failed === 0 ? AGREED : FAILED;
}

function load(file: string): CaseFile {
  try {
    return parseCaseFile(file, new TextDecoder().decode(decompressed(file, readBytes(file))));
  } catch (error) {
    if (error instanceof CaseFileError) throw new CommandError(error.message);
    throw error;
  }
}

function readBytes(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new CommandError(`cannot read ${file}: ${reasonOf(error as NodeJS.ErrnoException)}`);
  }
}

/** Gzip is recognised by its first two bytes, whatever the name. */
function decompressed(file: string, bytes: Uint8Array): Uint8Array {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  try {
    return gunzipSync(bytes);
  } catch {
    throw new CommandError(`${file}: damaged gzip data`);
  }
}
