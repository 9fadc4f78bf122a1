// Runs in a browser.
/**
 * The text of `lspci -xxxx`, also with `-v`, `-vvv`, `-nn`, `-D`, `-PP` or `-vmm`: what matters are the first line and the
 * bytes of each function. People indent it, quote it and put it behind other text; mail wraps it.
 */
import {
  CAPABILITY_EXPRESS,
  CONFIG_SPACE_SIZE,
  EXTENDED_CONFIG_SPACE_SIZE,
  HEADER_SIZE,
  RecordedFunction,
} from "../../pci/index.ts";
import { type RecordedPci, type Topology, TopologyError } from "./topology.ts";

const NAME = "(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\\.[0-7]";
/** A name with what it is; before it, with `-PP`, the bridges on the way, and with `-vmm` what the name is. */
const FUNCTION = new RegExp(`^(?:Slot:\\s+|Device:\\s+)?((?:${NAME}/)*)(${NAME})(?:\\s+(.*))?$`, "i");
/** What `-P` writes: the numbers of buses are left out. */
const WITHOUT_BUSES = new RegExp(`^${NAME}(?:/[01][0-9a-f]\\.[0-7])+ `, "i");
const BYTES = /^([0-9a-f]{2,3}):((?:\s+[0-9a-f]{2}){1,16})\s*$/i;
const LIKE_BYTES = /^[0-9a-f]{2,3}:(?:\s|$)/i;
const MORE_BYTES = /^\s*[0-9a-f]{2}(?:\s+[0-9a-f]{2})*\s*$/i;
const BYTES_IN_LINE = 16;
/** The last line of a dump that is cut off within the name of a function, or within an offset. */
const CUT_OFF = /(?:^|\n)[0-9a-f]{1,8}(?::[0-9a-f:.]*)?$/i;
const DAMAGED = "a line of 16 bytes was to be here; the dump is cut off or damaged";
const WANTED = "wanted is the output of: sudo lspci -xxxx";

interface Entry {
  readonly name: string;
  readonly description: string;
  /** Configuration space, of which the first `length` bytes were read. */
  readonly config: Uint8Array;
  length: number;
}

/** Reads a dump; mistakes are told with `label` and the number of the line. */
export function parseLspci(label: string, text: string): Topology {
  const lines = withoutMargin(text.split(/\r?\n/));
  const entries = readEntries(label, lines);
  if (entries.length === 0)
    throw new TopologyError(`${label}: neither a dump of lspci -xxxx nor topologies as JSON lines`);
  if (CUT_OFF.test(lines.at(-1)!)) throw new TopologyError(`${label}: the dump is cut off in its last line`);
  if (entries.every(({ length }) => length === 0)) {
    throw new TopologyError(`${label}: words of lspci without the bytes of configuration space; ${WANTED}`);
  }
  // A plain list may stand before the dump.
  const dumped = new Set(entries.filter(({ length }) => length > 0).map(({ name }) => name));
  const wanted = entries.filter(({ name, length }) => length > 0 || !dumped.has(name));
  return { functions: wanted.map((entry) => complete(label, entry, wanted)) };
}

/** The lines without what stands before the first name of a function and before all others: indentation, or marks of a quotation. */
function withoutMargin(lines: readonly string[]): readonly string[] {
  const name = new RegExp(`^([\\s>|]*)(?:Slot:\\s+)?${NAME}(?:\\s|/)`, "i");
  const [, margin = ""] = lines.map((line) => name.exec(line)).find((match) => match !== null) ?? [];
  if (margin === "") return lines;
  return lines.map((line) => (line.startsWith(margin) ? line.slice(margin.length) : line.trimStart()));
}

