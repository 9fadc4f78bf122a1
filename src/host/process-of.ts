import { readdirSync, readlinkSync } from "node:fs";
import { livingThread } from "./living-thread.ts";

/**
 * The process, by its number here, whose descriptor `fd` is the socket with this inode; undefined if there is none. It says
 * that its number is `claimed`, which in a PID namespace of its own is somebody else's here.
 */
export function processOf(claimed: number, fd: number, inode: bigint): number | undefined {
  const socket = `socket:[${inode}]`;
  const target = descriptor(claimed, fd);
  if (target === socket) return claimed;
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (Number.isInteger(pid) && descriptor(pid, fd) === socket) return pid;
  }
  return target === "hidden" ? claimed : undefined;
}

/** What a descriptor is, in the kernel's words; "hidden" if we may not know. */
function descriptor(pid: number, fd: number): string | undefined {
  try {
    return readlinkSync(`${livingThread(pid)}/fd/${fd}`);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EACCES" ? "hidden" : undefined;
  }
}
