import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import Schema from "typebox/schema";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { traceSchema } from "../inspect/index.ts";

const folder = mkdtempSync(join(tmpdir(), "uiommu-run-"));
const program = join(folder, "dma-copy");
const olderProgram = join(folder, "type1-dma");
const vmm = join(folder, "nested-guest");
const sharingProgram = join(folder, "sva-copy");

beforeAll(() => {
  for (const target of [program, olderProgram, vmm, sharingProgram]) {
    const source = join(import.meta.dirname, `../../examples/${basename(target)}.c`);
    const { status, stderr } = spawnSync("cc", ["-Wall", "-Wextra", "-Werror", "-o", target, source], {
      encoding: "utf8",
    });
    expect(status, stderr).toBe(0);
  }
});
afterAll(() => rmSync(folder, { recursive: true }));

const root = join(import.meta.dirname, "../..");
const start = `
  const { main } = await import(${JSON.stringify(join(root, "src/cli/main.ts"))});
  const { processTerminal } = await import(${JSON.stringify(join(root, "src/cli/terminal.ts"))});
  process.exitCode = await main(process.argv.slice(1), processTerminal());`;

/** Runs `uiommu ARGUMENTS` as a process of its own, from the sources. */
function uiommu(...commandLine: string[]): { status: number | null; signal: string | null; out: string; err: string } {
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    ["--import", "tsx", "--input-type=module", "-e", start, "--", ...commandLine],
    { encoding: "utf8", cwd: root, timeout: 60_000, env: { ...process.env, NODE_OPTIONS: "" } },
  );
  return { status, signal, out: stdout, err: stderr };
}

test("uiommu serve: programs that are started elsewhere share one machine", async () => {
  const server = spawn(
    process.execPath,
    ["--import", "tsx", "--input-type=module", "-e", start, "--", "serve", "--machine", "two-edu"],
    { cwd: root, stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, NODE_OPTIONS: "" } },
  );
  const directory = await new Promise<string>((resolve) => {
    server.stdout.once("data", (line: Buffer) => resolve(line.toString().trim()));
  });
  const list = [
    "sh",
    "-c",
    "ls /dev/vfio/devices; echo vfio-pci > /sys/bus/pci/devices/0000:00:01.0/driver_override; exit 3",
  ];
  expect(uiommu("run", "--connect", directory, "--", ...list)).toMatchObject({
    status: 3,
    out: "vfio0\nvfio1\n",
    err: "",
  });
  const look = ["cat", "/sys/bus/pci/devices/0000:00:01.0/driver_override"];
  expect(uiommu("run", "--connect", directory, "--", ...look)).toMatchObject({ status: 0, out: "vfio-pci\n", err: "" });
  expect(uiommu("run", "--connect", directory, "--", program).out).toContain("Copied by the device");
  const told = new Promise<string>((resolve) => server.stderr.once("data", (text: Buffer) => resolve(text.toString())));
  const ended = new Promise((resolve) => server.once("exit", resolve));
  server.kill("SIGINT");
  expect(await told).toBe("uiommu: 2 DMA faults (run with --explain to see why)\n");
  expect(await ended).toBe(0);
  expect(uiommu("run", "--connect", directory, "--", "true").status).toBe(2);
});

