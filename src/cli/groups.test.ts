import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { formGroups, parseRecordings, summary, TopologyError } from "../machine/topology/index.ts";
import { RecordedFunction } from "../pci/index.ts";
import { readComputer } from "./computer-topology.ts";
import { main } from "./main.ts";
import { parsePciNames } from "./pci-names.ts";

const folder = mkdtempSync(join(tmpdir(), "uiommu-groups-"));
afterAll(() => rmSync(folder, { recursive: true }));

const recordings = readFileSync(join(import.meta.dirname, "../machine/topology/recorded.test-data.jsonl"), "utf8");
interface Recorded {
  readonly name: string;
  readonly devices: readonly { readonly bdf: string; readonly config: string }[];
  /** It is what another recording would be with these options. */
  readonly whatIf?: { readonly of: string; readonly options: readonly string[] };
}
const recorded = recordings
  .trim()
  .split("\n")
  .map((line) => [line, JSON.parse(line) as Recorded] as const);

async function uiommu(...commandLine: string[]): Promise<{ status: number; out: string; err: string }> {
  const said = { out: "", err: "" };
  const status = await main(commandLine, {
    out: (text) => void (said.out += text),
    err: (text) => void (said.err += text),
    colours: false,
  });
  return { status, ...said };
}

function file(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

function recording(name: string): string {
  const found = recorded.find(([, one]) => one.name === name);
  if (found === undefined) throw new Error(`no recording ${name}`);
  return found[0];
}

/** What lspci -xxxx prints of one function; of Express ones all 4096 bytes. */
function dumpOf(bdf: string, config: string, length?: number): string {
  const { isExpress } = new RecordedFunction(Buffer.from(config, "hex"));
  const bytes = config.padEnd(2 * (length ?? (isExpress ? 4096 : 256)), "0").match(/../g)!;
  const lines = [`${bdf.replace(/^0000:/, "")} Ethernet controller: Some Company Some Device (rev 02)`];
  for (let at = 0; at < bytes.length; at += 16) {
    lines.push(`${at.toString(16).padStart(2, "0")}: ${bytes.slice(at, at + 16).join(" ")}`);
  }
  return `${lines.join("\n")}\n\n`;
}

const dump = (one: Recorded): string => one.devices.map(({ bdf, config }) => dumpOf(bdf, config)).join("");

describe("the input", () => {
  test.each(recorded.map(([line, one]) => [one.name, line, one] as const))(
    "a dump of lspci gives the groups that the recording gives: %s",
    async (name, line, one) => {
      const [topology] = parseRecordings(name, line);
      const answer = await uiommu("groups", "--json", file(`${name}.txt`, dump(one)));
      expect(answer).toEqual({ status: 0, out: `${JSON.stringify(summary(formGroups(topology)))}\n`, err: "" });
    },
  );

  test("a verbose dump has decoded lines between, and may end its lines as other systems do", async () => {
    const [, one] = recorded[0];
    const verbose = dump(one).replaceAll(
      "(rev 02)\n",
      "(rev 02)\n\tControl: I/O- Mem+\n\tCapabilities: [40] MSI: Enable-\n",
    );
    const answer = await uiommu("groups", "--json", file("verbose.txt", verbose.replaceAll("\n", "\r\n")));
    expect(answer.out).toBe((await uiommu("groups", "--json", file("plain.jsonl", recorded[0][0]))).out);
  });

  describe("a dump as people post it", () => {
    const [line, one] = recorded[1];
    const good = dump(one);
    const wrapped = (text: string): string => text.replace(/^((?:[0-9a-f]+:)(?: ..){11}) /gm, "$1\n");
    test.each([
      ["indented", good.replace(/^/gm, "    ")],
      ["indented, its blank lines stripped", good.replace(/^(?=.)/gm, "  ")],
      ["quoted in a mail", good.replace(/^/gm, "> ")],
      ["wrapped by a mail", wrapped(good)],
      ["wrapped and quoted", wrapped(good).replace(/^/gm, "> ")],
      ["in capitals", good.replace(/^[0-9a-f]+:.*/gm, (bytes) => bytes.toUpperCase())],
      ["with blanks at the ends of lines, and tabs", good.replace(/ (?=..$)/gm, "\t").replace(/$/gm, "  ")],
      ["with a byte order mark and carriage returns", `\uFEFF${good.replaceAll("\n", "\r\n")}`],
      ["with segments (-D)", good.replace(/^(?=..:..\.)/gm, "0000:")],
      ["with paths (-PP)", good.replace(/^(?=0[1-9]:..\.)/gm, "00:01.0/")],
      [
        "with segments and paths",
        good.replace(/^(?=0[1-9]:..\.)/gm, "0000:00:01.0/").replace(/^(?=00:..\.)/gm, "0000:"),
      ],
      [
        "in lines for machines (-vmm)",
        good.replace(/^(..:..\..) .*/gm, "Slot:\t$1\nClass:\tBridge\nDevice:\tSome Device"),
      ],
      ["without a word of what the functions are", good.replace(/^(..:..\..) .*/gm, "$1")],
      ["behind a list of the same", `$ lspci\n${good.replace(/^[0-9a-f]+: .*\n/gm, "")}\n$ lspci -xxxx\n${good}$ _\n`],
      ["behind a tree", `-[0000:00]-+-00.0\n           \\-01.0-[01]----00.0\n\n${good}`],
    ])("%s", async (_what, text) => {
      expect(text).not.toBe(good);
      const { out, err } = await uiommu("groups", "--json", file("posted.txt", text));
      expect(err).toBe("");
      expect(out).toBe((await uiommu("groups", "--json", file("recorded.jsonl", line))).out);
    });
  });

  test("--json prints one line for each topology", async () => {
    const { out } = await uiommu("groups", "--json", file("all.jsonl", recordings));
    expect(out.trim().split("\n")).toHaveLength(recorded.length);
  });

  test("a computer is read from sysfs", () => {
    const sys = join(folder, "sys");
    const [, one] = recorded[1];
    mkdirSync(join(sys, "bus/pci/devices"), { recursive: true });
    mkdirSync(join(sys, "kernel/iommu_groups/0"), { recursive: true });
    const region = "0x0000000000001000 0x0000000000001fff direct\n0x00000000fee00000 0x00000000feefffff msi\n";
    writeFileSync(join(sys, "kernel/iommu_groups/0/reserved_regions"), region);
    for (const { bdf, config } of one.devices) {
      const device = join(sys, "bus/pci/devices", bdf);
      mkdirSync(device);
      writeFileSync(join(device, "config"), Buffer.from(config, "hex"));
      if (bdf === "0000:00:00.0") symlinkSync("../../../kernel/iommu_groups/0", join(device, "iommu_group"));
    }
    const formed = formGroups(readComputer(sys));
    const [topology] = parseRecordings("", recorded[1][0]);
    expect(summary(formed)).toEqual(summary(formGroups(topology)));
    expect(
      formed.groups
        .get(0)!
        .reservedRegions()
        .map(({ type }) => type),
    ).toEqual(["direct", "msi"]);

    writeFileSync(join(sys, "bus/pci/devices/0000:00:00.0/config"), Buffer.alloc(64));
    expect(() => readComputer(sys)).toThrow(/^the configuration space of 0000:00:00.0 is for root only: sudo uiommu/);
    expect(() => readComputer(join(folder, "nowhere"))).toThrow(TopologyError);
  });
});

describe("the answer in words", () => {
  test("is a tree with groups, and for each shared one what decided", async () => {
    const { status, out } = await uiommu("groups", file("tree.jsonl", recording("pci-bridge-behind-switch")));
    expect(status).toBe(0);
    expect(out).toContain("    02:00.0        group 5  switch downstream port: [104c:8233]\n");
    expect(out).toContain("group 5: 02:00.0, 03:00.0, 04:01.0, 04:02.0, 05:03.0\n");
    expect(out).toContain("  switch downstream port 02:00.0 has no ACS: everything below it joins (03:00.0)\n");
    expect(out).toContain("04:01.0 and 04:02.0 do DMA under a requester id of PCIe-to-PCI bridge 03:00.0");
    expect(out).not.toContain("\u001b");
  });

  test("names the controls that are off", async () => {
    const { out } = await uiommu("groups", file("controls.jsonl", recording("acs-control-0d")));
    expect(out).toContain("root port 00:01.0 has ACS without upstream forwarding (control 0x0d, offered 0x5f)");
  });

  test("names come from the list of PCI ids", () => {
    const names = parsePciNames(
      "# list\n8086  Intel Corporation\n\t10d3  82574L\n\t\t8086 a01f  Card\nC 02  Network\n\t00  X\n",
    );
    expect(names(0x8086, 0x10d3)).toBe("Intel Corporation 82574L");
    expect(names(0x8086, 0x1234)).toBe("Intel Corporation device");
    expect(names(0x1234, 0x1234)).toBeUndefined();
  });
});

describe("what if", () => {
  const groupsOf = async (name: string, ...options: string[]): Promise<string[]> => {
    const { out, err } = await uiommu("groups", "--json", file("what-if.jsonl", recording(name)), ...options);
    expect(err).toBe("");
    const { groups } = JSON.parse(out) as { groups: { devices: string[] }[] };
    return groups.map(({ devices }) => devices.map((one) => one.slice(5)).join(" "));
  };

  test("Linux had switched ACS on, of a computer that ran without IOMMU", async () => {
    const off = file("off.jsonl", recording("acs-control-00"));
    const { out } = await uiommu("groups", off);
    expect(out).toContain("No port has ACS switched on, as Linux leaves it without an IOMMU.");
    expect(await groupsOf("acs-control-00")).toContain("00:01.0 01:00.0");
    expect((await uiommu("groups", off, "--enable-acs")).out).toContain(
      "  01:00.0 would be alone; it is with 00:01.0\n",
    );
    const on = await groupsOf("acs-control-1d");
    expect(await groupsOf("acs-control-00", "--enable-acs")).toEqual(on);
    // What was never offered is not there to be switched on, and what is on stays so.
    expect(await groupsOf("no-acs-port-with-switch", "--enable-acs")).toEqual(
      await groupsOf("no-acs-port-with-switch"),
    );
    expect((await uiommu("groups", file("on.jsonl", recording("acs-control-1d")))).out).not.toContain("switched on");
  });

  test("this port had ACS", async () => {
    expect(await groupsOf("no-acs-port-with-switch")).toContain("00:01.0 01:00.0 02:00.0 02:01.0 03:00.0 04:00.0");
    const groups = await groupsOf("no-acs-port-with-switch", "--assume-acs", "00:01.0", "--assume-acs", "0000:02:00.0");
    expect(groups.slice(-4)).toEqual(["01:00.0", "02:00.0", "02:01.0 04:00.0", "03:00.0"]);
  });

  test("the kernel patch that takes kinds of functions to have ACS", async () => {
    const name = "multifunction-port-missing-zero";
    const members = "01:00.0 01:00.3 01:00.7";
    expect(await groupsOf(name)).toContain(`00:05.0 ${members}`);
    expect(await groupsOf(name, "--acs-override", "downstream")).toContain(members);
    const both = await groupsOf(name, "--acs-override", "downstream,multifunction");
    for (const one of ["00:05.0", ...members.split(" ")]) expect(both).toContain(one);
  });

  test("this function, or device, and all below it were not there", async () => {
    const groups = await groupsOf("no-acs-port-with-switch", "--without", "02:00");
    expect(groups).toContain("00:01.0 01:00.0 02:01.0 04:00.0");
  });

  const pairs = recorded.flatMap(([line, one]) => (one.whatIf ? [[one.name, line, one, one.whatIf] as const] : []));
  test.each(pairs)(
    "what would be is what Linux 7.2 makes of a computer that is so: %s",
    async (_name, line, one, whatIf) => {
      const there = await uiommu("groups", "--json", file("there.jsonl", line));
      const asked = await uiommu("groups", "--json", file("asked.jsonl", recording(whatIf.of)), ...whatIf.options);
      const partition = ({ out }: { out: string }): string[][] =>
        (JSON.parse(out) as { groups: { devices: string[] }[] }).groups.map(({ devices }) => devices);
      expect(partition(asked)).toEqual(partition(there));
      expect(one.devices).toHaveLength(partition(there).flat().length);
    },
  );

  test("says what would change", async () => {
    const path = file("change.jsonl", recording("ports-beside-endpoint-functions"));
    const { out } = await uiommu("groups", path, "--assume-acs", "00:05.2", "--without", "01:00.0");
    expect(out).toMatch(/What would change:\n(?: {2}.*\n)+\n$/);
    expect(out).toContain("  02:00.0 would be alone; it is with 00:05.1, 00:05.2\n");
    expect(out).toContain("  01:00.0 would be gone\n");
    expect((await uiommu("groups", path, "--assume-acs", "00:05.0")).out).toContain("Nothing would change.\n");
  });
});

describe("what cannot be understood is one line, and status 2", () => {
  const [, flat] = recorded[0];
  const [, port] = recorded[1];
  const text = dump(port);
  const first = flat.devices[0];
  const device = { bdf: "0000:00:00.0", config: first.config };
  const bridge = (secondary: string): string =>
    `${"0".repeat(28)}01${"0".repeat(20)}${secondary}${secondary}`.padEnd(128, "0");
  const line = (...devices: object[]): string => JSON.stringify({ devices });

  test.each([
    ["an empty file", "", /empty; wanted is the output of: sudo lspci -xxxx$/],
    ["another text", "hello\nworld\n", /neither a dump of lspci -xxxx nor topologies as JSON lines$/],
    ["binary data", "\u0000\u0001\u0002", /neither a dump/],
    [
      "lspci without bytes",
      "00:00.0 Host bridge: X\n",
      /words of lspci without the bytes of configuration space; wanted is/,
    ],
    [
      "lspci -x",
      dumpOf("0000:00:00.0", first.config.slice(0, 128), 64),
      /has only 64 bytes of its configuration space/,
    ],
    [
      "a dump cut between lines",
      text.trimEnd().replace(/\n[^\n]*$/, ""),
      /0000:02:00\.0 ends after 4080 bytes: the dump is cut off$/,
    ],
    [
      "a dump cut within a line",
      text.trimEnd().slice(0, -5),
      /a line of 16 bytes was to be here; the dump is cut off or damaged$/,
    ],
    [
      "a dump cut after 256 bytes",
      text.slice(0, text.lastIndexOf("100: ")),
      /0000:02:00\.0 is PCI Express but ends after 256 bytes/,
    ],
    [
      "a dump that lacks a line",
      text.replace(/^30: .*\n/m, ""),
      /:5: offset 40 of 0000:00:00\.0 where 30 was to be: lines are missing$/,
    ],
    [
      "bytes as a page of HTML has them",
      text.replace("10: 00 ", "10: 00&nbsp;"),
      /:3: a line of 16 bytes was to be here/,
    ],
    ["a wrapped line that lost its end", text.replace(/^(10:(?: ..){9}) .*\n/m, "$1\n"), /:4: a line of 16 bytes/],
    [
      "a wrapped line that is too long",
      text.replace(/^(20:(?: ..){9}) /m, "$1\n00 "),
      /:5: more than 16 bytes in a line/,
    ],
    ["lspci -P", text.replace(/^01:00\.0/m, "00:01.0/00.0"), /lspci -P leaves out the numbers of buses; wanted/],
    [
      "one function without bytes",
      text.replace(/^10:(?:.*\n)+?\n/m, "\n").replace(/^00: .*\n/m, ""),
      /00\.0 has no bytes/,
    ],
    [
      "a device that slept",
      text.replace(/^02:00\.0(?:.*\n)+?\n/m, dumpOf("0000:02:00.0", "ff".repeat(256), 256)),
      /0000:02:00\.0 reads as nothing but ones: it slept in D3cold/,
    ],
    ["bytes that are none", text.replace("10: 00", "10: zz"), /a line of 16 bytes was to be here/],
    ["bytes of nobody", "00: 86 80\n", /bytes before the first function$/],
    [
      "lspci -xxx",
      port.devices.map(({ bdf, config }) => dumpOf(bdf, config.slice(0, 512), 256)).join(""),
      /its ACS cannot be seen in 256 bytes/,
    ],
    [
      "a function twice",
      dumpOf(first.bdf, first.config) + dumpOf(first.bdf, first.config),
      /^uiommu: 0000:00:00\.0 is there twice$/,
    ],
    ["a dump cut within a name", text.slice(0, text.indexOf("00:01.0") + 5), /the dump is cut off in its last line$/],
    ["half a JSON line", recorded[0][0].slice(0, -9), /:1: not JSON$/],
    ["another JSON", '{"a":1}', /:1: a topology has devices: \[\.\.\.\], at least one$/],
    ["no devices", line(), /:1: a topology has devices/],
    ["a device that is none", '{"devices":[7]}', /each of devices is an object, not 7$/],
    ["a wrong name", line({ ...device, bdf: "00:00.0" }), /a device's bdf is like "0000:00:01.0", not "00:00.0"$/],
    ["no bytes", line({ bdf: device.bdf }), /0000:00:00\.0 has no config/],
    ["odd digits", line({ ...device, config: "123" }), /the config of 0000:00:00\.0 is not hexadecimal bytes$/],
    ["too few bytes", line({ ...device, config: "12" }), /has 1 bytes; 16 to 4096 can be$/],
    ["the second line wrong", `${line(device)}\n[]\n`, /:2: a topology is an object, not \[\]$/],
    [
      "a wrong region",
      JSON.stringify({ devices: [device], groups: [{ id: 0, reserved: ["x"] }] }),
      /"x" is no reserved region$/,
    ],
    [
      "two ways to a bus",
      line(
        { bdf: "0000:00:01.0", config: bridge("02") },
        { bdf: "0000:00:02.0", config: bridge("02") },
        { bdf: "0000:02:00.0", config: first.config },
      ),
      /both 0000:00:01\.0 and 0000:00:02\.0 lead to bus 02$/,
    ],
    [
      "bridges in a circle",
      line({ bdf: "0000:02:01.0", config: bridge("03") }, { bdf: "0000:03:02.0", config: bridge("02") }),
      /leads to the bus above itself$/,
    ],
  ])("%s", async (_what, content, message) => {
    const { status, out, err } = await uiommu("groups", file("wrong", content));
    expect({ status, out }).toEqual({ status: 2, out: "" });
    expect(err).toMatch(/^uiommu: [^\n]*\n$/);
    expect(err.trimEnd()).toMatch(message);
  });

  test.each([
    [["--acs-override", "all"], '--acs-override takes downstream, multifunction, or both with a comma, not "all"'],
    [["--assume-acs", "1c"], '"1c" is no PCI function: 00:1c.0 or 0000:00:1c.0 would be'],
    [["--assume-acs", "00:1c.0"], "there is no PCI function 00:1c.0 in this topology"],
    [["--assume-acs", "00:00.0"], "0000:00:00.0 is conventional PCI, which has no ACS"],
    [["--without", "09:00"], "there is no PCI function 09:00 in this topology"],
    [["--asume-acs", "00:1c.0"], "unknown option '--asume-acs' (Did you mean --assume-acs?)"],
  ])("%s", async (options, message) => {
    const path = file("good.jsonl", recorded[0][0]);
    expect(await uiommu("groups", path, ...options)).toEqual({ status: 2, out: "", err: `uiommu: ${message}\n` });
  });

  test("files that cannot be read", async () => {
    expect((await uiommu("groups", join(folder, "absent"))).err).toBe(
      `uiommu: there is no file ${join(folder, "absent")}\n`,
    );
    expect((await uiommu("groups", folder)).err).toBe(
      `uiommu: ${folder} is a directory; wanted is the output of: sudo lspci -xxxx\n`,
    );
  });
});
