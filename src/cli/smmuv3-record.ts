/** `uiommu smmuv3 record SCENARIO`: what our driver does to an SMMUv3, as a log that another SMMUv3 can perform. */
import { type ScenarioName, scenarioNames } from "./smmuv3-scenario-names.ts";
import { recordScenario } from "./smmuv3-scenarios.ts";
import { CommandError, type Terminal } from "./terminal.ts";

/** The log goes to standard output, one JSON object a line. An unknown scenario is a {@link CommandError}. */
export function recordCommand(name: string, terminal: Terminal): number {
  if (!isScenario(name)) {
    const known = Object.keys(scenarioNames).join(", ");
    throw new CommandError(`smmuv3 record: there is no scenario "${name}"; there are ${known}`);
  }
  for (const line of recordScenario(name)) terminal.out(`${JSON.stringify(line)}\n`);
  return 0;
}

function isScenario(name: string): name is ScenarioName {
  return Object.hasOwn(scenarioNames, name);
}
