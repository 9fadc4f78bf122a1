// Runs in a browser.
export { testInterface } from "./commands.ts";