describe("uiommu run", () => {
  test("leaves the output to the program, and tells of faults that nobody asked about", () => {
    const { status, out, err } = uiommu("run", "--", program);
    expect(err).toBe("uiommu: 2 DMA faults (run with --explain to see why)\n");
    expect(out).toContain("Copied by the device, not by the processor.");
    expect(status).toBe(0);
  });

  test("ends as the program ends, and is silent if nothing is wrong", () => {
    expect(uiommu("run", "--", "sh", "-c", "exit 7")).toEqual({ status: 7, signal: null, out: "", err: "" });
    expect(uiommu("run", "--", "sh", "-c", "kill -TERM $$")).toEqual({
      status: null,
      signal: "SIGTERM",
      out: "",
      err: "",
    });
  });

  test.runIf(process.getuid?.() === 0)("shows the machine's /sys, and lets root change it", () => {
    const script = "cd /sys/kernel/iommu_groups/0 && echo identity > type && cat type && ls && echo nonsense > type";
    const { status, out } = uiommu("run", "--", "sh", "-c", script);
    expect(out).toBe("identity\ndevices\nreserved_regions\ntype\n");
    expect(status).not.toBe(0);
  });

  test("--explain says which entry refused an access, and why a call was refused", () => {
    const { err } = uiommu("run", "--explain", "--", program);
    expect(err.split("\n")).toEqual([
      expect.stringMatching(/^DMA fault: write to 0x100000 by stream 0x8: F_PERMISSION: .*read-only/),
      expect.stringMatching(/^DMA fault: write to 0x300000 by stream 0x8: F_TRANSLATION: .*invalid/),
      "",
    ]);
  });

  test.skipIf(spawnSync("python3", ["--version"]).status !== 0)("serves a driver in Python", () => {
    const { out, err } = uiommu("run", "--", "python3", join(root, "examples/edu.py"));
    expect(err).toBe("");
    expect(out).toBe("vfio0: identification 0x010000ed\nCopied by the device.\n");
  });

  test("--trace writes every call as the schema says, in order", () => {
    const file = join(folder, "trace.jsonl");
    uiommu("run", "--trace", file, "--", program);
    const lines = readFileSync(file, "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    const validator = Schema.Compile(traceSchema);
    for (const line of lines) expect(validator.Check(line), JSON.stringify(line)).toBe(true);
    const ioctls = lines.map((line) => line.call).filter((name) => /^[A-Z]/.test(name));
    expect(ioctls).toEqual([
      "VFIO_DEVICE_BIND",
      "VFIO_DEVICE_GET_REGION_INFO",
      "VFIO_DEVICE_GET_REGION_INFO",
      "IOAS_ALLOC",
      "VFIO_DEVICE_ATTACH",
      "IOAS_MAP",
      "IOAS_MAP",
      "IOAS_UNMAP",
      "IOAS_UNMAP",
      "DESTROY",
    ]);
    expect(lines.at(-1)).toMatchObject({ call: "close", file: "iommufd" });
  });

  test("--verbose tells of the machine, its groups, opens, closes and totals", () => {
    const { err } = uiommu("run", "-v", "--", program);
    for (const part of [
      "machine default: 1 IOMMU",
      "group 2: 0000:00:03.0, 0000:00:03.1",
      "open of /dev/iommu",
      "close of iommufd",
      "0 refused, 2 DMA faults",
    ]) {
      expect(err).toContain(part);
    }
  });

  test("serves a program that knows containers and groups only, as Linux does", () => {
    const { status, out, err } = uiommu("run", "--", olderProgram);
    expect(err).toBe("uiommu: 1 DMA fault (run with --explain to see why)\n");
    expect(out.split("\n")).toEqual([
      "1. A container: API version 0, type 1: 1, type 1 v2: 1",
      "2. The group: viable 1, container set 1",
      "3. The container: pages of 4 KiB 1, capabilities 3 1",
      "4. The device: PCI 1, 9 regions, 5 interrupts",
      '5. The device copied: "Copied through a container."',
      "6. Unmapped from the middle: 2 pages",
      "   What is unmapped is out of reach: yes; what is not is not: yes",
      "   Unmapped, all that was left: 2 pages",
      "7. Closed; the group is free.",
      "",
    ]);
    expect(status).toBe(0);
  });

  test("serves a program whose memory accelerators use: page faults, fork, munmap in mid-flight, exit", () => {
    const { status, out, err } = uiommu("run", "--machine", "sva", "--", sharingProgram);
    expect(out).toBe(readFileSync(join(root, "examples/sva-copy.expected"), "utf8"));
    // What no page could be brought in for; all others were none to speak of.
    expect(err).toBe("uiommu: 3 DMA faults (run with --explain to see why)\n");
    expect(status).toBe(0);
  });

  test("serves a VMM whose guest has an SMMU: tables, invalidations, page requests and events of its own", () => {
    const { status, out, err } = uiommu("run", "--machine", "nested", "--", vmm);
    expect(out).toContain("4. A write to 0x101000 finds no page and waits: a page request");
    expect(out).toContain("event 0x10 of stream 0x42 at 0x102000");
    // The one that waited was no fault.
    expect(err).toBe("uiommu: 1 DMA fault (run with --explain to see why)\n");
    expect(status).toBe(0);
  });

  test.runIf(process.getuid?.() === 0)(
    "lets root remove devices and find them again, and waits for who has one open",
    () => {
      const script = `cd /sys/bus/pci/devices
      echo 1 > 0000:01:00.0/remove && ls . /dev/vfio/devices
      echo 1 > ../rescan && ls . | wc -l && ls -d /sys/kernel/iommu_groups/* | wc -l
      exec 5<>/dev/vfio/devices/vfio2
      (exec 5>&-; echo 1 > 0000:06:01.0/remove; echo gone) &
      while test -e /dev/vfio/devices/vfio2; do :; done
      test -e 0000:06:01.0 && echo still there
      exec 5>&-; wait; test -e 0000:06:01.0 || echo not there any more`;
      const { status, out, err } = uiommu("run", "--machine", "switch", "--", "sh", "-c", script);
      expect(err).toBe("");
      expect(out.split("\n").map((line) => line.trim())).toEqual([
        ".:",
        ...["0000:00:01.0", "0000:00:02.0", "0000:05:00.0", "0000:06:01.0", ""],
        "/dev/vfio/devices:",
        "vfio2",
        ...["9", "7", "still there", "gone", "not there any more", ""],
      ]);
      expect(status).toBe(0);
    },
  );

  test("a machine's memlock is the limit of clients that may not exceed it", () => {
    const tight = join(folder, "tight.yaml");
    writeFileSync(tight, "memory: { memlock: 4KiB }\ndevices: [{ model: edu }]\n");
    // CAP_IPC_LOCK lifts the limit: root gives it up.
    const plain = process.getuid?.() === 0 ? ["setpriv", "--inh-caps=-all", "--bounding-set=-all", program] : [program];
    expect(uiommu("run", "--machine", tight, "--explain", "--", ...plain).err).toContain("IOAS_MAP: ENOMEM: ");
  });

  test("--machine takes a preset or a file", () => {
    const lab = join(folder, "lab.yaml");
    writeFileSync(lab, "devices: [{ model: edu, address: '00:1f.0' }]\n");
    expect(uiommu("run", "--machine", lab, "--", "ls", "/sys/bus/pci/devices").out).toBe("0000:00:1f.0\n");
    expect(uiommu("run", "--machine", "empty", "--", "ls", "/sys/bus/pci/devices").out).toBe("");
  });
});

test("uiommu demo tells the story to its end, in 80 columns", () => {
  const { status, out, err } = uiommu("demo");
  expect(err).toBe("");
  expect(status).toBe(0);
  for (const part of ["The machine", "The IOMMU refused it:", "F_PERMISSION", "F_TRANSLATION", "What happened"]) {
    expect(out).toContain(part);
  }
  for (const line of out.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
});
