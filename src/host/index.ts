export { compileShim, findShim, SetupError, type ShimFiles, shimFiles } from "./build.ts";
export type { Call } from "./call.ts";
export { ClientProcess } from "./client.ts";
export { type Check, checkComputer } from "./doctor.ts";
export { checkProgram, findProgram, ProgramError } from "./elf.ts";
export { type Blindness, Host, type HostOptions, type Served } from "./host.ts";
export { type ExitStatus, endLike, type RunOptions, run, runProgram } from "./run.ts";
