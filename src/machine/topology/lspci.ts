// Runs in a browser.
/** The text of `lspci -xxxx`, also with `-v`, `-vvv` or `-nn`: what matters are the first line and the bytes of each function. */
import {
  CAPABILITY_EXPRESS,
  CONFIG_SPACE_SIZE,
  EXTENDED_CONFIG_SPACE_SIZE,
  HEADER_SIZE,
  RecordedFunction,
} from "../../pci/index.ts";
import { type RecordedPci, type Topology, TopologyError } from "./topology.ts";

const FUNCTION = /^((?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]) (.*)$/;
const BYTES = /^([0-9a-f]{2,3}):((?: [0-9a-f]{2}){16})\s*$/;
const LIKE_BYTES = /^[0-9a-f]{2,3}:(?:\s|$)/;
/** The last line of a dump that is cut off within the name of a function, or within an offset. */
const CUT_OFF = /(?:^|\n)[0-9a-f]{1,8}(?::[0-9a-f:.]*)?$/;

interface Entry {
  readonly name: string;
  readonly description: string;
  readonly bytes: number[];
}

/** Reads a dump; mistakes are told with `label` and the number of the line. */
export function parseLspci(label: string, text: string): Topology {
  const entries: Entry[] = [];
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    const fail = (message: string): never => {
      throw new TopologyError(`${label}:${index + 1}: ${message}`);
    };
    const header = FUNCTION.exec(line);
    if (header !== null) {
      const [, name, description] = header;
      entries.push({ name: name.length === 7 ? `0000:${name}` : name, description, bytes: [] });
    } else if (LIKE_BYTES.test(line)) {
      const entry = entries.at(-1) ?? fail("bytes before the first function");
      const [, offset, bytes] =
        BYTES.exec(line) ?? fail(`a line of 16 bytes was to be here; the dump is cut off or damaged`);
      if (Number.parseInt(offset, 16) !== entry.bytes.length) {
        fail(`offset ${offset} of ${entry.name} where ${entry.bytes.length.toString(16)} was to be: lines are missing`);
      }
      if (entry.bytes.length >= EXTENDED_CONFIG_SPACE_SIZE) fail(`${entry.name} has more than 4096 bytes`);
      entry.bytes.push(
        ...bytes
          .trim()
          .split(" ")
          .map((byte) => Number.parseInt(byte, 16)),
      );
    }
  }
  if (entries.length > 0 && CUT_OFF.test(text))
    throw new TopologyError(`${label}: the dump is cut off in its last line`);
  if (entries.length === 0)
    throw new TopologyError(`${label}: neither a dump of lspci -xxxx nor topologies as JSON lines`);
  return { functions: entries.map((entry) => complete(label, entry, entries)) };
}

/** The function, if all of it was dumped that decides. */
function complete(label: string, { name, description, bytes }: Entry, entries: readonly Entry[]): RecordedPci {
  const fail = (message: string): never => {
    throw new TopologyError(`${label}: ${name} ${message}`);
  };
  const wanted = "wanted is the output of: sudo lspci -xxxx";
  if (bytes.length === 0) fail(`has no bytes; ${wanted}`);
  if (bytes.length === HEADER_SIZE) fail(`has only 64 bytes of its configuration space; ${wanted}`);
  if (bytes.length !== CONFIG_SPACE_SIZE && bytes.length !== EXTENDED_CONFIG_SPACE_SIZE) {
    fail(`ends after ${bytes.length} bytes: the dump is cut off`);
  }
  const config = Uint8Array.from(bytes);
  if (bytes.length === CONFIG_SPACE_SIZE && isExpress(config)) {
    const others = entries.filter((entry) => entry.name !== name && isExpress(Uint8Array.from(entry.bytes)));
    if (entries.every((entry) => entry.bytes.length === CONFIG_SPACE_SIZE)) {
      fail(`is PCI Express, but its ACS cannot be seen in 256 bytes; ${wanted}`);
    }
    // Behind a conventional bridge 256 bytes are all that can be reached, but seldom of just the last function.
    const isLast = entries.at(-1)?.name === name;
    if (isLast && others.every((entry) => entry.bytes.length > CONFIG_SPACE_SIZE)) {
      fail("is PCI Express but ends after 256 bytes: the dump is cut off");
    }
  }
  return { name, config, description };
}

function isExpress(config: Uint8Array): boolean {
  return new RecordedFunction(config).capability(CAPABILITY_EXPRESS) !== undefined;
}
