import { chmodSync, mkdtempSync, readdirSync, realpathSync, rmdirSync, rmSync, statSync, unlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { SetupError } from "./build.ts";

const name = /^uiommu-(\d+)-\w+$/;
/** The shim keeps DIR in 80 bytes, and a unix socket's path has at most 107. */
const LONGEST = 72;

/**
 * A new private directory for a host; those that dead hosts left are removed. Nobody else may list or change it. Those
 * who know its name may pass through root's, since a program of root's may become another user.
 * Throws {@link SetupError}.
 */
export function makePrivateDirectory(): string {
  const failures: string[] = [];
  const isRoot = process.getuid?.() === 0;
  for (const parent of wantedParents()) {
    try {
      const real = realpathSync(parent);
      if (real.length > LONGEST - 30) {
        failures.push(`${parent} (its path is too long)`);
        continue;
      }
      removeStale(real);
      const directory = mkdtempSync(join(real, `uiommu-${process.pid}-`));
      chmodSync(directory, isRoot ? 0o711 : 0o700);
      return directory;
    } catch (error) {
      failures.push(`${parent} (${(error as NodeJS.ErrnoException).code})`);
    }
  }
  throw new SetupError(
    `no directory for the host's socket: tried ${failures.join(", ")}; set TMPDIR to a writable one with a short path`,
  );
}

/** What a user chose, then where some hundred small files cost nothing: in memory. */
function wantedParents(): string[] {
  const { XDG_RUNTIME_DIR, TMPDIR } = process.env;
  const runtime = process.getuid?.() === 0 ? undefined : XDG_RUNTIME_DIR;
  const wanted = [runtime ?? "", TMPDIR ?? "", "/dev/shm", tmpdir(), "/tmp"];
  return [...new Set(wanted)].filter((parent) => parent !== "");
}

/** Where hosts of ours may have their directories. */
export function parents(): string[] {
  const found = wantedParents().flatMap((parent) => {
    try {
      return [realpathSync(parent)];
    } catch {
      return [];
    }
  });
  return [...new Set(found)];
}

/** True for the directory of a host that lives. */
export function isHostDirectory(path: string): boolean {
  const pid = name.exec(basename(path))?.[1];
  return pid !== undefined && isAlive(Number(pid));
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

/** With all that is in it. Asks the computer less than rmSync(): a program that ended waits for it. Cannot fail. */
export function removeDirectory(directory: string): void {
  try {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const path = `${directory}/${entry.name}`;
      if (entry.isDirectory()) removeDirectory(path);
      else unlinkSync(path);
    }
    rmdirSync(directory);
  } catch {
    // Somebody else changes it at the same time.
    rmSync(directory, { recursive: true, force: true });
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
