/**
 * The command line.
 *
 * Each command is one file, loaded when it is chosen: starting quickly matters. A command speaks through a Terminal and
 * returns its exit status. Status 2 and one line on stderr: what was typed is wrong. `uiommu run` otherwise exits as its
 * program does.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command, CommanderError, Option } from "commander";
import type { GroupsOptions } from "./groups.ts";
import { listScenarios } from "./smmuv3-scenario-names.ts";
import { CommandError, type Terminal } from "./terminal.ts";

/** Runs `uiommu ARGUMENTS`; its exit status. */
export async function main(commandLine: readonly string[], terminal: Terminal): Promise<number> {
  let status = 0;
  const program = describeCommands(terminal, (result) => {
    status = result;
  });
  if (commandLine.length === 0) {
    program.outputHelp();
    return 0;
  }
  try {
    await program.parseAsync(commandLine, { from: "user" });
    return status;
  } catch (error) {
    // Commander has said already what was wrong with the command line, or has shown the help that was asked for.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (!(error instanceof CommandError)) throw error;
    terminal.err(`uiommu: ${error.message}\n`);
    return error.status;
  }
}

function describeCommands(terminal: Terminal, finish: (status: number) => void): Command {
  const program = new Command("uiommu");
  program
    .description("The Linux IOMMU subsystem in user space: /dev/iommu and VFIO for programs, on an emulated SMMUv3.")
    .version(version(), "--version", "print the version")
    .helpOption("-h, --help", "print this help")
    .helpCommand(false)
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: terminal.out,
      writeErr: terminal.err,
      outputError: mistakeIn("uiommu"),
    })
    .addHelpText(
      "after",
      examples([
        ["uiommu demo", "a device copies memory, and is kept from the rest"],
        ["uiommu run -- ./my-driver --verbose", "run a program, unmodified"],
        ["uiommu run --explain -- ./my-test", "say why each refused call was refused"],
        ["uiommu machine show default", "what is in a machine"],
        ["uiommu groups", "the IOMMU groups of this computer, and why"],
        ["uiommu doctor", "can this computer run it?"],
      ]),
    );

  // Sub-commands inherit how the program speaks and exits only if they are made after it was told so.
  withMachine(command(program, "run", "run a program on a machine with IOMMUs"))
    .argument("[program]", "the program; everything behind it is its own")
    .argument("[arguments...]", "its arguments")
    .usage("[options] -- PROGRAM [ARGUMENTS...]")
    .addOption(
      new Option("--connect [directory]", "on a machine that is served: see uiommu serve").conflicts([
        "machine",
        "mock",
        "explain",
        "trace",
        "verbose",
      ]),
    )
    .passThroughOptions()
    .addHelpText(
      "after",
      examples([
        ["uiommu run -- ./vfio-edu", "on the built-in machine"],
        ["uiommu run --machine lab.yaml -- sh -c 'make test'", "on another, started in any way"],
        ["uiommu run --trace calls.jsonl -- ./vfio-edu", "with a record of every call"],
        ["uiommu run --mock -- ./iommufd", "the kernel's own tests of iommufd"],
        ["uiommu run --connect -- ./vfio-edu", "on the machine of uiommu serve"],
      ]),
    )
    .action(async (file: string | undefined, rest: string[], options: RunCommandOptions) => {
      if (!file) throw new CommandError("run needs a program: uiommu run [options] -- PROGRAM [ARGUMENTS...]");
      const { runCommand } = await import("./run.ts");
      finish(await runCommand({ ...options, program: file, arguments: rest }, terminal));
    });

  withMachine(command(program, "serve", "serve a machine that programs join, until Ctrl-C"))
    .addHelpText(
      "after",
      examples([
        ["uiommu serve --machine nested --explain", "in one terminal: prints where, then says why"],
        ["uiommu run --connect -- ./my-vmm", "in another; as many as you like, on one machine"],
      ]),
    )
    .action(async (options: ServeCommandOptions) => {
      finish(await (await import("./serve.ts")).serveCommand(options, terminal));
    });

  const machine = command(program, "machine", "show the machines that come with uiommu, or check a file of your own");
  machine.usage("list | show NAME|FILE | check FILE...");
  command(machine, "list", "the machines that come with uiommu").action(async () => {
    finish((await import("./machine.ts")).listMachines(terminal));
  });
  command(machine, "show", "what is in a machine: IOMMUs, devices, groups, device files")
    .argument("<name|file>", "a preset, or a YAML file")
    .option("--yaml", "the preset as a file: a beginning for one's own")
    .addHelpText("after", examples([["uiommu machine show --yaml default > lab.yaml", "begin a machine of one's own"]]))
    .action(async (name: string, options: { yaml?: boolean }) => {
      finish(await (await import("./machine.ts")).showMachine(name, options, terminal));
    });
  command(machine, "check", "check machine files: every mistake, with its line")
    .argument("<file...>", "YAML files")
    .action(async (files: string[]) => {
      finish(await (await import("./machine.ts")).checkMachines(files, terminal));
    });

  command(program, "groups", "which PCI devices share an IOMMU group, why, and what would split them")
    .argument(
      "[file]",
      "a dump of lspci -xxxx, or recorded topologies (.jsonl); - for standard input; else this computer",
    )
    .option("--enable-acs", "what if Linux had switched ACS on, as it does where there is an IOMMU")
    .option("--acs-override <kinds>", "what if ports (downstream), functions (multifunction) without ACS had it")
    .option("--assume-acs <function>", "what if this function had ACS; may be repeated", repeated)
    .option(
      "--without <function>",
      "what if this function, and all below it, were not there; may be repeated",
      repeated,
    )
    .option("--json", "one line for each topology")
    .addHelpText(
      "after",
      examples([
        ["sudo uiommu groups", "this computer"],
        ["sudo lspci -vvv -xxxx > dump.txt", "make a dump, on any computer"],
        ["uiommu groups dump.txt --assume-acs 00:1c.0", "would ACS on this port help?"],
        ["uiommu groups dump.txt --acs-override downstream", "would the kernel patch?"],
      ]),
    )
    .action(async (file: string | undefined, options: GroupsOptions) => {
      finish((await import("./groups.ts")).groupsCommand(file, options, terminal));
    });

  const smmuv3 = command(program, "smmuv3", "the SMMUv3 model on its own, and the driver on it");
  smmuv3.usage("replay FILE... | record SCENARIO");
  command(smmuv3, "replay", "run recorded hardware cases on the model, and compare")
    .argument("<file...>", "JSON lines, also gzipped")
    .action(async (files: string[]) => {
      const { replayCommand } = await import("./smmuv3-replay.ts");
      finish(replayCommand(files, terminal));
    });
  command(smmuv3, "record", "write down what the driver does to the hardware, for another SMMUv3 to perform")
    .argument("<scenario>", "one of those below")
    .addHelpText("after", `\nScenarios:\n${listScenarios()}`)
    .addHelpText("after", examples([["uiommu smmuv3 record unmap > unmap.jsonl", "then: play_on_qemu.py unmap.jsonl"]]))
    .action(async (scenario: string) => {
      const { recordCommand } = await import("./smmuv3-record.ts");
      finish(recordCommand(scenario, terminal));
    });

  command(program, "demo", "compile a small driver, run it, and show what happened").action(async () => {
    finish(await (await import("./demo.ts")).demoCommand(terminal));
  });
  command(program, "doctor", "can this computer run uiommu? what is missing, and what would fix it").action(
    async () => {
      finish((await import("./doctor.ts")).doctorCommand(terminal));
    },
  );
  return program;
}

