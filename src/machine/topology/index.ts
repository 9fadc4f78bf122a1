// Runs in a browser.
export { formGroups, summary, type TopologyGroups } from "./groups.ts";
export { parseLspci } from "./lspci.ts";
export { parseRecordings, parseRegion } from "./recording.ts";
export { parseName, type RecordedPci, type Topology, TopologyError } from "./topology.ts";
export { type Changes, changed, isNoChange } from "./what-if.ts";
