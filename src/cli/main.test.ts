import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { describeMachine, presets } from "../machine/index.ts";
import { main } from "./main.ts";

const folder = mkdtempSync(join(tmpdir(), "uiommu-cli-"));
afterAll(() => rmSync(folder, { recursive: true }));

async function uiommu(...commandLine: string[]): Promise<{ status: number; out: string; err: string }> {
  const said = { out: "", err: "" };
  const status = await main(commandLine, {
    out: (text) => void (said.out += text),
    err: (text) => void (said.err += text),
    colours: false,
  });
  return { status, ...said };
}

describe("what is typed wrong gives one line that says what would be right, and status 2", () => {
  test.each([
    ["frobnicate", "uiommu: unknown command 'frobnicate'; see: uiommu --help"],
    ["mchine list", "uiommu: unknown command 'mchine' (Did you mean machine?)"],
    ["machine lst", "uiommu: unknown command 'lst' (Did you mean list?)"],
    [
      "machine list all",
      "uiommu: too many arguments for 'list'. Expected 0 arguments but got 1; see: uiommu machine list --help",
    ],
    ["machine show", "uiommu: missing required argument 'name|file'; see: uiommu machine show --help"],
    ["machine show nsted", "uiommu: there is no machine and no file called nsted; did you mean nested?"],
    [
      "machine show vtd",
      "uiommu: there is no machine and no file called vtd; known machines: default, two-edu, empty, nested, switch, sva, vmm, virtio",
    ],
    ["machine show ./nested", "uiommu: there is no file ./nested"],
    ["machine show /", "uiommu: / is a directory; a machine is a YAML file"],
    ["run", "uiommu: run needs a program: uiommu run [options] -- PROGRAM [ARGUMENTS...]"],
    ["run --explian -- true", "uiommu: unknown option '--explian' (Did you mean --explain?)"],
    ["run --machine", "uiommu: option '--machine <name|file>' argument missing; see: uiommu run --help"],
    ["run --machine nsted -- true", "uiommu: there is no machine and no file called nsted; did you mean nested?"],
    [
      "run --trace /no/such/folder/x -- true",
      "uiommu: cannot write the trace /no/such/folder/x: no such file or directory",
    ],
    ["run --connect /no/such -- true", "uiommu: no machine is served in /no/such; uiommu serve tells where it does"],
    [
      "run --connect --mock -- true",
      "uiommu: option '--connect [directory]' cannot be used with option '--mock'; see: uiommu run --help",
    ],
    [
      "serve nested",
      "uiommu: too many arguments for 'serve'. Expected 0 arguments but got 1; see: uiommu serve --help",
    ],
    ["smmuv3 replay", "uiommu: missing required argument 'file'; see: uiommu smmuv3 replay --help"],
    ["smmuv3 replay /no/such", "uiommu: cannot read /no/such: no such file or directory"],
    ["groups /", "uiommu: / is a directory; wanted is the output of: sudo lspci -xxxx"],
    [`machine check ${process.execPath}`, `${process.execPath} is not a text in UTF-8; a machine is a YAML file`],
    ["-x", "uiommu: unknown option '-x'; see: uiommu --help"],
  ])("uiommu %s", async (line, message) => {
    expect(await uiommu(...line.split(" "))).toEqual({ status: 2, out: "", err: `${message}\n` });
  });

  test.each([
    ["no-such-program-here", 127, "uiommu: there is no program no-such-program-here in PATH"],
    ["./no-such-program-here", 127, "uiommu: there is no program ./no-such-program-here"],
    ["/etc/passwd", 126, "uiommu: /etc/passwd is not executable; chmod +x would make it so"],
    ["/", 126, "uiommu: / is a directory, not a program"],
  ])("a program that cannot be run, as a shell answers: %s", async (program, status, message) => {
    expect(await uiommu("run", "--", program)).toEqual({ status, out: "", err: `${message}\n` });
  });
});

describe("uiommu --help", () => {
  test("shows each command, with examples; so does uiommu alone", async () => {
    const help = await uiommu("--help");
    expect(help.status).toBe(0);
    expect(help.err).toBe("");
    for (const word of ["run", "serve", "machine", "smmuv3", "demo", "doctor", "Examples:"])
      expect(help.out).toContain(word);
    expect(await uiommu()).toEqual(help);
  });

  test("--version is the package's", async () => {
    expect((await uiommu("--version")).out).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test("a command that needs another word shows which", async () => {
    const { status, err } = await uiommu("machine");
    expect(status).toBe(2);
    expect(err).toContain("check");
  });
});

describe("uiommu machine", () => {
  test("list names every preset", async () => {
    const { status, out } = await uiommu("machine", "list");
    expect(status).toBe(0);
    for (const name of Object.keys(presets)) expect(out).toContain(name);
  });

  test("show draws a preset", async () => {
    expect(await uiommu("machine", "show", "default")).toEqual({
      status: 0,
      out: describeMachine(presets.default),
      err: "",
    });
  });

  test("show --yaml gives a file that draws the same machine", async () => {
    const file = join(folder, "default.yaml");
    writeFileSync(file, (await uiommu("machine", "show", "--yaml", "default")).out);
    expect((await uiommu("machine", "show", file)).out).toBe((await uiommu("machine", "show", "default")).out);
  });

  test("check tells every mistake of every file, each with its place, and which files are good", async () => {
    const good = join(folder, "good.yaml");
    const bad = join(folder, "bad.yaml");
    writeFileSync(good, "devices: [{ model: edu }]\n");
    writeFileSync(bad, "devces: []\nmemory:\n  size: big\n");
    expect(await uiommu("machine", "check", bad, good)).toEqual({
      status: 2,
      out: `${good}: good: 1 IOMMU, 1 device function, 1 group\n`,
      err: [
        `${bad}:1:1: unknown key "devces" in the machine; did you mean "devices"?`,
        `${bad}:3:9: memory.size is "big"; it must be a size such as 64KiB, 1GiB or 0x40000000`,
        "",
      ].join("\n"),
    });
  });
});
