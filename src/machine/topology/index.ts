// Runs in a browser.
export { type DescribeOptions, describeChanges, describeGroups } from "./describe.ts";
export { formGroups, summary, type TopologyGroups } from "./groups.ts";
export { parseLspci } from "./lspci.ts";
export { parseRecordings, parseRegion } from "./recording.ts";
export { parseName, type RecordedPci, type Topology, TopologyError } from "./topology.ts";
export { type Changes, changed, isNoChange } from "./what-if.ts";
