/** Platform devices as people meet them: in the file, in the picture, under /sys, and by their DMA. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LibraryProcess } from "../memory/index.ts";
import { PROT_READ, PROT_WRITE } from "../pagetable/index.ts";
import { ENODEV, Refusal, type Task } from "../runtime/index.ts";
import {
  buildMachine,
  defineMachine,
  describeMachine,
  type MachineInput,
  parseMachine,
  summarizeMachine,
} from "./index.ts";

/** In RAM, far from what drivers have taken. */
const RAM = 0x7000_0000;
const IOVA = 0x10_0000n;

function build(input: MachineInput) {
  const machine = buildMachine(defineMachine(input));
  const run = <T>(code: Task<T>): T => machine.system.run("test", code);
  const link = (path: string): string | undefined => {
    const node = machine.files.nodes.get(path);
    return node?.kind === "link" ? node.target : undefined;
  };
  const groups = (): (number | undefined)[] => machine.devices.map(({ group }) => group?.id);
  return { machine, run, link, groups };
}

const two: MachineInput = {
  platform: [
    { name: "dma0", streams: [0x1000, 0x1001] },
    { name: "9050000.codec", streams: [0x1002] },
  ],
  devices: [{ model: "edu" }],
};

describe("platform devices", () => {
  it("are each alone in a group, and have the first numbers", () => {
    const { machine } = build(two);
    expect(machine.devices.map(({ name, group }) => [name, group?.id])).toEqual([
      ["dma0", 0],
      ["9050000.codec", 1],
      ["0000:00:01.0", 2],
    ]);
  });

  it("have the links and files that Linux gives them", () => {
    const { machine, link } = build(two);
    const path = "/sys/devices/platform/dma0";
    const smmu = "smmu3.0x0000000009050000";
    expect(link("/sys/bus/platform/devices/dma0")).toBe("../../../devices/platform/dma0");
    expect(link(`${path}/subsystem`)).toBe("../../../bus/platform");
    expect(link(`${path}/iommu_group`)).toBe("../../../kernel/iommu_groups/0");
    expect(link("/sys/kernel/iommu_groups/0/devices/dma0")).toBe("../../../../devices/platform/dma0");
    expect(link(`/sys/devices/virtual/iommu/${smmu}/devices/dma0`)).toBe("../../../../platform/dma0");
    expect(link(`${path}/iommu`)).toBe(`../../virtual/iommu/${smmu}`);
    // Else the host would hide the computer's own.
    expect(machine.files.nodes.has("/sys/bus/platform/devices")).toBe(false);
    const texts = ["modalias", "uevent"].map((name) => {
      const node = machine.files.nodes.get(`${path}/${name}`);
      return node?.kind === "text" ? node.read() : undefined;
    });
    expect(texts).toEqual(["platform:dma0\n", "MODALIAS=platform:dma0\n"]);
  });

  it("leave nothing behind when the machine is powered down", () => {
    const { machine, run, groups } = build(two);
    const paths = (): string[] => [...machine.files.nodes.keys()].filter((path) => path.includes("dma0"));
    expect(paths()).not.toEqual([]);
    run(machine.powerDown());
    expect([groups(), paths(), machine.core.groups.size]).toEqual([[], [], 0]);
  });

  it("are asked for by name", () => {
    const { machine } = build(two);
    expect(machine.platform("dma0").description.streams).toEqual([0x1000, 0x1001]);
    let refusal: unknown;
    try {
      machine.platform("dma1");
    } catch (error) {
      refusal = error;
    }
    expect(refusal instanceof Refusal && refusal.errno).toBe(ENODEV);
  });
});

