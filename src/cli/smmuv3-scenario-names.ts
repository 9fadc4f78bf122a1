/** The scenarios of `uiommu smmuv3 record`, each in one line for people; what they do is in `smmuv3-scenarios.ts`. */
export const scenarioNames = {
  map: "a domain of its own for a device: pages, 2 MiB leaves, rights, holes",
  dma: "three devices: identity, blocked, domains with the same IOVA, and one that nobody knows",
  unmap: "mappings go: one page of many, a 2 MiB leaf, all; other pages come in their place",
  range: "8 MiB of pages go at once, by range invalidations",
  replace: "a device moves between domains, identity and blocked, from each to each",
  share: "one domain for three devices: an unmap reaches all, a leave concerns one",
  stage2: "a nesting parent, stage 2 tables under a VMID: map, unmap, two domains",
  nested:
    "a guest's own stage 1 above a nesting parent: abort, bypass, tables, its invalidations, a replaced guest STE",
  wrap: "more commands and more events than their queues have places",
  stop: "the SMMU is taken out of use: what comes then is aborted, and nothing is told",
} as const satisfies Readonly<Record<string, string>>;

export type ScenarioName = keyof typeof scenarioNames;

/** For the help: a line for each. */
export function listScenarios(): string {
  const width = Math.max(...Object.keys(scenarioNames).map((name) => name.length));
  return Object.entries(scenarioNames)
    .map(([name, about]) => `  ${name.padEnd(width)}  ${about}`)
    .join("\n");
}
