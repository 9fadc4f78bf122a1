import { readFileSync } from "node:fs";
import { join } from "node:path";
import Schema from "typebox/schema";
import { describe, expect, test } from "vitest";
import {
  defineMachine,
  describeMachine,
  MachineError,
  machineSchema,
  parseMachine,
  pciAddress,
  presetInputs,
  presets,
  summarizeMachine,
  writeMachine,
} from "./index.ts";

async function mistakes(text: string): Promise<string> {
  try {
    await parseMachine(text, "lab.yaml");
  } catch (error) {
    if (error instanceof MachineError) return error.message;
    throw error;
  }
  return "no mistake";
}

describe("a machine file", () => {
  test("says only what matters; everything else has a default", async () => {
    const machine = await parseMachine("devices: [{ model: edu }]", "machines/lab.yaml");
    expect(machine).toEqual({
      name: "lab",
      about: "",
      memory: { base: 0x40000000, size: 2 ** 30, memlock: "inherit" },
      doorbell: 0x8000000,
      defaultDomain: "dma",
      iommus: [
        {
          name: "smmu0",
          kind: "smmuv3",
          base: 0x9050000,
          features: {
            stage1: true,
            stage2: true,
            rangeInvalidation: true,
            dirtyTracking: false,
            broadcastTlb: false,
            twoLevelStreamTable: true,
            coherent: true,
            ats: false,
            pri: false,
            granules: [4096, 16384, 65536],
            outputBits: 48,
            asidBits: 16,
            vmidBits: 16,
            pasidBits: 16,
            streamIdBits: 16,
          },
        },
      ],
      bridges: [],
      devices: [
        {
          model: "edu",
          address: { bus: 0, device: 1, function: 0 },
          multifunction: false,
          iommu: "smmu0",
          driver: "vfio-pci",
          untrusted: false,
          defaultDomain: undefined,
          reserved: [],
          canStall: false,
          capabilities: { express: false, flr: false, acs: false, ats: false, pri: false, pasidBits: 0 },
          options: { dmaMaskBits: 28 },
        },
      ],
      platform: [],
    });
  });

  test.each([
    ["65536", 65536 * 32],
    ["0x200000", 2 ** 21],
    ['"0x200000"', 2 ** 21],
    ["2048KiB", 2 ** 21],
    ["2 MiB", 2 ** 21],
    ["1TiB", 2 ** 40],
    ["2097152 B", 2 ** 21],
  ])("reads the size %s", async (text, size) => {
    const written = text === "65536" ? "2097152" : text;
    expect((await parseMachine(`memory: { size: ${written} }`, "m.yaml")).memory.size).toBe(size);
  });

  test("gives out automatic addresses around explicit ones, and puts functions in order", async () => {
    const machine = await parseMachine(
      "devices: [{ model: edu }, { model: edu, address: '00:02.0', functions: 2 }, { model: edu }, { model: edu, address: '0000:00:01' }]",
      "m.yaml",
    );
    expect(machine.devices.map((device) => `${pciAddress(device.address)} ${device.multifunction}`)).toEqual([
      "00:01.0 false",
      "00:02.0 true",
      "00:02.1 true",
      "00:03.0 false",
      "00:04.0 false",
    ]);
  });

  test("two entries may share a slot, and are then one device with two functions", async () => {
    const text =
      "devices: [{ model: edu, address: '00:05.0' }, { model: edu, address: '00:05.1', capabilities: { acs: true } }]";
    const machine = await parseMachine(text, "m.yaml");
    expect(machine.devices.map((device) => device.multifunction)).toEqual([true, true]);
    expect(summarizeMachine(machine)).toBe("1 IOMMU, 2 device functions, 2 groups");
  });

  test("names IOMMUs and places their registers beside the ones that were written", async () => {
    const { iommus } = await parseMachine(
      "iommus: [{ kind: smmuv3, base: 0x9060000, name: smmu0 }, { kind: smmuv3 }]",
      "m.yaml",
    );
    expect(iommus.map(({ name, base }) => `${name} ${base.toString(16)}`)).toEqual(["smmu0 9060000", "smmu1 9090000"]);
  });

  test("binds vfio-pci only where Linux would: behind a coherent IOMMU", async () => {
    const bound = async (text: string) => (await parseMachine(text, "m.yaml")).devices[0].driver;
    expect(await bound("devices: [{ model: edu }]")).toBe("vfio-pci");
    expect(await bound("devices: [{ model: edu, driver: none }]")).toBeUndefined();
    expect(await bound("devices: [{ model: edu, iommu: none }]")).toBeUndefined();
    expect(await bound("{ iommus: [], devices: [{ model: edu }] }")).toBeUndefined();
    expect(
      await bound("{ iommus: [{ kind: smmuv3, features: { coherent: false } }], devices: [{ model: edu }] }"),
    ).toBeUndefined();
  });

  test("a copy engine can send PASIDs, has four queues and waits for pages, unless told otherwise", async () => {
    const engines =
      "devices:\n  - model: copy-engine\n  - { model: copy-engine, canStall: false, options: { queues: 1 } }";
    const { devices } = await parseMachine(engines, "m.yaml");
    expect(devices.map(({ capabilities, canStall, options }) => [capabilities.pasidBits, canStall, options])).toEqual([
      [16, true, { queues: 4 }],
      [16, false, { queues: 1 }],
    ]);
  });

  test("may be JSON, use anchors and merges, and stand in a file without an end of line", async () => {
    expect((await parseMachine('{"name": "json", "devices": []}', "m.json")).name).toBe("json");
    const merged =
      "devices:\n  - &first { model: edu, options: { dmaMask: 64 } }\n  - { <<: *first, address: '00:09.0' }";
    expect((await parseMachine(merged, "m.yaml")).devices.map(({ options }) => options)).toEqual([
      { dmaMaskBits: 64 },
      { dmaMaskBits: 64 },
    ]);
  });
});

