// Runs in a browser.
export { type CaseFile, CaseFileError, parseCaseFile } from "./case.ts";
export { compareCase, describeDifference, verdict } from "./compare.ts";
export { compareLog, type LogVerdict } from "./compare-log.ts";
