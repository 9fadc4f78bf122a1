export { compileShim, findShim, SetupError, type ShimFiles, shimFiles } from "./build.ts";
export type { Call } from "./call.ts";
export { ClientProcess } from "./client.ts";
export { type Check, checkComputer } from "./doctor.ts";
export { checkProgram, findProgram, ProgramError } from "./elf.ts";
export { type Blindness, Host, type HostOptions, type Served } from "./host.ts";
export { type Address, findHost, invite, JoinError } from "./joining.ts";
export { type ExitStatus, endLike, type RunOptions, run, runElsewhere } from "./run.ts";
