import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EduDriver, IOVA } from "./edu-driver.test-support.ts";
import {
  buildMachine,
  defineMachine,
  type Machine,
  MachineError,
  type MachineInput,
  pciAddress,
  presets,
} from "./index.ts";
import { formGroups, type Topology } from "./topology/index.ts";

type DeviceInput = NonNullable<MachineInput["devices"]>[number];

/** A root port, a switch with two ports, and what is asked for behind it. */
const SWITCH: readonly DeviceInput[] = [
  { model: "root-port", name: "root" },
  { model: "upstream-port", name: "up", behind: "root" },
  { model: "downstream-port", name: "down0", behind: "up" },
  { model: "downstream-port", name: "down1", behind: "up" },
];

function mistakes(...devices: DeviceInput[]): string {
  try {
    defineMachine({ name: "lab", devices });
  } catch (error) {
    if (error instanceof MachineError) return error.message;
    throw error;
  }
  return "no mistake";
}

function groupsOf(machine: Machine): string[] {
  return [...machine.core.groups.values()].map(({ devices }) => devices.map(({ name }) => name.slice(5)).join(" "));
}

/** The machine as somebody else would record it: names and bytes. */
function recorded({ pci }: Machine): Topology {
  return { functions: pci.functions.map(({ name, config }) => ({ name, config: config.bytes })) };
}

describe("bridges of a machine", () => {
  it("number the buses as firmware does: each the next, all behind it before its neighbour", () => {
    const { bridges, devices } = defineMachine({
      devices: [
        { model: "edu", behind: "down1" },
        { model: "root-port", address: "00:04.0", name: "late" },
        ...SWITCH,
        { model: "edu", behind: "late" },
      ],
    });
    expect(
      bridges.map(({ name, address, buses }) => `${name} ${pciAddress(address)} ${buses.first}-${buses.last}`),
    ).toEqual(["root 00:01.0 1-4", "late 00:04.0 5-5", "up 01:00.0 2-4", "down0 02:00.0 3-3", "down1 02:01.0 4-4"]);
    expect(devices.map(({ address }) => pciAddress(address))).toEqual(["04:00.0", "05:00.0"]);
  });

  it("say in configuration space which buses and addresses they pass down", () => {
    const machine = buildMachine(presets.switch);
    const config = (name: string): string =>
      Buffer.from(machine.pci.find(`0000:${name}`)!.config.bytes.subarray(0x18, 0x30)).toString("hex");
    // primary, secondary, subordinate; I/O; memory; prefetchable memory
    expect(config("00:01.0")).toBe(`00010400f000000000103010f1ff010000000000`.padEnd(48, "0"));
    const path = "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0";
    const read = (file: string): string => {
      const node = machine.files.nodes.get(`${path}/${file}`);
      return node?.kind === "text" ? String(node.read()) : `${node?.kind}`;
    };
    expect([read("secondary_bus_number"), read("subordinate_bus_number")]).toEqual(["4\n", "4\n"]);
    expect(read("resource").split("\n")[14]).toBe("0x0000000010200000 0x00000000103fffff 0x0000000000000200");
    expect(read("resource").trimEnd().split("\n")).toHaveLength(17);
    expect(machine.files.nodes.get(`${path}/0000:04:00.0/vendor`)?.kind).toBe("text");
  });

  it("make the groups that their ACS makes", () => {
    expect(groupsOf(buildMachine(presets.switch))).toEqual([
      "00:01.0",
      "00:02.0",
      "01:00.0",
      "02:00.0",
      "02:01.0 04:00.0",
      "03:00.0",
      "05:00.0 06:01.0",
    ]);
    const without = SWITCH.map((one): DeviceInput => ({ ...one, capabilities: { acs: false } }));
    const machine = buildMachine(defineMachine({ devices: [...without, { model: "edu", behind: "down0" }] }));
    expect(groupsOf(machine)).toEqual(["00:01.0 01:00.0 02:00.0 02:01.0 03:00.0"]);
  });

  it.each([
    ["a switch", "/dev/vfio/devices/vfio0", "0x300"],
    ["a bridge to conventional PCI, under the number of the bridge", "/dev/vfio/devices/vfio2", "0x600"],
  ])("let a device do DMA behind %s", (_what, path, stream) => {
    const machine = buildMachine(presets.switch);
    const faults: string[] = [];
    machine.onFault = (fault) => void faults.push(fault.text());
    const driver = new EduDriver(machine, path);
    driver.map();
    driver.set(0, [1, 2, 3, 4]);
    driver.dma(IOVA, false);
    driver.dma(IOVA + 0x800n, true);
    expect(driver.get(0x800, 4)).toEqual([1, 2, 3, 4]);
    expect(faults).toEqual([]);
    driver.unmap();
    driver.dma(IOVA, true);
    expect(faults).toHaveLength(1);
    expect(faults[0]).toContain(`by stream ${stream}: F_TRANSLATION`);
    driver.client.process.exit();
    machine.system.run("power down", machine.powerDown());
    expect([machine.core.groups.size, machine.memory.pinnedFrames]).toEqual([0, 0]);
  });

  it("let an SMMU serve one device behind a bridge to conventional PCI: it cannot tell a second one apart", () => {
    const machine = buildMachine(
      defineMachine({
        devices: [
          { model: "root-port", name: "root" },
          { model: "pcie-to-pci-bridge", name: "bridge", behind: "root" },
          { model: "edu", behind: "bridge" },
          { model: "edu", behind: "bridge" },
        ],
      }),
    );
    expect(groupsOf(machine)).toEqual(["00:01.0", "01:00.0 02:01.0"]);
    expect(machine.vfio.devices).toHaveLength(1);
    const second = machine.deviceOf(machine.pci.find("0000:02:02.0")!)!;
    expect(machine.whyUnserved(second)).toBe("stream id 0x200 of device 0000:02:02.0 is device 0000:02:01.0's");
  });

  it("make random trees whose groups are those of their configuration space", () => {
    fc.assert(
      fc.property(trees(), (devices) => {
        const machine = buildMachine(defineMachine({ devices }));
        const unserved = machine.devices.filter(({ group }) => group === undefined);
        fc.pre(unserved.length === 0);
        const formed = formGroups(recorded(machine));
        expect(groupsOf(machine)).toEqual(
          [...formed.groups.values()].map(({ devices: members }) => members.map(({ name }) => name.slice(5)).join(" ")),
        );
        machine.system.run("power down", machine.powerDown());
        expect(machine.core.groups.size).toBe(0);
      }),
      { numRuns: 40 },
    );
  });
});

