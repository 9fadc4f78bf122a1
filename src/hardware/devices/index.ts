// Runs in a browser.
export { CopyEngine } from "./copy-engine.ts";
export { EduDevice } from "./edu.ts";