describe.each(["smmuv3", "virtio-iommu"] as const)("DMA of a platform device behind a %s", (kind) => {
  const iommus = [{ kind }];

  it("reaches through each of its ids what its group translates to, and nothing else", () => {
    const { machine, run } = build({ ...two, iommus });
    const platform = machine.platform("dma0");
    const { device, dma } = platform;
    const other = machine.platform("9050000.codec");
    const domain = run(device.iommu!.instance.driver.allocatePaging(device, 0, undefined));
    const group = device.group!;
    run(group.claim(device, {}));
    run(group.attach(domain, {}));
    run(domain.map(IOVA, RAM, 4096, PROT_READ | PROT_WRITE));
    const read = new Uint8Array(1);
    expect(run(dma.write(IOVA, Uint8Array.of(42)))).toBe(true);
    expect([run(platform.dmaUnder(0x1001).read(IOVA, read)), read[0]]).toEqual([true, 42]);
    machine.memory.read(RAM, read);
    expect(read[0]).toBe(42);
    expect(run(dma.read(IOVA + 4096n, read))).toBe(false);
    expect(run(other.dma.read(IOVA, read))).toBe(false);
    run(group.detach());
    expect(run(dma.read(IOVA, read))).toBe(false);
    run(group.disclaim());
    domain.free();
  });

  it("reaches memory as it is where its default domain is identity, or there is no IOMMU", () => {
    const { machine, run } = build({
      iommus,
      platform: [
        { name: "direct", streams: [7], defaultDomain: "identity" },
        { name: "free", iommu: "none" },
      ],
    });
    for (const name of ["direct", "free"]) {
      const { dma, device } = machine.platform(name);
      const read = new Uint8Array(1);
      expect(run(dma.write(BigInt(RAM), Uint8Array.of(7)))).toBe(true);
      expect([run(dma.read(BigInt(RAM), read)), read[0]]).toEqual([true, 7]);
      expect(device.group?.id).toBe(name === "direct" ? 0 : undefined);
    }
  });
});

it("a platform device that stalls and has PASIDs uses the memory of a process", () => {
  const { machine, run } = build({ platform: [{ name: "accelerator", streams: [0x1000], canStall: true, pasid: 8 }] });
  const { device, dma } = machine.platform("accelerator");
  expect(device.iommu!.maxPasids).toBe(256);
  const process = new LibraryProcess(machine.system, machine.memory);
  const page = process.memory.map(1);
  process.memory.write(page, Uint8Array.of(42));
  const handle = run(machine.sva.bind(device, process.memory));
  const read = new Uint8Array(1);
  expect([run(dma.read(BigInt(page), read, handle.pasid)), read[0]]).toEqual([true, 42]);
  run(machine.sva.unbind(handle));
  expect(run(dma.read(BigInt(page), read, handle.pasid))).toBe(false);
});

it("reserved regions of a platform device are its group's", () => {
  const { machine } = build({
    platform: [{ name: "dma0", streams: [1], reserved: [{ type: "reserved", start: 0x9000_0000, size: "64KiB" }] }],
  });
  const regions = machine.platform("dma0").device.group!.reservedRegions();
  expect(regions).toContainEqual({ type: "reserved", start: 0x9000_0000n, last: 0x9000_ffffn });
});

it("the picture has platform devices with their ids, groups and what they can do", () => {
  const machine = defineMachine({
    platform: [
      { name: "dma0", streams: [0x1000, 0x1001], canStall: true, pasid: 8 },
      { name: "free", iommu: "none" },
    ],
  });
  expect(describeMachine(machine).split("\n").slice(-5)).toEqual([
    "platform",
    "├─ dma0  group 0  behind smmu0",
    "│           stream ids 0x1000, 0x1001; stalls; 8-bit PASIDs",
    "└─ free  no IOMMU: no group, DMA reaches memory untranslated",
    "",
  ]);
  expect(summarizeMachine(machine)).toBe("1 IOMMU, no device functions, 2 platform devices, 1 group");
});