describe("a mistake is told with file, line and column, and with what would be right", () => {
  const lab = (line: number, column: number, message: string) => `lab.yaml:${line}:${column}: ${message}`;
  const mapping = "it must be a mapping with keys such as name, about, memory";
  test.each<[what: string, text: string, message: string]>([
    ["an empty file", "", lab(1, 1, `the machine is empty; ${mapping}`)],
    ["a list", "- 1", lab(1, 1, `the machine is [1]; ${mapping}`)],
    [
      "no YAML",
      "a: [",
      lab(1, 5, "not valid YAML: Flow sequence in block collection must be sufficiently indented and end with a ]"),
    ],
    ["a tab", "memory:\n\tsize: 1GiB", lab(2, 1, "not valid YAML: Tabs are not allowed as indentation")],
    [
      "an unknown anchor",
      "name: *lab",
      lab(1, 1, "not valid YAML: Unresolved alias (the anchor must be set before the alias): lab"),
    ],
    ["an unknown tag", "name: !lab x", lab(1, 7, "not valid YAML: Unresolved tag: !lab")],
    [
      "two machines",
      "name: a\n---\nname: b",
      lab(2, 1, `a second machine begins; a file has one, so no line is "---"`),
    ],
    ["a key twice", "name: a\nabout: b\nname: c", lab(3, 1, 'the key "name" appears twice; keep one of them')],
    [
      "an unknown key, nearly known",
      "devces: []",
      lab(1, 1, 'unknown key "devces" in the machine; did you mean "devices"?'),
    ],
    [
      "an unknown key",
      "memory:\n  colour: red",
      lab(2, 3, 'unknown key "colour" in memory; known keys: base, size, memlock'),
    ],
    [
      "an unknown key deep inside",
      "devices:\n  - model: edu\n    capabilities:\n      asc: true",
      lab(4, 7, 'unknown key "asc" in devices[0].capabilities; did you mean "acs"?'),
    ],
    [
      "a key without its value",
      "devices:",
      lab(1, 9, "devices is empty; it must be a list, each item beginning with a hyphen"),
    ],
    [
      "a mapping for a list",
      "devices: { model: edu }",
      lab(1, 10, "devices is a mapping; it must be a list, each item beginning with a hyphen"),
    ],
    [
      "a missing key",
      "devices:\n  - address: 00:01.0",
      lab(
        2,
        5,
        'devices[0] has no "model"; it must be one of the known models: edu, copy-engine, root-port, upstream-port, downstream-port, pcie-to-pci-bridge, pci-bridge',
      ),
    ],
    [
      "an unknown model",
      "devices:\n  - model: e1000",
      lab(
        2,
        12,
        'devices[0].model is "e1000"; it must be one of the known models: edu, copy-engine, root-port, upstream-port, downstream-port, pcie-to-pci-bridge, pci-bridge',
      ),
    ],
    [
      "a feature of another kind of IOMMU",
      "iommus:\n  - kind: virtio-iommu\n    features: { stage1: true }",
      lab(3, 17, "iommus[0].features.stage1 is a feature of the kind smmuv3, and this is a virtio-iommu; leave it out"),
    ],
    [
      "a feature of virtio-iommu in an SMMU",
      "iommus:\n  - kind: smmuv3\n    features: { bypass: on }",
      lab(3, 17, "iommus[0].features.bypass is a feature of the kind virtio-iommu, and this is a smmuv3; leave it out"),
    ],
    [
      "an unknown kind",
      "iommus:\n  - kind: vtd",
      lab(2, 11, 'iommus[0].kind is "vtd"; it must be one of the known kinds: smmuv3, virtio-iommu'),
    ],
    [
      "a wrong choice",
      "defaultDomain: identiy",
      lab(1, 16, 'defaultDomain is "identiy"; it must be one of dma, dma-fq, identity; did you mean identity?'),
    ],
    [
      "a wrong driver",
      "devices: [{ model: edu, driver: vfio }]",
      lab(1, 33, 'devices[0].driver is "vfio"; it must be one of vfio-pci, uacce, edu, none'),
    ],
    [
      "a size without its unit",
      "memory:\n  size: 1GB",
      lab(2, 9, 'memory.size is "1GB"; it must be a size such as 64KiB, 1GiB or 0x40000000'),
    ],
    [
      "a negative size",
      "memory: { size: -1 }",
      lab(1, 17, "memory.size is -1; it must be a size such as 64KiB, 1GiB or 0x40000000"),
    ],
    [
      "half a byte",
      "memory: { size: 1.5 }",
      lab(1, 17, "memory.size is 1.5; it must be a size such as 64KiB, 1GiB or 0x40000000"),
    ],
    ["no memory", "memory: { size: 0B }", lab(1, 17, "memory.size is 0; it must be at least 2MiB")],
    [
      "an odd size",
      "memory: { size: 3MiB }",
      lab(1, 17, "memory.size is 0x300000; it must be a multiple of 2 MiB, such as 0x200000 or 0x400000"),
    ],
    [
      "too much memory",
      "memory: { size: 5000TiB }",
      lab(
        1,
        9,
        "memory ends at 0x13880040000000; physical addresses have 52 bits, so it must end at or below 0x10000000000000",
      ),
    ],
    [
      "a doorbell in memory",
      "doorbell: 0x40000000",
      lab(
        1,
        11,
        "the doorbell at 0x40000000-0x400fffff lies in memory (0x40000000-0x7fffffff); it must lie outside: 0x8000000 or 0xfee00000 is a usual place",
      ),
    ],
    [
      "a doorbell on registers",
      "doorbell: 0x9000000",
      lab(
        1,
        11,
        "the doorbell at 0x9000000-0x90fffff overlaps the registers of smmu0 at 0x9050000; 0x8000000 or 0xfee00000 is a usual place",
      ),
    ],
    [
      "half a doorbell",
      "doorbell: 0xfee80000",
      lab(1, 11, "doorbell is 0xfee80000; it must be a multiple of 1 MiB: 0x8000000 or 0xfee00000 is a usual place"),
    ],
    [
      "a wrong limit",
      "memory: { memlock: none }",
      lab(1, 20, 'memory.memlock is "none"; it must be a size such as 8MiB, or unlimited, or inherit'),
    ],
    [
      "a number for a switch",
      "iommus: [{ kind: smmuv3, features: { stage1: 1 } }]",
      lab(1, 46, "iommus[0].features.stage1 is 1; it must be true or false"),
    ],
    [
      "out of range",
      "devices: [{ model: edu, functions: 9 }]",
      lab(1, 36, "devices[0].functions is 9; it must be a whole number from 1 to 8"),
    ],
    [
      "a width that no register can say",
      "iommus: [{ kind: smmuv3, features: { asidBits: 12 } }]",
      lab(1, 48, "iommus[0].features.asidBits is 12; it must be one of 8, 16"),
    ],
    [
      "a granule that is none",
      "iommus: [{ kind: smmuv3, features: { granules: [8KiB] } }]",
      lab(1, 49, 'iommus[0].features.granules[0] is "8KiB"; it must be one of 4KiB, 16KiB, 64KiB'),
    ],
    [
      "no granule",
      "iommus: [{ kind: smmuv3, features: { granules: [] } }]",
      lab(1, 48, "iommus[0].features.granules is an empty list; it must be a list such as [4KiB, 64KiB]"),
    ],
    [
      "no stage",
      "iommus: [{ kind: smmuv3, features: { stage1: false, stage2: false } }]",
      lab(1, 36, "iommus[0].features has neither stage1 nor stage2; at least one must be true"),
    ],
    [
      "PASIDs without stage 1",
      "iommus: [{ kind: smmuv3, features: { stage1: false, pasidBits: 4 } }]",
      lab(1, 64, "iommus[0].features.pasidBits is 4, but PASIDs need stage1; 0 is right without it"),
    ],
    [
      "a linear table too wide",
      "iommus: [{ kind: smmuv3, features: { twoLevelStreamTable: false, streamIdBits: 20 } }]",
      lab(
        1,
        80,
        "iommus[0].features.streamIdBits is 20, but a linear stream table covers 16; at most 16, or twoLevelStreamTable, is right",
      ),
    ],
    [
      "memory that the IOMMU cannot reach",
      "memory: { size: 4GiB }\niommus:\n  - kind: smmuv3\n    features: { outputBits: 32 }",
      lab(
        4,
        29,
        "smmu0 has physical addresses of 32 bits, but memory ends at 0x140000000; more outputBits or a lower memory is right",
      ),
    ],
    [
      "two IOMMUs of one name",
      "iommus:\n  - { kind: smmuv3, name: a }\n  - { kind: smmuv3, name: a }",
      lab(3, 27, 'iommus[1] and iommus[0] are both called "a"; names must differ'),
    ],
    [
      "an IOMMU called none",
      "iommus: [{ kind: smmuv3, name: none }]",
      lab(1, 32, 'an IOMMU cannot be called "none": that means no IOMMU; another name is right'),
    ],
    [
      "a name in capitals",
      "name: Lab",
      lab(1, 7, 'name is "Lab"; it must be a name of lower-case letters, digits and hyphens'),
    ],
    [
      "unaligned registers",
      "iommus: [{ kind: smmuv3, base: 0x9050004 }]",
      lab(1, 32, "iommus[0].base is 0x9050004; it must be a multiple of 64 KiB, such as 0x9050000"),
    ],
    [
      "registers in memory",
      "iommus: [{ kind: smmuv3, base: 0x50000000 }]",
      lab(
        1,
        32,
        "registers at 0x50000000-0x5001ffff lie in memory (0x40000000-0x7fffffff); they must lie outside, such as at 0x9050000",
      ),
    ],
    [
      "registers over registers",
      "iommus:\n  - { kind: smmuv3, base: 0x9050000 }\n  - { kind: smmuv3, base: 0x9060000 }",
      lab(3, 27, "registers at 0x9060000-0x907ffff overlap those of smmu0 at 0x9050000; 0x9070000 is free"),
    ],
    [
      "registers out of this world",
      "iommus: [{ kind: smmuv3, base: 0x10000000000000 }]",
      lab(
        1,
        32,
        "registers at 0x10000000000000-0x1000000001ffff lie beyond the 52 bits of a physical address; 0x9050000 is a usual place",
      ),
    ],
    [
      "an IOMMU that does not exist",
      "devices: [{ model: edu, iommu: smu0 }]",
      lab(1, 32, 'devices[0] is behind the IOMMU "smu0", which does not exist; did you mean "smmu0"?'),
    ],
    [
      "another that does not",
      "devices: [{ model: edu, iommu: vtd }]",
      lab(1, 32, 'devices[0] is behind the IOMMU "vtd", which does not exist; it must be smmu0 or none'),
    ],
    [
      "no word on which IOMMU",
      "iommus: [{ kind: smmuv3 }, { kind: smmuv3 }]\ndevices:\n  - model: edu",
      lab(3, 5, 'devices[0] has no "iommu", and there are several; it must be one of smmu0, smmu1, or none'),
    ],
    [
      "an address that is none",
      "devices: [{ model: edu, address: 1.0 }]",
      lab(1, 34, "devices[0].address is 1; it must be an address such as 00:01.0"),
    ],
    [
      "another bus",
      "devices: [{ model: edu, address: '01:00.0' }]",
      lab(
        1,
        34,
        'devices[0].address is "01:00.0"; it is on the root bus, 00; what is elsewhere says "behind" which bridge',
      ),
    ],
    [
      "another segment",
      "devices: [{ model: edu, address: '0001:00:00.0' }]",
      lab(1, 34, 'devices[0].address is "0001:00:00.0"; the only PCI segment is 0000'),
    ],
    [
      "a device number too large",
      "devices: [{ model: edu, address: '00:20.0' }]",
      lab(1, 34, 'devices[0].address is "00:20.0"; the device number must be 00 to 1f'),
    ],
    [
      "two devices at one address",
      "devices:\n  - { model: edu, address: '00:01.0' }\n  - { model: edu, address: '00:01.0' }",
      lab(
        3,
        28,
        "devices[1] and devices[0] are both at 00:01.0; another address, or none for an automatic one, is right",
      ),
    ],
    [
      "functions over functions",
      "devices:\n  - { model: edu, address: '00:01.0', functions: 4 }\n  - { model: edu, address: '00:01.3' }",
      lab(
        3,
        28,
        "devices[1] and devices[0] are both at 00:01.3; another address, or none for an automatic one, is right",
      ),
    ],
    [
      "no function 0",
      "devices: [{ model: edu, address: '00:04.2' }]",
      lab(1, 34, "no device is at 00:04.0, so that nobody would find 00:04.2; every device has a function 0"),
    ],
    [
      "too many functions",
      "devices: [{ model: edu, address: '00:04.0' }, { model: edu, address: '00:04.1', functions: 8 }]",
      lab(1, 92, "devices[1] has 8 functions from 00:04.1 on; a device has functions 0 to 7, so at most 7 fit"),
    ],
    [
      "vfio-pci without an IOMMU",
      "devices: [{ model: edu, iommu: none, driver: vfio-pci }]",
      lab(1, 46, "devices[0]: vfio-pci cannot be bound, since the device has no IOMMU; none is right"),
    ],
    [
      "vfio-pci behind an incoherent IOMMU",
      "iommus: [{ kind: smmuv3, features: { coherent: false } }]\ndevices: [{ model: edu, driver: vfio-pci }]",
      lab(2, 33, "devices[0]: vfio-pci cannot be bound, since smmu0 is not coherent; none is right"),
    ],
    [
      "stalls behind an IOMMU that has none",
      "iommus: [{ kind: virtio-iommu }]\ndevices: [{ model: edu, canStall: true }]",
      lab(2, 35, "devices[0].canStall is true, but only an smmuv3 stalls, and viommu0 is a virtio-iommu; leave it out"),
    ],
    [
      "stalls without an IOMMU",
      "devices: [{ model: edu, canStall: true, iommu: none }]",
      lab(1, 35, "devices[0].canStall is true, but only an smmuv3 stalls, and the device has no IOMMU; leave it out"),
    ],
    [
      "tables without the probe that tells of them",
      "iommus: [{ kind: virtio-iommu, features: { attachTable: true, probe: false } }]",
      lab(
        1,
        57,
        'iommus[0].features.attachTable is true, but formats of tables are told by probe; "probe: true" is right',
      ),
    ],
    [
      "an option of another model",
      "devices:\n  - { model: edu, options: { queues: 2 } }\n  - { model: copy-engine, options: { dmaMask: 32 } }",
      [
        "lab.yaml:2:30: devices[0].options.queues is no option of edu; it has dmaMask",
        "lab.yaml:3:38: devices[1].options.dmaMask is no option of copy-engine; it has queues",
      ].join("\n"),
    ],
    [
      "uacce on what is no accelerator, and without PASIDs",
      "iommus: [{ kind: virtio-iommu }]\ndevices:\n  - { model: edu, driver: uacce }\n  - { model: copy-engine, driver: uacce }",
      [
        "lab.yaml:3:27: devices[0]: uacce cannot be bound, since it drives a copy-engine, and this is edu; none is right",
        "lab.yaml:4:35: devices[1]: uacce cannot be bound, since viommu0 has no PASIDs; none is right",
      ].join("\n"),
    ],
    [
      "page requests without ATS",
      "devices: [{ model: edu, capabilities: { pri: true } }]",
      lab(1, 46, 'devices[0].capabilities.pri is true, but page requests need ats; add "ats: true"'),
    ],
    [
      "ACS without PCI Express",
      "devices: [{ model: edu, capabilities: { express: false, acs: true } }]",
      lab(1, 50, "devices[0].capabilities.express is false, but acs needs PCI Express; true is right"),
    ],
    [
      "a mask too wide",
      "devices: [{ model: edu, options: { dmaMask: 65 } }]",
      lab(1, 45, "devices[0].options.dmaMask is 65; it must be a whole number from 12 to 64"),
    ],
    [
      "a key from another world",
      "__proto__: {}",
      lab(
        1,
        1,
        'unknown key "__proto__" in the machine; known keys: name, about, memory, defaultDomain, doorbell, iommus, devices, platform',
      ),
    ],
  ])("%s", async (_what, text, message) => {
    expect(await mistakes(text)).toBe(message);
  });

  test("33 devices do not fit on a bus", async () => {
    const text = `devices:\n${"  - model: edu\n".repeat(32)}`;
    expect(await mistakes(text)).toBe(
      "lab.yaml:33:5: devices[31] has no place: all of 00:01 to 00:1f are taken; a bus holds 32 devices",
    );
  });

  test("all at once, in the order of the file", async () => {
    expect(await mistakes("nane: x\nmemory:\n  size: big\ndevices:\n  - model: edoo\n    adress: 00:01.0\n")).toBe(
      [
        'lab.yaml:1:1: unknown key "nane" in the machine; did you mean "name"?',
        'lab.yaml:3:9: memory.size is "big"; it must be a size such as 64KiB, 1GiB or 0x40000000',
        'lab.yaml:5:12: devices[0].model is "edoo"; it must be one of the known models: edu, copy-engine, root-port, upstream-port, downstream-port, pcie-to-pci-bridge, pci-bridge',
        'lab.yaml:6:5: unknown key "adress" in devices[0]; did you mean "address"?',
      ].join("\n"),
    );
  });

  test("nesting beyond all measure, and bytes that are no text, are mistakes like others", async () => {
    expect(await mistakes("[".repeat(100_000))).toMatch(/^lab\.yaml:\d+:\d+: /);
    expect(await mistakes("\u0000\u0001\u0002: \ufffd")).toMatch(/^lab\.yaml:1:\d+: /);
  });

  test("a machine made in code has no lines: the place is told in words", async () => {
    expect(() => defineMachine({ name: "mine", devices: [{ model: "edu", iommu: "smmu7" }] })).toThrow(
      'mine: devices[0] is behind the IOMMU "smmu7", which does not exist; did you mean "smmu0"?',
    );
  });
});

