// Runs in a browser.
export { EduDevice } from "./edu.ts";
