import { chmodSync, mkdtempSync, readdirSync, realpathSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SetupError } from "./build.ts";

const name = /^uiommu-(\d+)-\w+$/;
/** The shim keeps DIR in 80 bytes, and a unix socket's path has at most 107. */
const LONGEST = 72;

/** A new private directory for a host, mode 0700; those that dead hosts left are removed. Throws {@link SetupError}. */
export function makePrivateDirectory(): string {
  const failures: string[] = [];
  for (const parent of [process.env.XDG_RUNTIME_DIR, tmpdir(), "/tmp"]) {
    if (!parent) continue;
    try {
      const real = realpathSync(parent);
      if (real.length > LONGEST - 30) continue;
      removeStale(real);
      const directory = mkdtempSync(join(real, `uiommu-${process.pid}-`));
      chmodSync(directory, 0o700);
      return directory;
    } catch (error) {
      failures.push(`${parent} (${(error as NodeJS.ErrnoException).code})`);
    }
  }
  throw new SetupError(
    `no directory for the host's socket: tried ${failures.join(", ")}; set TMPDIR to a writable one`,
  );
}

function removeStale(parent: string): void {
  for (const entry of readdirSync(parent)) {
    const pid = Number(name.exec(entry)?.[1]);
    if (Number.isNaN(pid) || isAlive(pid)) continue;
    const path = join(parent, entry);
    try {
      if (statSync(path).uid === process.getuid?.()) rmSync(path, { recursive: true, force: true });
    } catch {
      // Another host removes it at the same time, or it is not ours.
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
