import { closeSync, openSync, readSync } from "node:fs";
import { livingThread } from "./living-thread.ts";
import { Maps, type Vma } from "./maps.ts";

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

/**
 * The mappings of a process, remembered. /proc/PID/mem ignores page protections, so they are looked up here. "Allowed"
 * is answered from memory until {@link forget}; "not allowed" only after looking again. The open file stands for the address
 * space that the process had then, whatever program it runs later.
 */
export class Vmas {
  private readonly pid: number;
  private file: number | undefined;
  /** /proc/PID/statm, if somebody asked for changes. */
  private counts: number | undefined;
  private maps: Maps | undefined;
  /** What the kernel counted when they were read, and until when they are good: see {@link forgetIfChanged}. */
  private counted = "";
  private goodUntil = 0;
  /** The mapping that the last access was in. */
  private last: Vma = nowhere;

  constructor(pid: number) {
    this.pid = pid;
    this.file = this.open("maps");
  }

  /** Nothing is mapped from now on. */
  close(): void {
    for (const file of [this.file, this.counts]) if (file !== undefined) closeSync(file);
    this.file = this.counts = undefined;
    this.forget();
  }

  /** Undefined: the process is gone already, or not ours to look at. */
  private open(name: string): number | undefined {
    try {
      return openSync(`${livingThread(this.pid)}/${name}`, "r");
    } catch {
      return undefined;
    }
  }

  /** The program may have changed its mappings. */
  forget(): void {
    this.maps = undefined;
    this.last = nowhere;
  }

  /**
   * For those who must know of changes that nobody tells. The kernel counts pages, writable private ones by themselves, and
   * tells in a tenth of the time that the mappings take: what maps, unmaps, or makes such pages writable or not is known
   * when this returns. What leaves the counts as they are is known after a millisecond, or ten times that of reading.
   */
  forgetIfChanged(): void {
    if (this.file !== undefined) this.counts ??= this.open("statm");
    if (this.maps === undefined) return;
    if (performance.now() > this.goodUntil || this.count() !== this.counted) this.forget();
  }

  /** True if all bytes from `start` up to `end` (exclusive) may be read, or written. */
  allow(start: number, end: number, write: boolean): boolean {
    const { last } = this;
    if (start >= last.start && end <= last.end && (write ? last.writable : last.readable)) return true;
    // Processors have no memory that can only be written.
    const found = this.covering(start, end, write) ?? (write ? undefined : this.covering(start, end, true));
    if (found?.length === 1) this.last = found[0];
    return found !== undefined;
  }

  /** The mappings that hold the bytes from `start` up to `end`; undefined if one is missing or does not allow it. */
  covering(start: number, end: number, write: boolean): readonly Vma[] | undefined {
    const known = this.maps?.covering(start, end, write);
    if (known !== undefined) return known;
    const before = performance.now();
    this.counted = this.count();
    this.maps = this.load();
    const now = performance.now();
    this.goodUntil = now + Math.max(1, 10 * (now - before));
    return this.maps.covering(start, end, write);
  }

  private load(): Maps {
    const maps = this.read();
    if (maps !== undefined) return maps;
    // The thread has ended whose file it was; another one may go on.
    this.close();
    this.file = this.open("maps");
    return this.read() ?? new Maps("");
  }

  /** All pages and the writable private ones, as text; empty if nobody asked, or the thread has ended whose file it was. */
  private count(): string {
    if (this.counts === undefined) return "";
    try {
      const [pages, , , , , writable] = text.toString("latin1", 0, readSync(this.counts, text, 0, 128, 0)).split(" ");
      if (pages !== "0") return `${pages} ${writable}`;
    } catch {
      // as if it said 0
    }
    closeSync(this.counts);
    this.counts = undefined;
    return "";
  }

  /** Undefined: the file cannot be read any more. */
  private read(): Maps | undefined {
    if (this.file === undefined) return new Maps("");
    try {
      return new Maps(readText(this.file));
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
