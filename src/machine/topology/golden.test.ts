import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { formGroups, parseRecordings, summary } from "./index.ts";

interface Recorded {
  readonly name: string;
  readonly devices: readonly { readonly bdf: string; readonly group: number }[];
  readonly groups: readonly { readonly id: number; readonly reserved: readonly string[] }[];
}

/** Recordings of Linux 7.2: those shared by all, beside the checkout; those kept here; random ones of tools/topologies. */
const shared = ["../shared", "../../shared"]
  .map((folder) => join(import.meta.dirname, "../../..", folder, "conformance/golden/groups.jsonl"))
  .find(existsSync);
const own = join(import.meta.dirname, "recorded.test-data.jsonl");
const random = join(import.meta.dirname, "recorded-random.test-data.jsonl.gz");

const hex = (value: bigint): string => `0x${value.toString(16).padStart(16, "0")}`;

function compare(file: string): void {
  const bytes = readFileSync(file);
  const text = (file.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString();
  const recordings = text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Recorded);
  const topologies = parseRecordings(file, text);
  it.each(recordings.map(({ name }, index) => [name, index] as const))("%s", (_name, index) => {
    const { devices, groups } = recordings[index];
    const formed = formGroups(topologies[index]);
    expect(summary(formed).groups.map(({ id, devices: members }) => [id, members])).toEqual(
      groups.map(({ id }) => [
        id,
        devices
          .filter(({ group }) => group === id)
          .map(({ bdf }) => bdf)
          .sort(),
      ]),
    );
    for (const { id, reserved } of groups) {
      const regions = formed.groups.get(id)!.reservedRegions();
      expect(regions.map(({ start, last, type }) => `${hex(start)} ${hex(last)} ${type}`)).toEqual(reserved);
    }
  });
}

if (shared === undefined)
  console.warn("skipped: ../shared/conformance/golden/groups.jsonl is not beside this checkout");

describe.skipIf(shared === undefined)("Linux 7.2 makes the same groups of the shared recordings", () => {
  if (shared !== undefined) compare(shared);
});

describe("Linux 7.2 makes the same groups of the recordings kept here", () => {
  compare(own);
});

describe("Linux 7.2 makes the same groups of random topologies", () => {
  compare(random);
});
