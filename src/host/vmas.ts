import { readFileSync } from "node:fs";
import { PAGE_SIZE } from "../memory/index.ts";

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
 * is answered from memory until {@link forget}; "not allowed" only after looking again.
 */
export class Vmas {
  private readonly path: string;
  private vmas: readonly Vma[] | undefined;
  private loadedAt = 0;
  /** The mapping that the last access was in. */
  private last: Vma = nowhere;

  constructor(pid: number) {
    this.path = `/proc/${pid}/maps`;
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
    try {
      return parseMaps(readFileSync(this.path, "latin1"));
    } catch {
      return []; // the process is gone
    }
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