test("a virtio IOMMU has defaults of its own, and vfio-pci is bound behind it", async () => {
  const text = "iommus: [{ kind: virtio-iommu, features: { bypass: absent } }, { kind: virtio-iommu }]";
  const machine = await parseMachine(`${text}\ndevices: [{ model: edu, iommu: viommu1 }]`, "lab.yaml");
  expect(machine.iommus).toEqual([
    {
      name: "viommu0",
      kind: "virtio-iommu",
      base: 0x9050000,
      features: { inputBits: 48, domainBits: 32, probe: true, mmio: true, bypass: "absent", attachTable: false },
    },
    {
      name: "viommu1",
      kind: "virtio-iommu",
      base: 0x9070000,
      features: { inputBits: 48, domainBits: 32, probe: true, mmio: true, bypass: "on", attachTable: false },
    },
  ]);
  expect(machine.devices[0].driver).toBe("vfio-pci");
});

describe("the presets", () => {
  test("are good machines, in this order, and every one of them is a file that says the same", async () => {
    expect(Object.keys(presets)).toEqual(["default", "two-edu", "empty", "nested", "switch", "sva", "vmm", "virtio"]);
    for (const input of presetInputs) {
      expect(await parseMachine(writeMachine(input), "any.yaml")).toEqual(presets[input.name]);
    }
  });

  test("as files tell editors their schema, and explain each key", async () => {
    expect(writeMachine(presetInputs[0])).toMatchInlineSnapshot(`
      "# yaml-language-server: $schema=./node_modules/uiommu/docs/machine.schema.json
      name: default  # What to call the machine. The file's name, if absent.
      # One sentence for people.
      about: One SMMUv3, two edu devices in groups of their own, and one with two functions that share a group.
      iommus:  # The IOMMUs. One SMMUv3 called smmu0, if absent; [] for none.
        - kind: smmuv3  # What it is.
      devices:  # The PCI devices and bridges: on the root bus, 0000:00, or behind a bridge.
        - model: edu  # What it is.
          address: 00:01.0  # Where it sits: 00:01.0. The lowest free place on its bus, if absent.
        - model: edu
          address: 00:02.0
        - model: edu
          address: 00:03.0
          functions: 2  # How many functions it has, all of this model. 1 if absent.
      "
    `);
  });

  test("default has two devices alone in their groups, and one whose two functions share a group", async () => {
    expect(describeMachine(presets.default)).toMatchInlineSnapshot(`
      "default: One SMMUv3, two edu devices in groups of their own, and one with two
               functions that share a group.

      memory   1 GiB at 0x40000000; clients may pin what their own limit allows
      smmu0    SMMUv3, registers at 0x9050000
               stages 1 and 2, nesting; granules 4 KiB, 16 KiB, 64 KiB
               48-bit physical addresses, 16-bit StreamIDs, 16-bit PASIDs
               16-bit ASIDs, 16-bit VMIDs
               two-level stream table; range invalidation; coherent
      default  dma: devices that nobody has taken see an empty page table

      pci 0000:00
      ├─ 00:01.0  edu    group 0  /dev/vfio/devices/vfio0  behind smmu0
      │           alone in its group; 28-bit DMA addresses
      ├─ 00:02.0  edu    group 1  /dev/vfio/devices/vfio1  behind smmu0
      │           alone in its group; 28-bit DMA addresses
      ├─ 00:03.0  edu    group 2  /dev/vfio/devices/vfio2  behind smmu0
      │           shares its group with 00:03.1; 28-bit DMA addresses
      └─ 00:03.1  edu    group 2  /dev/vfio/devices/vfio3  behind smmu0
                  shares its group with 00:03.0; 28-bit DMA addresses

      group 2  00:03.0 and 00:03.1 share a group: functions of one device, neither
               has ACS
      "
    `);
  });

  test("every line of a picture fits a terminal", async () => {
    for (const machine of Object.values(presets)) {
      for (const line of describeMachine(machine).split("\n")) expect(line.length).toBeLessThanOrEqual(78);
    }
  });
});

