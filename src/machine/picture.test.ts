import { expect, test } from "vitest";
import {
  buildMachine,
  defineMachine,
  describeMachine,
  type MachineDescription,
  type MachineInput,
  presets,
} from "./index.ts";

const inputs: MachineInput[] = [
  {
    devices: [
      { model: "edu", functions: 3, capabilities: { acs: true } },
      { model: "edu", iommu: "none" },
      { model: "edu" },
    ],
  },
  {
    iommus: [{ kind: "smmuv3" }, { kind: "smmuv3", features: { coherent: false } }],
    devices: [
      { model: "edu", address: "00:04.0", iommu: "smmu0", driver: "none" },
      { model: "edu", address: "00:04.1", iommu: "smmu0" },
      { model: "edu", address: "00:04.2", iommu: "smmu0", capabilities: { acs: true } },
      { model: "edu", iommu: "smmu1" },
      { model: "edu", iommu: "smmu0" },
    ],
  },
  { iommus: [], devices: [{ model: "edu" }] },
];
const machines: [string, MachineDescription][] = [
  ...Object.entries(presets),
  ...inputs.map((input, index): [string, MachineDescription] => [`machine ${index}`, defineMachine(input)]),
];

/** What the picture says of each device, as `00:01.0 group 0 vfio0`. */
function pictured(machine: MachineDescription): string[] {
  const lines = describeMachine(machine).split("\n");
  return lines.flatMap((line) => {
    const address = /─ (\S+) /.exec(line)?.[1];
    if (!address || address === "nothing") return [];
    return [[address, /group \d+/.exec(line)?.[0], /vfio\d+/.exec(line)?.[0]].filter(Boolean).join(" ")];
  });
}

/** The same, as the files of the built machine say it. */
function built(description: MachineDescription): string[] {
  const machine = buildMachine(description);
  return machine.pci.functions
    .map((member) => {
      const paths = [...machine.files.nodes.keys()];
      const group = paths
        .map((path) => new RegExp(`/iommu_groups/(\\d+)/devices/${member.name}$`).exec(path)?.[1])
        .find(Boolean);
      const cdev = paths
        .map((path) => new RegExp(`${member.name}/vfio-dev/(vfio\\d+)/dev$`).exec(path)?.[1])
        .find(Boolean);
      return [member.name.replace("0000:", ""), group && `group ${group}`, cdev].filter(Boolean).join(" ");
    })
    .sort();
}

test.each(machines)(
  "the picture of %s shows the groups and device files that the machine will have",
  (_name, machine) => {
    expect(pictured(machine).sort()).toEqual(built(machine));
  },
);
