// Runs in a browser.
import { defineMachine } from "./define.ts";
import type { MachineInput } from "./schema.ts";
import type { MachineDescription } from "./types.ts";

/** The machines that come with uiommu, as one would write them. */
export const presetInputs: readonly (MachineInput & { readonly name: string })[] = [
  {
    name: "default",
    about: "One SMMUv3, two edu devices in groups of their own, and one with two functions that share a group.",
    iommus: [{ kind: "smmuv3" }],
    devices: [
      { model: "edu", address: "00:01.0" },
      { model: "edu", address: "00:02.0" },
      { model: "edu", address: "00:03.0", functions: 2 },
    ],
  },
  {
    name: "two-edu",
    about: "One SMMUv3 and exactly two edu devices.",
    iommus: [{ kind: "smmuv3" }],
    devices: [
      { model: "edu", address: "00:01.0" },
      { model: "edu", address: "00:02.0" },
    ],
  },
  {
    name: "empty",
    about: "One SMMUv3 and no devices.",
    iommus: [{ kind: "smmuv3" }],
    devices: [],
  },
  {
    name: "nested",
    about:
      "One SMMUv3 with both stages, PASIDs and range invalidation; two edu devices that can send PASIDs, the second of which may be stalled on a fault.",
    iommus: [{ kind: "smmuv3", features: { stage1: true, stage2: true, rangeInvalidation: true, pasidBits: 16 } }],
    devices: [
      { model: "edu", address: "00:01.0", capabilities: { pasid: 16 } },
      { model: "edu", address: "00:02.0", canStall: true, capabilities: { pasid: 16 } },
    ],
  },
  {
    name: "switch",
    about:
      "One SMMUv3; behind a root port a switch with two ports, one without ACS; a PCI bridge behind another root port.",
    iommus: [{ kind: "smmuv3" }],
    devices: [
      { model: "root-port", name: "root0" },
      { model: "upstream-port", name: "switch", behind: "root0" },
      { model: "downstream-port", name: "port0", behind: "switch" },
      { model: "downstream-port", name: "port1", behind: "switch", capabilities: { acs: false } },
      { model: "edu", behind: "port0", capabilities: { express: true } },
      { model: "edu", behind: "port1", capabilities: { express: true } },
      { model: "root-port", name: "root1" },
      { model: "pcie-to-pci-bridge", name: "bridge", behind: "root1" },
      { model: "edu", behind: "bridge" },
    ],
  },
  {
    name: "sva",
    about: "One SMMUv3 with PASIDs and two accelerators, which work on the addresses of the processes that open them.",
    iommus: [{ kind: "smmuv3" }],
    devices: [
      { model: "copy-engine", address: "00:01.0" },
      { model: "copy-engine", address: "00:02.0" },
    ],
  },
  {
    name: "vmm",
    about:
      "One SMMUv3 and two edu devices that a virtual machine on x86 can have: with resets, all address bits, and message interrupts where its memory is not.",
    doorbell: "0xfee00000",
    iommus: [{ kind: "smmuv3" }],
    devices: [
      { model: "edu", address: "00:01.0", capabilities: { flr: true }, options: { dmaMask: 64 } },
      { model: "edu", address: "00:02.0", capabilities: { flr: true }, options: { dmaMask: 64 } },
    ],
  },
  {
    name: "virtio",
    about: "One virtio IOMMU and exactly two edu devices: the driver maps by requests, without page tables.",
    iommus: [{ kind: "virtio-iommu" }],
    devices: [
      { model: "edu", address: "00:01.0" },
      { model: "edu", address: "00:02.0" },
    ],
  },
];

/** By name, in the order in which to show them. Each is made when it is asked for. */
export const presets: Readonly<Record<string, MachineDescription>> = Object.defineProperties(
  {},
  Object.fromEntries(presetInputs.map((input) => [input.name, { enumerable: true, get: () => defineMachine(input) }])),
);
