import { closeSync, openSync, readSync } from "node:fs";
import { PAGE_SIZE } from "../memory/index.ts";
import { livingThread } from "./living-thread.ts";

/** One mapping of a process, as /proc/PID/maps shows it. `end` is exclusive. */
export interface Vma {
  readonly start: number;
  readonly end: number;
  readonly readable: boolean;
  readonly writable: boolean;
  readonly executable: boolean;
  readonly shared: boolean;
  /** Byte position in the file of the first page. */
  readonly offset: number;
  /** `"major:minor"` of the file's device, and its inode; 0 for anonymous memory. */
  readonly device: string;
  readonly inode: number;
  readonly path: string;
}

const line = /^([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])([x-])([ps]) ([0-9a-f]+) (\S+) (\d+) *(.*)$/;

export function parseMaps(text: string): Vma[] {
  const vmas: Vma[] = [];
  for (const row of text.split("\n")) {
    const match = line.exec(row);
    if (match === null) continue;
    const [, start, end, r, w, x, s, offset, device, inode, path] = match;
    vmas.push({
      start: Number.parseInt(start, 16),
      end: Number.parseInt(end, 16),
      readable: r === "r",
      writable: w === "w",
      executable: x === "x",
      shared: s === "s",
      offset: Number.parseInt(offset, 16),
      device,
      inode: Number(inode),
      path,
    });
  }
  return vmas;
}

const nowhere: Vma = {
  start: 0,
  end: 0,
  readable: false,
  writable: false,
  executable: false,
  shared: false,
  offset: 0,
  device: "",
  inode: 0,
  path: "",
};

/** Mappings that hold no ordinary pages: Linux does not pin them. */
export function isSpecial(vma: Vma): boolean {
  return vma.path === "[vvar]" || vma.path === "[vvar_vclock]" || vma.path === "[vsyscall]";
}

/**
 * The mappings of a process, remembered. /proc/PID/mem ignores page protections, so they are looked up here. "Allowed"
 * is answered from memory until {@link forget}; "not allowed" only after looking again. The open file stands for the address
 * space that the process had then, whatever program it runs later.
 */
export class Vmas {
  private readonly pid: number;
  private file: number | undefined;
  private vmas: readonly Vma[] | undefined;
  private loadedAt = 0;
  /** The mapping that the last access was in. */
  private last: Vma = nowhere;

  constructor(pid: number) {
    this.pid = pid;
    this.open();
  }

  /** Nothing is mapped from now on. */
  close(): void {
    if (this.file !== undefined) closeSync(this.file);
    this.file = undefined;
    this.forget();
  }

  private open(): void {
    try {
      this.file = openSync(`${livingThread(this.pid)}/maps`, "r");
    } catch {
      // Gone already, or not ours to read: nothing is mapped.
    }
  }

  /** The program may have changed its mappings. */
  forget(): void {
    this.vmas = undefined;
    this.last = nowhere;
  }

  /** For those who must know of changes that nobody tells: what is remembered is at most `age` milliseconds old from here on. */
  forgetOlderThan(age: number): void {
    if (this.vmas !== undefined && performance.now() - this.loadedAt > age) this.forget();
  }

  /** True if all bytes from `start` up to `end` (exclusive) may be read, or written. */
  allow(start: number, end: number, write: boolean): boolean {
    const { last } = this;
    if (start >= last.start && end <= last.end && (write ? last.writable : last.readable)) return true;
    const found = this.covering(start, end, write);
    if (found?.length === 1) this.last = found[0];
    return found !== undefined;
  }

  /** The mappings that hold the bytes from `start` up to `end`; undefined if one is missing or does not allow it. */
  covering(start: number, end: number, write: boolean): readonly Vma[] | undefined {
    if (this.vmas !== undefined) {
      const found = search(this.vmas, start, end, write);
      if (found !== undefined) return found;
    }
    this.loadedAt = performance.now();
    this.vmas = this.load();
    return search(this.vmas, start, end, write);
  }

  private load(): readonly Vma[] {
    const mappings = this.read();
    if (mappings !== undefined) return mappings;
    // The thread has ended whose file it was; another one may go on.
    this.close();
    this.open();
    return this.read() ?? [];
  }

  /** Undefined: the file cannot be read any more. */
  private read(): readonly Vma[] | undefined {
    if (this.file === undefined) return [];
    try {
      return parseMaps(readText(this.file));
    } catch {
      return undefined;
    }
  }
}

/** What files are read into; grows with the longest. */
let text = Buffer.allocUnsafe(65536);

/** All of a file that the kernel writes as it is read. */
function readText(file: number): string {
  for (let length = 0; ; ) {
    if (length === text.length) text = Buffer.concat([text, Buffer.allocUnsafe(length)]);
    const size = readSync(file, text, length, text.length - length, length);
    if (size === 0) return text.toString("latin1", 0, length);
    length += size;
  }
}

function search(vmas: readonly Vma[], start: number, end: number, write: boolean): readonly Vma[] | undefined {
  let low = 0;
  let high = vmas.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (vmas[middle].end <= start) low = middle + 1;
    else high = middle;
  }
  const first = low;
  for (let at = start; at < end; low++) {
    const vma = vmas[low];
    if (vma === undefined || vma.start > at || !(write ? vma.writable : vma.readable)) return undefined;
    at = vma.end;
  }
  return vmas.slice(first, low);
}

/** `"0x1000-0x1fff"`, for people. */
export function addressRange(start: number, length: number): string {
  return `0x${start.toString(16)}-0x${(start + Math.max(length, 1) - 1).toString(16)}`;
}

export const USER_END: number = 2 ** 47 - PAGE_SIZE;
