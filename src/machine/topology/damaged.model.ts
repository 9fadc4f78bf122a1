/** Dumps and recordings that were damaged at random: groups of all that is there, or one line that says what is wrong. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { changed, describeChanges, describeGroups, formGroups, parseLspci, parseRecordings, summary } from "./index.ts";
import { type Topology, TopologyError } from "./topology.ts";

interface Recorded {
  readonly name: string;
  readonly devices: readonly { readonly bdf: string; readonly config: string }[];
}

const recordings = readFileSync(join(import.meta.dirname, "recorded.test-data.jsonl"), "utf8")
  .trim()
  .split("\n");
/** Small ones, so that damage hits what matters. */
const lines = recordings.filter((line) => line.length < 12_000);

/** As `lspci -xxxx` writes it. */
function dump({ devices }: Recorded): string {
  const functions = devices.map(({ bdf, config }) => {
    const size = config.length > 512 ? 4096 : 256;
    const bytes = config.padEnd(2 * size, "0");
    const rows = Array.from({ length: size / 16 }, (_, row) => {
      const pairs = bytes.slice(32 * row, 32 * row + 32).match(/../g)!;
      return `${(16 * row).toString(16).padStart(2, "0")}: ${pairs.join(" ")}`;
    });
    return [`${bdf} PCI bridge: Something [8086:1234]`, "\tControl: I/O+ Mem+", ...rows, ""].join("\n");
  });
  return functions.join("\n");
}

type Damage = (text: string) => string;

const place = fc.double({ min: 0, max: 1, noNaN: true });
const at = (text: string, where: number): number => Math.floor(where * text.length);
const splitLines = (edit: (rows: string[]) => void): Damage => {
  return (text) => {
    const rows = text.split("\n");
    edit(rows);
    return rows.join("\n");
  };
};
const pick = (rows: readonly string[], where: number): number =>
  Math.min(rows.length - 1, at(rows.join(""), where) % rows.length);

const damage: fc.Arbitrary<Damage> = fc.oneof(
  place.map(
    (end): Damage =>
      (text) =>
        text.slice(0, at(text, end)),
  ),
  fc.tuple(place, fc.nat(200)).map(
    ([where, length]): Damage =>
      (text) =>
        text.slice(0, at(text, where)) + text.slice(at(text, where) + length),
  ),
  fc.tuple(place, fc.string({ unit: "binary", maxLength: 20 })).map(
    ([where, more]): Damage =>
      (text) =>
        text.slice(0, at(text, where)) + more + text.slice(at(text, where)),
  ),
  place.map((where) => splitLines((rows) => rows.splice(pick(rows, where), 1))),
  fc
    .tuple(place, place)
    .map(([from, to]) => splitLines((rows) => rows.splice(pick(rows, to), 0, rows[pick(rows, from)]))),
  fc.constant((text: string) => text.replaceAll("\n", "\r\n")),
  fc.constant((text: string) => text.replaceAll(/^/gm, "> ")),
  fc.constant((text: string) => text.toUpperCase()),
);

/** A byte of a function that decides about buses, capabilities or ids, or any other. */
const bytes = fc.array(
  fc.tuple(
    fc.nat(),
    fc.oneof(fc.constantFrom(0, 6, 0xe, 0x18, 0x19, 0x1a, 0x34), fc.nat(0xfff)),
    fc.oneof(fc.nat(4), fc.nat(0xff)),
  ),
  { maxLength: 6 },
);

function withBytes(
  line: string,
  changes: readonly (readonly [which: number, offset: number, value: number])[],
): Recorded {
  const recorded = JSON.parse(line) as Recorded;
  const devices = recorded.devices.map(({ bdf, config }) => ({ bdf, config }));
  for (const [which, offset, value] of changes) {
    const device = devices[which % devices.length];
    const config = device.config.padEnd(2 * offset + 2, "0");
    device.config = `${config.slice(0, 2 * offset)}${value.toString(16).padStart(2, "0")}${config.slice(2 * offset + 2)}`;
  }
  return { name: recorded.name, devices };
}

/** Undefined for what was refused in one line. */
function understood<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch (error) {
    if (!(error instanceof TopologyError)) throw error;
    expect(error.message).toMatch(/^[^\n]+$/);
    return undefined;
  }
}

function checkGroups(topology: Topology): void {
  const formed = understood(() => formGroups(topology));
  if (formed === undefined) return;
  const members = summary(formed).groups.flatMap(({ devices }) => devices);
  expect(members.sort()).toEqual(topology.functions.map(({ name }) => name).sort());
  expect(describeGroups(formed)).toMatch(/\n$/);
  const changes = {
    enableAcs: true,
    override: ["downstream", "multifunction"],
    assumeAcs: [],
    without: [topology.functions[0].name],
  } as const;
  const after = understood(() => formGroups(changed(topology, changes)));
  if (after !== undefined) expect(describeChanges(formed, after)).toMatch(/\n$/);
}

test("a damaged dump of lspci is told in one line, or makes groups of all its functions", () => {
  fc.assert(
    fc.property(fc.constantFrom(...lines), bytes, fc.array(damage, { maxLength: 3 }), (line, changes, damages) => {
      const text = damages.reduce((damaged, one) => one(damaged), dump(withBytes(line, changes)));
      const topology = understood(() => parseLspci("dump.txt", text));
      if (topology !== undefined) checkGroups(topology);
    }),
    { numRuns: 150 },
  );
});

test("a damaged recording is told in one line, or makes groups of all its functions", () => {
  fc.assert(
    fc.property(fc.constantFrom(...lines), bytes, fc.array(damage, { maxLength: 1 }), (line, changes, damages) => {
      const text = damages.reduce((damaged, one) => one(damaged), JSON.stringify(withBytes(line, changes)));
      for (const topology of understood(() => parseRecordings("topologies.jsonl", text)) ?? []) checkGroups(topology);
    }),
    { numRuns: 300 },
  );
});
