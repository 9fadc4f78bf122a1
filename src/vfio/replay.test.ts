import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { EduDevice } from "../hardware/devices/index.ts";
import { type RecordedLine, RecordedProgram } from "./replay.test-support.ts";
import { World } from "./world.test-support.ts";

const recording = join(import.meta.dirname, "../../../shared/conformance/golden/vfio/device.jsonl.gz");

/** The programs of a recording, by seed. */
function programs(text: string): Map<number, RecordedLine[]> {
  const bySeed = new Map<number, RecordedLine[]>();
  let lines: RecordedLine[] = [];
  for (const line of text.split("\n")) {
    if (line === "") continue;
    const parsed = JSON.parse(line);
    if ("seed" in parsed) bySeed.set(parsed.seed, (lines = []));
    else if ("op" in parsed) lines.push(parsed);
  }
  return bySeed;
}

describe.skipIf(!existsSync(recording))("random programs that Linux 7.2 answered", () => {
  it("are answered alike", () => {
    const world = new World((system) => [new EduDevice(system), new EduDevice(system)]);
    const differences: string[] = [];
    let operations = 0;
    for (const [seed, lines] of programs(gunzipSync(readFileSync(recording)).toString())) {
      const program = new RecordedProgram(world);
      for (const [at, line] of lines.entries()) {
        operations++;
        const { ret, out } = program.perform(line);
        if (ret === line.ret && JSON.stringify(out) === JSON.stringify(line.out)) continue;
        differences.push(`seed ${seed}, ${at}: ${JSON.stringify(line)} but here ${ret} ${JSON.stringify(out)}`);
        break;
      }
      program.end();
    }
    expect(differences).toEqual([]);
    expect(operations).toBeGreaterThan(17_000);
  });
});
