import { buildMachine, type Machine, presets } from "../src/machine/index.ts";

/** Machines to fuzz, by what is in them. */
export const fuzzMachines: Readonly<Record<string, () => Machine>> = {
  "the mock bus": () => buildMachine(presets.empty, { mock: true }),
  "SMMUv3 and edu devices": () => buildMachine(presets.default),
  "a virtio IOMMU": () => buildMachine(presets.virtio),
  "SMMUv3 with both stages, and the mock bus": () => buildMachine(presets.nested, { mock: true }),
};
