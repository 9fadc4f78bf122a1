import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as util from "node:util";
import { describeMachine, presets } from "../machine/index.ts";
import { runSession } from "./session.ts";
import { CommandError, type Terminal } from "./terminal.ts";
import { Watch } from "./watch.ts";

const example = join(import.meta.dirname, "../../examples/dma-copy.c");
const COLUMNS = 80;

/** `uiommu demo`: the main job on the default machine, told to somebody who sees it for the first time. */
export async function demoCommand(terminal: Terminal): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "uiommu-demo-"));
  try {
    return await tell(compile(folder), terminal);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function tell(program: string, terminal: Terminal): Promise<number> {
  const style = styles(terminal);
  const say = (text: string) => terminal.out(`${wrap(text).join("\n")}\n\n`);

  terminal.out(`${style("bold", "The machine")}\n\n`);
  say(
    "An IOMMU stands between devices and memory: it translates every address that a device uses, and refuses what it was " +
      "not told to allow. This machine is made of software, down to the bytes of its page tables:",
  );
  terminal.out(`${indent(describeMachine(presets.default).trimEnd())}\n\n`);
  say(
    "Devices that could reach each other behind the IOMMU's back form a group, and a group is given away as a whole. Each " +
      "device bound to vfio-pci has a file; whoever opens it drives the device.",
  );

  terminal.out(`${style("bold", "The program")}\n\n`);
  say("examples/dma-copy.c, a driver in plain C. It knows nothing of uiommu; this is what it prints:");
  const watch = new DemoWatch(terminal, style);
  const { code, signal } = await runSession({ description: presets.default }, [program], watch);
  if (signal === "SIGPIPE") return code; // nobody reads on
  if (code !== 0) {
    terminal.err(`uiommu: the program ended with status ${code}; see: uiommu doctor\n`);
    return code;
  }

  terminal.out(`\n${style("bold", "What happened")}\n\n`);
  say(
    "The program gave the device two addresses and told it to start. The device did the copy by itself: its reads and " +
      "writes went through the SMMUv3, which found stream table entry, context descriptor and page table in memory and " +
      "walked them. Where the tables allowed nothing, memory stayed as it was, and the reason is a bit of an entry.",
  );
  terminal.out(`${style("bold", "Next")}\n\n`);
  terminal.out(
    [
      "  npx uiommu run --explain -- ./your-program     your own, unmodified",
      "  npx uiommu machine show --yaml default         a machine to begin yours with",
      "  npx uiommu run --trace calls.jsonl -- PROGRAM  every call it makes, decoded",
      "",
    ].join("\n"),
  );
  return 0;
}

/** Tells each refused access in the middle of the program's own lines, where it happened. */
class DemoWatch extends Watch {
  private readonly out: Terminal;
  private readonly style: Style;

  constructor(terminal: Terminal, style: Style) {
    super(terminal, {});
    this.out = terminal;
    this.style = style;
  }

  override fault(text: () => string): void {
    const [first, ...rest] = wrap(`The IOMMU refused it: ${text()}`, COLUMNS - 5);
    this.out.out(`${[first, ...rest].map((line) => `     ${this.style("yellow", line)}`).join("\n")}\n`);
  }
}

function compile(folder: string): string {
  const program = join(folder, "dma-copy");
  const compiler = process.env.CC ?? "cc";
  const { error, status, stderr } = spawnSync(compiler, ["-O2", "-o", program, example], { encoding: "utf8" });
  if (error) throw new CommandError(`no C compiler: ${compiler} cannot be started; see: uiommu doctor`);
  if (status !== 0) throw new CommandError(`${compiler} could not compile ${example}: ${stderr.split("\n")[0]}`);
  return program;
}

type Style = (format: "bold" | "yellow", text: string) => string;

/** Colours only on a terminal, and only where this Node can make them. */
function styles(terminal: Terminal): Style {
  return (format, text) => (terminal.colours && util.styleText ? util.styleText(format, text) : text);
}

function indent(text: string): string {
  return text.replace(/^(?=.)/gm, "  ");
}

function wrap(text: string, columns = COLUMNS): string[] {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines[lines.length - 1];
    if (line.length > 0 && line.length + 1 + word.length > columns) lines.push(word);
    else lines[lines.length - 1] = line.length === 0 ? word : `${line} ${word}`;
  }
  return lines;
}
