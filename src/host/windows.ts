/**
 * Memory of the machine that clients have mapped (mmap on a file of ours): a file in the private directory, which the shim
 * maps where the program wants it, and which is the content of the machine's frames meanwhile.
 *
 * Before it maps the file the shim locks it, by an open file description that it closes at once: so the kernel keeps the
 * lock while any process has the mapping, whatever it does: unmap parts, fork, exit, be killed. /proc/locks shows it.
 *
 * Always true: a window is here from the reply to its first mmap until its lock is gone, and meanwhile its owner is used.
 */
import { closeSync, fstatSync, openSync, readFileSync, readSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import {
  type File,
  type FileWindow,
  type FrameBacking,
  MemoryFile,
  PAGE_SIZE,
  type PhysicalMemory,
} from "../memory/index.ts";

/** How often mappings are looked for whose file was closed, in milliseconds. */
const INTERVAL = 20;
/** How often mapped registers are looked at, in milliseconds. */
const LOOK_INTERVAL = 1;

export class Windows {
  private readonly memory: PhysicalMemory;
  private readonly directory: string;
  private readonly windows = new Map<number, SharedWindow>();
  /** Files whose last descriptor is closed, but not their last mapping; what to do then. */
  private readonly waiting = new Map<File, () => void>();
  private timer: NodeJS.Timeout | undefined;
  /** Windows that are registers, while they are mapped. */
  private readonly registers = new Set<FileWindow>();
  private lookTimer: NodeJS.Timeout | undefined;
  private readonly run: (work: () => void) => void;

  /** `run` does work that a device may go on from. */
  constructor(memory: PhysicalMemory, directory: string, run: (work: () => void) => void) {
    this.memory = memory;
    this.directory = directory;
    this.run = run;
  }

  /** True while a file waits for its last mapping to go. */
  get isWaiting(): boolean {
    return this.waiting.size > 0;
  }

  /**
   * A thread of a client may map the window; returns the number in the name of its file, `DIR/window-NUMBER`. What is
   * known as `thread` has mapped it, or never will, when it is {@link heard}.
   */
  show(file: File, window: FileWindow, thread: object): number {
    const { pfn } = window;
    let shared = this.windows.get(pfn);
    if (shared === undefined) {
      shared = new SharedWindow(this.memory, window, join(this.directory, `window-${pfn}`));
      this.windows.set(pfn, shared);
    }
    shared.mappings.push({ file, window });
    if (window.look !== undefined) this.lookAt(window);
    shared.mapping.add(thread);
    return pfn;
  }

  /** A thread makes its next call, or is gone. */
  heard(thread: object): void {
    if (this.windows.size > 0) for (const { mapping } of this.windows.values()) mapping.delete(thread);
  }

  /** Gives back what nobody has mapped any more. */
  collect(): void {
    if (this.windows.size === 0) return;
    const locks = readLocks();
    for (const [pfn, shared] of this.windows) {
      if (shared.mapping.size > 0 || locks === undefined || locks.includes(`:${shared.inode} 0 EOF`)) continue;
      this.windows.delete(pfn);
      for (const { window } of shared.mappings) this.registers.delete(window);
      shared.close();
    }
    for (const [file, release] of this.waiting) {
      if (this.isMapped(file)) continue;
      this.waiting.delete(file);
      release();
    }
  }

  /** True if a mapping keeps the file open; then `release` is called when it is gone. */
  keep(file: File, release: () => void): boolean {
    if (this.windows.size === 0) return false;
    this.collect();
    if (!this.isMapped(file)) return false;
    this.waiting.set(file, release);
    this.timer ??= setInterval(() => {
      this.collect();
      if (this.waiting.size === 0) this.stop();
    }, INTERVAL);
    return true;
  }

  /** Nobody is served any more: mappings do not count. */
  close(): void {
    this.stop();
    for (const shared of this.windows.values()) shared.close();
    this.windows.clear();
    clearInterval(this.lookTimer);
    for (const release of this.waiting.values()) release();
    this.waiting.clear();
  }

  private lookAt(window: FileWindow): void {
    this.registers.add(window);
    let looks = 0;
    this.lookTimer ??= setInterval(() => {
      this.run(() => {
        for (const { look } of this.registers) look?.();
      });
      if (++looks % (INTERVAL / LOOK_INTERVAL) === 0) this.collect();
      if (this.registers.size > 0) return;
      clearInterval(this.lookTimer);
      this.lookTimer = undefined;
    }, LOOK_INTERVAL).unref();
  }

  private isMapped(file: File): boolean {
    for (const { mappings } of this.windows.values())
      if (mappings.some((mapping) => mapping.file === file)) return true;
    return false;
  }

  private stop(): void {
    clearInterval(this.timer);
    this.timer = undefined;
  }
}

/** Frames whose content is a file that clients have mapped. */
class SharedWindow implements FrameBacking {
  readonly inode: number;
  /** What each mmap holds of the window's owner. */
  readonly mappings: { readonly file: File; readonly window: FileWindow }[] = [];
  /** Threads that are about to map it. */
  readonly mapping = new Set<object>();
  private readonly memory: PhysicalMemory;
  private readonly pfn: number;
  private readonly count: number;
  private readonly path: string;
  private readonly descriptor: number;

  constructor(memory: PhysicalMemory, { pfn, count }: FileWindow, path: string) {
    this.memory = memory;
    this.pfn = pfn;
    this.count = count;
    this.path = path;
    const content = new Uint8Array(count * PAGE_SIZE);
    memory.read(pfn * PAGE_SIZE, content);
    this.descriptor = openSync(path, "wx+", 0o600);
    this.inode = fstatSync(this.descriptor).ino;
    writeSync(this.descriptor, content, 0, content.length, 0);
    memory.rebind(pfn, count, this);
  }

  read(page: number, offset: number, into: Uint8Array): void {
    readSync(this.descriptor, into, 0, into.length, page * PAGE_SIZE + offset);
  }

  write(page: number, offset: number, from: Uint8Array): void {
    writeSync(this.descriptor, from, 0, from.length, page * PAGE_SIZE + offset);
  }

  /** The frames keep what is in them. */
  close(): void {
    const kept = new MemoryFile(this.count * PAGE_SIZE);
    this.read(0, 0, kept.bytes);
    this.memory.rebind(this.pfn, this.count, kept);
    closeSync(this.descriptor);
    rmSync(this.path, { force: true });
    for (const { window } of this.mappings) window.release();
  }
}

function readLocks(): string | undefined {
  try {
    return readFileSync("/proc/locks", "latin1");
  } catch {
    return undefined;
  }
}