function repeated(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

interface ServeCommandOptions {
  readonly machine: string;
  readonly mock?: boolean;
  readonly explain?: boolean;
  readonly trace?: string;
  readonly verbose?: boolean;
}

interface RunCommandOptions extends ServeCommandOptions {
  readonly connect?: string | true;
}

/** The options that say which machine, and how much is told of what happens on it. */
function withMachine(made: Command): Command {
  return made
    .option("--machine <name|file>", "the machine: a preset, or a YAML file", "default")
    .option("--mock", "with the mock IOMMU of Linux's own tests, and the ioctl that drives it (IOMMU_TEST_CMD)")
    .option("--explain", "one line on stderr for each refused call and each DMA fault, saying why")
    .option("--trace <file>", "write every call, decoded, as JSON lines")
    .option("-v, --verbose", "tell on stderr of the machine, of each open and close, and of totals");
}

function command(parent: Command, name: string, description: string): Command {
  const made = parent
    .command(name)
    .description(description)
    .helpOption("-h, --help", "print this help")
    .helpCommand(false);
  return made.configureOutput({ ...made.configureOutput(), outputError: mistakeIn(`${nameOf(parent)} ${name}`) });
}

function nameOf(command: Command): string {
  return command.parent === null ? command.name() : `${nameOf(command.parent)} ${command.name()}`;
}

/** How commander's messages about the command line of `command` are shown. */
function mistakeIn(command: string): (text: string, write: (text: string) => void) => void {
  return (text, write) => write(`uiommu: ${oneLine(text, command)}\n`);
}

function examples(lines: readonly (readonly [command: string, what: string])[]): string {
  const width = Math.max(...lines.map(([typed]) => typed.length));
  return `\nExamples:\n${lines.map(([typed, what]) => `  ${typed.padEnd(width)}  ${what}`).join("\n")}`;
}

/** `error: unknown option '--explian'\n(Did you mean --explain?)` in one line of ours, with some advice always. */
function oneLine(text: string, command: string): string {
  const line = text
    .replace(/^error: /, "")
    .trim()
    .replace(/\s*\n\s*/g, " ");
  return line.includes("(Did you mean") ? line : `${line.replace(/[.]$/, "")}; see: ${command} --help`;
}

function version(): string {
  const text = readFileSync(join(import.meta.dirname, "../../package.json"), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
