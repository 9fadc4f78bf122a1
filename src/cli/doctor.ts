import { checkComputer } from "../host/index.ts";
import type { Terminal } from "./terminal.ts";

/** `uiommu doctor`: each thing that is needed, what was found, and what would help. Status 1 if something is missing. */
export function doctorCommand(terminal: Terminal): number {
  const checks = checkComputer();
  for (const { name, ok, found, remedy } of checks) {
    terminal.out(`${ok ? "good   " : "MISSING"}  ${name}: ${found}\n`);
    if (!ok) terminal.out(`         to mend it: ${remedy}\n`);
  }
  const missing = checks.filter(({ ok }) => !ok).length;
  terminal.out(missing === 0 ? "uiommu runs here: try uiommu demo\n" : `${missing} of ${checks.length} are missing\n`);
  return missing === 0 ? 0 : 1;
}