/** Root ports with or without ACS, switches, bridges, devices with functions, in any order. */
function trees(): fc.Arbitrary<DeviceInput[]> {
  const acs = fc.record({ acs: fc.boolean() });
  const functions = fc.integer({ min: 1, max: 3 });
  const leaf = fc.record({ model: fc.constant("edu" as const), functions, capabilities: acs });
  const kinds = fc.constantFrom("nothing", "device", "switch", "bridge");
  const port = fc.record({ acs, kind: kinds, below: fc.array(fc.record({ acs, leaf }), { maxLength: 3 }), leaf });
  return fc.array(fc.oneof(leaf, port), { minLength: 1, maxLength: 5 }).map((list) =>
    list.flatMap((one, index): DeviceInput[] => {
      if ("model" in one) return [one];
      const root: DeviceInput = { model: "root-port", name: `r${index}`, capabilities: one.acs };
      if (one.kind === "nothing") return [root];
      if (one.kind === "device") return [{ ...one.leaf, behind: `r${index}` }, root];
      if (one.kind === "bridge") {
        return [
          root,
          { model: "pcie-to-pci-bridge", name: `b${index}`, behind: `r${index}` },
          { model: "edu", behind: `b${index}` },
        ];
      }
      return [
        root,
        { model: "upstream-port", name: `u${index}`, behind: `r${index}` },
        ...one.below.flatMap(({ acs: own, leaf: device }, at): DeviceInput[] => [
          { model: "downstream-port", name: `d${index}-${at}`, behind: `u${index}`, capabilities: own },
          { ...device, behind: `d${index}-${at}` },
        ]),
      ];
    }),
  );
}