describe("the schema", () => {
  const published = (name: string) => readFileSync(join(import.meta.dirname, "../../docs", name), "utf8");

  test("in docs/ is the one that files are checked against (if not: npx tsx tools/schema.ts)", async () => {
    expect(published("machine.schema.json")).toBe(`${JSON.stringify(machineSchema, undefined, 2)}\n`);
  });

  test("says the same to any JSON Schema validator", async () => {
    const validator = Schema.Compile(machineSchema);
    const inputs: [unknown, boolean][] = [
      [{}, true],
      [{ memory: { size: "1GiB", base: 0 } }, true],
      [{ memory: { size: "1GB" } }, false],
      [{ memory: { memlock: "unlimited" } }, true],
      [{ devices: [{ model: "edu", address: "00:01.0" }] }, true],
      [{ devices: [{ model: "edu", address: "00:01.9" }] }, false],
      [{ devices: [{}] }, false],
      [{ devices: {} }, false],
      [{ iommus: [{ kind: "smmuv3", features: { granules: ["4KiB", "4KiB"] } }] }, false],
      [{ iommus: [{ kind: "smmuv3", features: { pasidBits: 21 } }] }, false],
      [{ iommus: [{ kind: "smmuv3", features: { pasidBits: 20 } }] }, true],
      [{ nothing: 1 }, false],
      [[], false],
      [null, false],
    ];
    for (const [input, fits] of inputs) {
      expect(validator.Check(input), JSON.stringify(input)).toBe(fits);
      const ours = await mistakes(JSON.stringify(input));
      expect(ours === "no mistake", `${JSON.stringify(input)}: ${ours}`).toBe(fits);
    }
  });
});
