/**
 * `uiommu groups [FILE]`: the IOMMU groups of this computer, of a dump of `lspci -xxxx`, or of recorded topologies, and why
 * they are as they are. The groups are formed by the core (machine/topology).
 */
import { readFileSync } from "node:fs";
import { styleText } from "node:util";
import {
  type Changes,
  changed,
  describeChanges,
  describeGroups,
  formGroups,
  isNoChange,
  parseLspci,
  parseRecordings,
  summary,
  type Topology,
  TopologyError,
} from "../machine/topology/index.ts";
import { readComputer } from "./computer-topology.ts";
import { readPciNames } from "./pci-names.ts";
import { CommandError, reasonOf, type Terminal } from "./terminal.ts";

export interface GroupsOptions {
  readonly enableAcs?: boolean;
  /** Comma-separated kinds, as the kernel parameter pcie_acs_override takes them. */
  readonly acsOverride?: string;
  readonly assumeAcs?: readonly string[];
  readonly without?: readonly string[];
  readonly json?: boolean;
}

/** The command. What cannot be understood is a {@link CommandError}. */
export function groupsCommand(file: string | undefined, options: GroupsOptions, terminal: Terminal): number {
  try {
    const changes = changesOf(options);
    const topologies = file === undefined ? [readComputer("/sys")] : readTopologies(file);
    // All are formed before the first is shown: a mistake in the last is told at once.
    const answers = topologies.map((topology) => answer(topology, changes, options, terminal.colours));
    for (const text of answers) terminal.out(text);
    return 0;
  } catch (error) {
    if (error instanceof TopologyError) throw new CommandError(error.message);
    throw error;
  }
}

function answer(topology: Topology, changes: Changes, { json }: GroupsOptions, colours: boolean): string {
  const now = formGroups(topology);
  const shown = isNoChange(changes) ? now : formGroups(changed(topology, changes));
  if (json) return `${JSON.stringify(summary(shown))}\n`;
  const text = describeGroups(shown, { nameOf: readPciNames(), paint: colours ? paint : undefined });
  return `${text}${shown === now ? "" : `\n${describeChanges(now, shown)}`}\n`;
}

const colourOf = ["cyan", "green", "yellow", "magenta", "blue", "red"] as const;

function paint(text: string, group: number): string {
  return styleText(colourOf[group % colourOf.length], text, { validateStream: false });
}

const kinds = ["downstream", "multifunction"] as const;

function changesOf({ enableAcs = false, acsOverride, assumeAcs = [], without = [] }: GroupsOptions): Changes {
  const override = acsOverride === undefined ? [] : acsOverride.split(",");
  for (const kind of override) {
    if (!(kinds as readonly string[]).includes(kind)) {
      throw new CommandError(`--acs-override takes downstream, multifunction, or both with a comma, not "${kind}"`);
    }
  }
  for (const name of [...assumeAcs, ...without]) {
    if (!/^(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f](?:\.[0-7])?$/i.test(name)) {
      throw new CommandError(`"${name}" is no PCI function: 00:1c.0 or 0000:00:1c.0 would be`);
    }
  }
  return { enableAcs, override: override as Changes["override"], assumeAcs, without };
}

function readTopologies(file: string): Topology[] {
  const text = readText(file);
  const label = file === "-" ? "standard input" : file;
  if (text.trim() === "") throw new TopologyError(`${label}: empty; wanted is the output of: sudo lspci -xxxx`);
  return text.trimStart().startsWith("{") ? parseRecordings(label, text) : [parseLspci(label, text)];
}

function readText(file: string): string {
  try {
    return readFileSync(file === "-" ? 0 : file, "utf8").replace(/^\uFEFF/, "");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") throw new CommandError(`there is no file ${file}`);
    if (code === "EISDIR") throw new CommandError(`${file} is a directory; wanted is the output of: sudo lspci -xxxx`);
    throw new CommandError(`cannot read ${file}: ${reasonOf(error as NodeJS.ErrnoException)}`);
  }
}