function readEntries(label: string, lines: readonly string[]): Entry[] {
  const entries: Entry[] = [];
  /** Bytes that a wrapped line still lacks. */
  let lacking = 0;
  for (const [index, line] of lines.entries()) {
    const fail = (message: string): never => {
      throw new TopologyError(`${label}:${index + 1}: ${message}`);
    };
    const take = (bytes: string): void => {
      const entry = entries.at(-1)!;
      for (let at = 0; at < bytes.length; at++) {
        if (!isHexadecimal(bytes.charCodeAt(at))) continue;
        if (lacking-- === 0) fail("more than 16 bytes in a line; the dump is damaged");
        entry.config[entry.length++] = 16 * digit(bytes.charCodeAt(at)) + digit(bytes.charCodeAt(++at));
      }
    };
    if (lacking > 0) {
      if (!MORE_BYTES.test(line)) fail(DAMAGED);
      take(line);
      continue;
    }
    if (LIKE_BYTES.test(line)) {
      const entry = entries.at(-1) ?? fail("bytes before the first function");
      const [, offset, bytes] = BYTES.exec(line) ?? fail(DAMAGED);
      if (Number.parseInt(offset, 16) !== entry.length) {
        fail(`offset ${offset} of ${entry.name} where ${entry.length.toString(16)} was to be: lines are missing`);
      }
      if (entry.length >= EXTENDED_CONFIG_SPACE_SIZE) fail(`${entry.name} has more than 4096 bytes`);
      lacking = BYTES_IN_LINE;
      take(bytes);
      continue;
    }
    const header = FUNCTION.exec(line);
    if (header !== null) {
      const [, path, name, description = ""] = header;
      const config = new Uint8Array(EXTENDED_CONFIG_SPACE_SIZE);
      entries.push({ name: fullName(path, name), description, config, length: 0 });
    } else if (WITHOUT_BUSES.test(line)) {
      fail(`lspci -P leaves out the numbers of buses; ${WANTED}`);
    }
  }
  if (lacking > 0) {
    throw new TopologyError(`${label}:${lines.length}: ${DAMAGED}`);
  }
  return entries;
}

/** With its segment, which in a path only the first name has. */
function fullName(path: string, name: string): string {
  if (/:.*:/.test(name)) return name.toLowerCase();
  const [segment] = /^[0-9a-f]{4,8}(?=:..:)/i.exec(path) ?? ["0000"];
  return `${segment}:${name}`.toLowerCase();
}

/** The function, if all of it was dumped that decides. */
function complete(
  label: string,
  { name, description, config: whole, length }: Entry,
  entries: readonly Entry[],
): RecordedPci {
  const fail = (message: string): never => {
    throw new TopologyError(`${label}: ${name} ${message}`);
  };
  if (length === 0) fail(`has no bytes; ${WANTED}`);
  const config = whole.slice(0, length);
  if (config.every((byte) => byte === 0xff)) {
    fail("reads as nothing but ones: it slept in D3cold, or was gone; wake it and make the dump again");
  }
  if (length === HEADER_SIZE) fail(`has only 64 bytes of its configuration space; ${WANTED}`);
  if (length !== CONFIG_SPACE_SIZE && length !== EXTENDED_CONFIG_SPACE_SIZE) {
    fail(`ends after ${length} bytes: the dump is cut off`);
  }
  if (length === CONFIG_SPACE_SIZE && isExpress(config)) {
    if (entries.every((entry) => entry.length === CONFIG_SPACE_SIZE)) {
      fail(`is PCI Express, but its ACS cannot be seen in 256 bytes; ${WANTED}`);
    }
    // Behind a conventional bridge 256 bytes are all that can be reached, but seldom of just the last function.
    const isLong = (entry: Entry): boolean => entry.length > CONFIG_SPACE_SIZE || !isExpress(entry.config);
    if (entries.at(-1)?.name === name && entries.slice(0, -1).every(isLong)) {
      fail("is PCI Express but ends after 256 bytes: the dump is cut off");
    }
  }
  return { name, config, ...(description === "" ? {} : { description }) };
}

function isHexadecimal(code: number): boolean {
  return (code >= 0x30 && code <= 0x39) || (code >= 0x41 && code <= 0x46) || (code >= 0x61 && code <= 0x66);
}

function digit(code: number): number {
  return (code & 0xf) + (code > 0x39 ? 9 : 0);
}

function isExpress(config: Uint8Array): boolean {
  return new RecordedFunction(config).capability(CAPABILITY_EXPRESS) !== undefined;
}
