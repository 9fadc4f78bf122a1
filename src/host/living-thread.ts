import { readdirSync, readlinkSync } from "node:fs";

/**
 * The directory in /proc of a thread of a process: of its first one, `/proc/PID`, unless that has ended while others go on.
 * It shows nothing then of what they share, memory and descriptors.
 */
export function livingThread(pid: number): string {
  const first = `/proc/${pid}`;
  if (isAlive(first)) return first;
  try {
    for (const thread of readdirSync(`${first}/task`)) {
      const directory = `${first}/task/${thread}`;
      if (isAlive(directory)) return directory;
    }
  } catch {
    // the process is gone
  }
  return first;
}

function isAlive(directory: string): boolean {
  try {
    readlinkSync(`${directory}/exe`);
    return true;
  } catch {
    return false;
  }
}