describe("a mistake under platform is told with its place and what would be right", () => {
  it.each<[what: string, text: string, message: string]>([
    [
      "an id of a PCI function",
      "devices: [{ model: edu }]\nplatform:\n  - { name: a, streams: [8] }",
      "3:26: platform[0].streams[0] is 0x8, which behind smmu0 is an id of 00:01.0, and an id is one device's; 0x9 is free",
    ],
    [
      "the id that a bridge gives what is behind it",
      "devices: [{ model: pcie-to-pci-bridge }]\nplatform:\n  - { name: a, streams: [256] }",
      "3:26: platform[0].streams[0] is 0x100, which behind smmu0 is an id of 00:01.0, and an id is one device's; 0x101 is free",
    ],
    [
      "an id of another",
      "platform:\n  - { name: a, streams: [1, 2] }\n  - { name: b, streams: [1] }",
      "3:26: platform[1].streams[0] is 0x1, which behind smmu0 is an id of platform[0], and an id is one device's; 0x3 is free",
    ],
    [
      "an id beyond the stream table",
      "iommus: [{ kind: smmuv3, features: { streamIdBits: 8 } }]\nplatform:\n  - { name: a, streams: [256] }",
      "3:26: platform[0].streams[0] is 0x100, but smmu0 has ids of 8 bits; at most 0xff is right",
    ],
    [
      "no ids",
      "platform: [{ name: a }]",
      '1:12: platform[0] has no "streams"; behind smmu0 it must have a list of ids such as [0x1000]',
    ],
    [
      "ids without IOMMU",
      "platform: [{ name: a, iommu: none, streams: [1] }]",
      "1:36: platform[0].streams are ids for an IOMMU, and the device has none; leave it out",
    ],
    [
      "an unknown IOMMU",
      "platform: [{ name: a, iommu: smu0, streams: [1] }]",
      '1:30: platform[0] is behind the IOMMU "smu0", which does not exist; did you mean "smmu0"?',
    ],
    [
      "a name twice",
      "platform:\n  - { name: a, streams: [1] }\n  - { name: a, streams: [2] }",
      '3:13: platform[0] and platform[1] are both called "a"; names must differ',
    ],
    [
      "stalls behind a virtio IOMMU",
      "iommus: [{ kind: virtio-iommu }]\nplatform: [{ name: a, streams: [1], canStall: true }]",
      "2:47: platform[0].canStall is true, but only an smmuv3 stalls, and viommu0 is a virtio-iommu",
    ],
  ])("%s", async (_what, text, message) => {
    await expect(parseMachine(text, "lab.yaml")).rejects.toThrow(`lab.yaml:${message}`);
  });

  it("but ids behind different IOMMUs may be the same", () => {
    const { groups } = build({
      iommus: [{ kind: "smmuv3" }, { kind: "smmuv3" }],
      platform: ["smmu0", "smmu1"].map((iommu, index) => ({ name: `dma${index}`, iommu, streams: [8] })),
    });
    expect(groups()).toEqual([0, 1]);
  });
});

it("a function that is plugged in under an id of a platform device is left without a group", () => {
  const { machine, run } = build({ platform: [{ name: "dma0", streams: [8] }] });
  const [member] = run(machine.plug({ model: "edu", address: "00:01.0" }));
  const device = machine.deviceOf(member)!;
  expect(device.group).toBeUndefined();
  expect(machine.whyUnserved(device)).toBe("stream id 0x8 of device 0000:00:01.0 is device dma0's");
});

it("the example of the manual works", async () => {
  const manual = readFileSync(join(import.meta.dirname, "../../docs/machine-files.md"), "utf8");
  const example = /```yaml\n(platform:.*?)```/s.exec(manual)![1];
  const lab = buildMachine(await parseMachine(example, "lab.yaml"));
  const { dma } = lab.platform("dma0");
  expect(lab.system.run("dma", dma.write(0x7000_0000n, Uint8Array.of(1, 2, 3, 4)))).toBe(true);
  expect(lab.platform("9050000.codec").device.iommu!.maxPasids).toBe(256);
});
