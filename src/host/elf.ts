import { accessSync, closeSync, constants, openSync, readSync, realpathSync, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import { SetupError } from "./build.ts";

const machines: Readonly<Record<string, number>> = { x64: 62, arm64: 183 };
const PT_INTERP = 3;
const scriptDepth = 4;

/** A program cannot be run, or not with the shim; `status` is what a shell would exit with. */
export class ProgramError extends SetupError {
  readonly status: number;

  constructor(message: string, status: number) {
    super(message);
    this.status = status;
  }
}

/** The file that `name` means, as execvp(3) finds it. Throws {@link ProgramError}. */
export function findProgram(name: string, path: string = process.env.PATH ?? "/usr/bin:/bin"): string {
  const candidates = name.includes("/") ? [name] : path.split(delimiter).map((folder) => join(folder || ".", name));
  let found: string | undefined;
  for (const candidate of candidates) {
    const status = statSync(candidate, { throwIfNoEntry: false });
    if (status === undefined) continue;
    if (status.isDirectory()) {
      if (name.includes("/")) throw new ProgramError(`${name} is a directory, not a program`, 126);
      continue;
    }
    found ??= candidate;
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch {
      // not this one
    }
  }
  if (found !== undefined) throw new ProgramError(`${found} is not executable; chmod +x would make it so`, 126);
  throw new ProgramError(`there is no program ${name}${name.includes("/") ? "" : " in PATH"}`, 127);
}

/** Throws {@link ProgramError} if the shim cannot work in this program: it is static, setuid, or of another architecture. */
export function checkProgram(file: string, depth = 0): void {
  const head = beginning(file);
  if (head === undefined) return; // executable but not readable: exec will tell
  const real = realpathSync(file);
  const mode = statSync(real).mode;
  if (head[0] === 0x23 && head[1] === 0x21) {
    const words = head.toString("latin1", 2).split("\n", 1)[0].trim().split(/\s+/);
    if (depth < scriptDepth && words[0]) checkProgram(findInterpreter(file, words), depth + 1);
    return;
  }
  if (head.length < 64 || head.readUInt32BE(0) !== 0x7f454c46) return; // a script without "#!": the shell's
  const machine = head.readUInt16LE(18);
  const wanted = machines[process.arch];
  if (head[4] !== 2 || (wanted !== undefined && machine !== wanted)) {
    throw new ProgramError(
      `${file} is for another architecture than ${process.arch}; uiommu cannot be loaded into it`,
      126,
    );
  }
  if ((mode & 0o6000) !== 0 && process.getuid?.() !== 0) {
    throw new ProgramError(`${file} is setuid or setgid: the system does not let uiommu be loaded into it`, 126);
  }
  if (!hasInterpreter(head)) {
    throw new ProgramError(
      `${file} is statically linked: uiommu is loaded by the dynamic linker; link it dynamically`,
      126,
    );
  }
}

function findInterpreter(script: string, [first, second]: readonly string[]): string {
  const name = /\/env$/.test(first) && second !== undefined && !second.startsWith("-") ? second : first;
  try {
    return findProgram(name);
  } catch (error) {
    if (error instanceof ProgramError)
      throw new ProgramError(`${script}: its interpreter: ${error.message}`, error.status);
    throw error;
  }
}

function hasInterpreter(head: Buffer): boolean {
  const table = Number(head.readBigUInt64LE(32));
  const size = head.readUInt16LE(54);
  const count = head.readUInt16LE(56);
  for (let i = 0; i < count; i++) {
    const at = table + i * size;
    if (at + 4 > head.length) return true; // an unusual file: let the system decide
    if (head.readUInt32LE(at) === PT_INTERP) return true;
  }
  return false;
}

function beginning(file: string): Buffer | undefined {
  let fd: number;
  try {
    fd = openSync(file, "r");
  } catch {
    return undefined;
  }
  try {
    const bytes = Buffer.alloc(4096);
    return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, 0));
  } finally {
    closeSync(fd);
  }
}