describe("a mistake with bridges is told, with what would be right", () => {
  it.each<[string, DeviceInput[], string]>([
    [
      "nobody of that name",
      [
        { model: "root-port", name: "root0" },
        { model: "edu", behind: "rot0" },
      ],
      'lab: devices[1] is behind "rot0", which does not exist; did you mean "root0"?',
    ],
    [
      "no names at all",
      [{ model: "edu", behind: "x" }],
      'lab: devices[0] is behind "x", which does not exist; no bridge has a name',
    ],
    [
      "a name twice",
      [
        { model: "root-port", name: "a" },
        { model: "root-port", name: "a" },
      ],
      'lab: devices[1] and devices[0] are both called "a"; names must differ',
    ],
    [
      "a device with a name",
      [{ model: "edu", name: "a" }],
      "lab: devices[0].name: only bridges have names, for what is behind them",
    ],
    [
      "behind a device",
      [
        { model: "edu", name: "a" },
        { model: "edu", behind: "a" },
      ],
      'lab: devices[1] is behind "a", which is no bridge but devices[0], a device of the model edu\nlab: devices[0].name: only bridges have names, for what is behind them',
    ],
    [
      "a port of a switch without a switch",
      [{ model: "downstream-port" }],
      "lab: devices[0] is a downstream-port on the root bus; behind an upstream-port is right",
    ],
    [
      "a root port behind something",
      [
        { model: "root-port", name: "a" },
        { model: "root-port", behind: "a" },
      ],
      "lab: devices[1] is a root-port behind a root-port; on the root bus is right",
    ],
    [
      "a device directly in a switch",
      [...SWITCH, { model: "edu", behind: "up" }],
      "lab: devices[4] is an edu behind an upstream-port; on the root bus, or behind a root-port or downstream-port or pcie-to-pci-bridge or pci-bridge is right",
    ],
    [
      "two devices at one link",
      [
        { model: "root-port", name: "a" },
        { model: "edu", behind: "a" },
        { model: "edu", behind: "a" },
      ],
      "lab: devices[2] has no place: a root-port leads to one device; a switch has room for more",
    ],
    [
      "another device number at a link",
      [
        { model: "root-port", name: "a" },
        { model: "edu", behind: "a", address: "01:01.0" },
      ],
      'lab: devices[1].address is "01:01.0"; a root-port leads to one device, 00',
    ],
    [
      "a bus that is another one",
      [
        { model: "root-port", name: "a" },
        { model: "edu", behind: "a", address: "02:00.0" },
      ],
      'lab: devices[1].address is "02:00.0"; the bus behind a at 00:01.0 is 01',
    ],
    [
      "PCI Express behind a bridge to conventional PCI",
      [
        { model: "pci-bridge", name: "a" },
        { model: "edu", behind: "a", capabilities: { pasid: 8 } },
      ],
      "lab: devices[1] is PCI Express, and behind a pci-bridge is conventional PCI; behind a port is right",
    ],
    [
      "an IOMMU of its own",
      [
        { model: "root-port", name: "a" },
        { model: "edu", behind: "a", iommu: "smmu0" },
      ],
      "lab: devices[1].iommu: what is behind a bridge is behind the bridge's IOMMU; leave it out",
    ],
    [
      "a bridge with a driver, functions and options",
      [{ model: "root-port", driver: "none", functions: 2, options: {} }],
      [
        "lab: devices[0].functions: a root-port is a bridge and has none; leave it out",
        "lab: devices[0].driver: a root-port is a bridge and has none; leave it out",
        "lab: devices[0].options: a root-port is a bridge and has none; leave it out",
      ].join("\n"),
    ],
    [
      "ACS of a bridge that cannot have it",
      [{ model: "pci-bridge", capabilities: { acs: true } }],
      "lab: devices[0].capabilities.acs: a pci-bridge has no choice of capabilities; leave it out",
    ],
    [
      "other capabilities of a port",
      [{ model: "root-port", capabilities: { ats: true } }],
      "lab: devices[0].capabilities.ats: of a port, only acs can be chosen; leave it out",
    ],
    [
      "a bridge behind itself",
      [
        { model: "pci-bridge", name: "a", behind: "b" },
        { model: "pci-bridge", name: "b", behind: "a" },
      ],
      [
        "lab: devices[0] is behind itself; one of the bridges must be on the root bus",
        "lab: devices[1] is behind itself; one of the bridges must be on the root bus",
      ].join("\n"),
    ],
    [
      "more than there are addresses for",
      Array.from({ length: 31 * 8 }, (_, at): DeviceInput[] => {
        const address = `00:${(1 + (at >> 3)).toString(16).padStart(2, "0")}.${at & 7}`;
        return [
          { model: "root-port", name: `p${at}`, address },
          { model: "edu", behind: `p${at}`, functions: 8 },
        ];
      }).flat(),
      "lab: there are 1984 device functions and 248 bridges; their registers have 700 MiB, 1 for a function and 2 for a bridge",
    ],
  ])("%s", (_what, devices, message) => {
    expect(mistakes(...devices)).toBe(message);
  });
});
