// Runs in a browser.
export { type BridgeKind, makeBridge } from "./bridges.ts";
export { CopyEngine } from "./copy-engine.ts";
export { EduDevice } from "./edu.ts";
