/**
 * QEMU, unmodified, as a client: it passes a device of the machine through to a guest. No guest runs; QEMU's qtest
 * protocol does instead what a guest's processor would do: ports, registers, memory.
 */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterEach, describe, expect, test } from "vitest";

const qemu = "qemu-system-x86_64";
const version = spawnSync(qemu, ["--version"], { encoding: "utf8" }).stdout?.match(/version (\d+)\.(\d+)/);
const isInstalled = version !== undefined && version !== null;
const knowsIommufd = isInstalled && Number(version[1]) * 100 + Number(version[2]) >= 802;

const root = join(import.meta.dirname, "../..");
const start = `
  const { main } = await import(${JSON.stringify(join(root, "src/cli/main.ts"))});
  const { processTerminal } = await import(${JSON.stringify(join(root, "src/cli/terminal.ts"))});
  process.exitCode = await main(process.argv.slice(1), processTerminal());`;

/** Where the guest has the device: slot 4, its BAR at 0xe0000000. */
const SLOT = 4;
const BAR = 0xe0000000;

/** Registers of the edu device (QEMU's docs/specs/edu). */
const IDENTIFICATION = BAR;
const FACTORIAL = BAR + 0x08;
const STATUS = BAR + 0x20;
const ACKNOWLEDGE = BAR + 0x64;
const DMA = { source: BAR + 0x80, destination: BAR + 0x88, count: BAR + 0x90, command: BAR + 0x98 };
const BUFFER = 0x40000;

class Guest {
  readonly child: ChildProcessWithoutNullStreams;
  readonly ended: Promise<{ status: number | null; err: string }>;
  private readonly waiting: ((line: string) => void)[] = [];

  constructor(machine: string, memory: string, ...devices: string[]) {
    const guest = [
      "-accel",
      "tcg",
      "-S",
      "-qtest",
      "stdio",
      "-qtest-log",
      "/dev/null",
      "-nodefaults",
      "-display",
      "none",
    ];
    this.child = spawn(process.execPath, [
      ...["--import", "tsx", "--input-type=module", "-e", start, "--", "run", "--machine", machine, "--", qemu],
      ...[...guest, "-machine", "pc", "-m", memory, ...devices],
    ]);
    createInterface(this.child.stdout).on("line", (line) => this.waiting.shift()?.(line));
    let err = "";
    this.child.stderr.on("data", (data) => {
      err += data;
    });
    this.ended = new Promise((resolve) => {
      this.child.once("close", (status) => {
        for (const done of this.waiting.splice(0)) done(`QEMU has ended: ${err}`);
        resolve({ status, err });
      });
    });
  }

  /** A command of the qtest protocol; what it answers behind "OK". */
  async tell(...words: (string | number)[]): Promise<string> {
    const answer = new Promise<string>((resolve) => this.waiting.push(resolve));
    this.child.stdin.write(
      `${words.map((word) => (typeof word === "number" ? `0x${word.toString(16)}` : word)).join(" ")}\n`,
    );
    const line = await answer;
    expect(line).toMatch(/^OK/);
    return line.slice(3);
  }

  async ask(...words: (string | number)[]): Promise<number> {
    return Number(await this.tell(...words));
  }

  async config(offset: number, value: number): Promise<void> {
    await this.tell("outl", 0xcf8, 0x80000000 + SLOT * 0x800 + offset);
    await this.tell("outl", 0xcfc, value);
  }

  async transfer(source: number, destination: number, count: number, command: number): Promise<void> {
    await this.tell("writeq", DMA.source, source);
    await this.tell("writeq", DMA.destination, destination);
    await this.tell("writeq", DMA.count, count);
    await this.tell("writeq", DMA.command, command);
    while ((await this.ask("readq", DMA.command)) & 1);
  }

  /** What a driver does with the device: its registers, DMA from memory and back, a message interrupt. */
  async drive(memory: number): Promise<void> {
    const [source, target, doorbell] = [memory, memory + 0x1000, memory + 0x2000];
    await this.config(0x10, BAR);
    await this.config(0x04, 0x6);
    expect(await this.ask("readl", IDENTIFICATION)).toBe(0x010000ed);
    await this.tell("writel", FACTORIAL, 10);
    while ((await this.ask("readl", STATUS)) & 1);
    expect(await this.ask("readl", FACTORIAL)).toBe(3628800);

    const text = `0x${Buffer.from("guest RAM through an SMMUv3").toString("hex")}`;
    const length = text.length / 2 - 1;
    await this.tell("write", source, length, text);
    await this.transfer(source, BUFFER, length, 1);
    await this.transfer(BUFFER, target, length, 3);
    expect(await this.tell("read", target, length)).toBe(text);

    // MSI goes where the guest says: here to its memory, where it can be seen.
    await this.config(0x44, doorbell);
    await this.config(0x4c, 0x4321);
    await this.config(0x40, 0x00010000);
    await this.transfer(source, BUFFER, length, 5);
    while ((await this.ask("readl", doorbell)) !== 0x4321);
    await this.tell("writel", ACKNOWLEDGE, 0x100);
  }

  /** QEMU is asked to end; nobody has anything to complain about, but QEMU of a device that knows no reset. */
  async end(): Promise<void> {
    this.child.kill("SIGTERM");
    const { status, err } = await this.ended;
    const usual = /Cannot reset device|terminating on signal 15/;
    expect(err.split("\n").filter((line) => !usual.test(line))).toEqual([""]);
    expect(status).toBe(0);
  }
}

describe.skipIf(!isInstalled)(`QEMU as a client (skipped where there is no ${qemu})`, () => {
  let guest: Guest | undefined;
  afterEach(() => void guest?.child.kill());

  test("drives a device through the group and container files", async () => {
    guest = new Guest("two-edu", "64M", "-device", "vfio-pci,host=0000:00:01.0,addr=4");
    await guest.drive(0x100000);
    await guest.end();
  }, 60_000);

  test("with more memory than lies below the doorbell of Arm's machines, and below 4 GiB", async () => {
    guest = new Guest("vmm", "5G", "-device", "vfio-pci,host=0000:00:02.0,addr=4");
    await guest.drive(0x40000000);
    await guest.end();
  }, 60_000);

  test.skipIf(!knowsIommufd)(
    "drives a device through /dev/iommu and its own file",
    async () => {
      const device = "vfio-pci,host=0000:00:01.0,addr=4,iommufd=iommufd0";
      guest = new Guest("vmm", "1G", "-object", "iommufd,id=iommufd0", "-device", device);
      await guest.drive(0x20000000);
      await guest.end();
    },
    60_000,
  );
});
