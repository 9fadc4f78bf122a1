/**
 * The memory of a client: /proc/PID/mem.
 *
 * During a call the bytes at its argument are a *window*: they came with the
 * request, and what is written there goes back with the reply, put in place by
 * the kernel when the client receives it. Everything else is read and written
 * at once. A call that blocks gives its window up first.
 *
 * /proc/PID/mem ignores protections, so each access asks {@link Vmas} first.
 *
 * Pinned pages are frames whose backing is this memory ({@link ClientPages}).
 * The shim tells before a pinned page is unmapped or replaced; its content is
 * saved then, and the frame's backing is the saved copy from there on. So a
 * frame always has the page's content as it was pinned. Always true: a page
 * number in `pinned` names a frame whose backing is this space.
 *
 * Who looks at pages without pinning them gets frames of their own ({@link MirroredPages}), and hears of every change that
 * the shim tells of ({@link ClientAddressSpace.changing}) before the program makes it.
 */
import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync, writeSync } from "node:fs";
import {
  type AddressSpace,
  type FrameBacking,
  type FrameRun,
  MmNotifiers,
  PAGE_EXECUTE,
  PAGE_READ,
  PAGE_SIZE,
  PAGE_WRITE,
  type PhysicalMemory,
  type ResidentPages,
  type UserAddress,
} from "../memory/index.ts";
import { EFAULT, refuse } from "../runtime/index.ts";
import { SavedPages } from "./backings.ts";
import { livingThread } from "./living-thread.ts";
import { addressRange, isSpecial, USER_END, type Vma } from "./maps.ts";
import { MirroredPages, mirroredRange } from "./mirrored-pages.ts";
import { PinnedPages } from "./pinned-pages.ts";
import { keyOfFile, type SharedFiles } from "./shared-files.ts";
import { Vmas } from "./vmas.ts";

/** Bytes read at once to see that pages of a file are there. */
const probe = new Uint8Array(256 * PAGE_SIZE);

export class ClientAddressSpace implements AddressSpace {
  readonly label: string;
  alive = true;
  lockedPages = 0;
  pinnedPages = 0;
  readonly vmas: Vmas;
  readonly pinned: PinnedPages = new PinnedPages();
  readonly notifiers: MmNotifiers = new MmNotifiers();
  private readonly mirrored: MirroredPages;
  /** Called once the process is gone and nothing of it is pinned: nobody will read this memory again. */
  onUnused: (() => void) | undefined;
  private readonly pid: number;
  private readonly memory: PhysicalMemory;
  private readonly sharedFiles: SharedFiles;
  private file: number | undefined;

  /** The window: `windowLength` bytes of `window` from `windowOffset` on are what is at `windowStart`; 0: none. */
  private window: Uint8Array = new Uint8Array(0);
  private windowOffset = 0;
  private windowStart = 0;
  private windowLength = 0;
  private windowDirty = 0;

  constructor(
    pid: number,
    label: string,
    { memory, sharedFiles }: { readonly memory: PhysicalMemory; readonly sharedFiles: SharedFiles },
  ) {
    this.pid = pid;
    this.label = label;
    this.memory = memory;
    this.sharedFiles = sharedFiles;
    this.vmas = new Vmas(pid);
    this.mirrored = new MirroredPages(
      {
        peek: (address, into) => this.mayNow(address, into.length, false) && this.peek(address, into),
        poke: (address, from) => this.mayNow(address, from.length, true) && this.poke(address, from),
      },
      memory,
    );
    try {
      this.file = openSync(`${livingThread(pid)}/mem`, "r+");
    } catch {
      // Gone already, or not ours to read: every access is EFAULT.
    }
  }

  get mlockedPages(): number {
    let status: string;
    try {
      status = readFileSync(`/proc/${this.pid}/status`, "latin1");
    } catch {
      return 0; // the process is gone
    }
    return (Number(/^VmLck:\s*(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024) / PAGE_SIZE;
  }

  /** The process is gone, or has become another program. Pinned frames stay. */
  die(): void {
    this.alive = false;
    this.notifiers.release();
    this.mirrored.drop(0, USER_END / PAGE_SIZE);
    this.vmas.close();
    this.closeIfUnused();
  }

  // The window

  /** `length` of `bytes` from `offset` on are what is at `address` now. */
  openWindow(address: number, bytes: Uint8Array, offset: number, length: number): void {
    this.window = bytes;
    this.windowOffset = offset;
    this.windowStart = address;
    this.windowLength = length;
    this.windowDirty = 0;
  }

  /** Ends the window; how many of its bytes must be put in place by the reply. */
  closeWindow(): number {
    this.windowLength = 0;
    return this.windowDirty;
  }

  /** Ends the window, writing what it has. */
  flushWindow(): void {
    if (this.windowLength === 0) return;
    const dirty = this.closeWindow();
    const start = this.windowOffset;
    if (dirty > 0) this.poke(this.windowStart, this.window.subarray(start, start + dirty));
    this.windowDirty = 0;
  }

  // Access

  read(address: UserAddress, into: Uint8Array): void {
    const { length } = into;
    const at = Number(address);
    const skip = at - this.windowStart;
    if (skip >= 0 && skip + length <= this.windowLength) {
      const { window } = this;
      const from = this.windowOffset + skip;
      for (let i = 0; i < length; i++) into[i] = window[from + i];
      return;
    }
    if (length === 0) return;
    this.flushWindow();
    this.check(at, length, false);
    if (!this.peek(at, into)) this.fault(at, length, "is not there");
  }

  write(address: UserAddress, from: Uint8Array): void {
    const { length } = from;
    if (length === 0) return;
    const at = Number(address);
    this.check(at, length, true);
    const skip = at - this.windowStart;
    if (skip >= 0 && skip + length <= this.windowLength) {
      const { window } = this;
      const to = this.windowOffset + skip;
      for (let i = 0; i < length; i++) window[to + i] = from[i];
      this.windowDirty = Math.max(this.windowDirty, skip + length);
      return;
    }
    this.flushWindow();
    if (!this.poke(at, from)) this.fault(at, length, "is not there");
  }

  /** Throws Refusal EFAULT unless the bytes may be written. */
  checkWritable(address: UserAddress, length: number): void {
    this.check(Number(address), length, true);
  }

  private check(at: number, length: number, write: boolean): void {
    if (at + length > USER_END) this.fault(at, length, "is no user address");
    if (!this.vmas.allow(at, at + length, write)) {
      this.fault(at, length, write ? "is not mapped, or not writable" : "is not mapped, or not readable");
    }
  }

  private fault(at: number, length: number, what: string): never {
    return refuse(EFAULT, () => `${addressRange(at, length)} of ${this.label} ${what}`);
  }

  /** Reads without asking; false if not all of it is there. */
  peek(at: number, into: Uint8Array): boolean {
    if (this.file === undefined) return false;
    try {
      return readSync(this.file, into, 0, into.length, at) === into.length;
    } catch {
      return false;
    }
  }

  poke(at: number, from: Uint8Array): boolean {
    if (this.file === undefined) return false;
    try {
      return writeSync(this.file, from, 0, from.length, at) === from.length;
    } catch {
      return false;
    }
  }

  // Pins

  pin(page: number, count: number, writable: boolean): FrameRun[] {
    const start = page * PAGE_SIZE;
    const end = start + count * PAGE_SIZE;
    if (end > USER_END) this.fault(start, count * PAGE_SIZE, "is no user address");
    const vmas = this.vmas.covering(start, end, writable);
    if (vmas === undefined) {
      this.fault(start, count * PAGE_SIZE, `is not mapped, or not ${writable ? "writable" : "readable"} in all pages`);
    }
    for (const vma of vmas) this.checkPresent(vma, start, end);
    const runs: FrameRun[] = [];
    try {
      for (const vma of vmas) {
        const first = Math.max(page, vma.start / PAGE_SIZE);
        const length = Math.min(page + count, vma.end / PAGE_SIZE) - first;
        for (const run of this.pinShared(vma, first, length) ?? this.pinOwn(first, length)) append(runs, run);
      }
    } catch (error) {
      this.memory.unpin(runs);
      throw error;
    }
    return runs;
  }

  /** Pages of a shared mapping are their file's; undefined for others, and for a file that one may not open. */
  private pinShared(vma: Vma, page: number, count: number): FrameRun[] | undefined {
    if (!vma.shared || vma.inode === 0) return undefined;
    const inFile = page + (vma.offset - vma.start) / PAGE_SIZE;
    return this.sharedFiles.pin(keyOf(vma), inFile, count, () => this.openShared(vma));
  }

  private pinOwn(page: number, count: number): FrameRun[] {
    return this.pinned.pin(this.memory, page, count, (first, length) => this.adopt(first, length));
  }

  private adopt(page: number, count: number): number {
    const pages = new ClientPages(this, page);
    pages.pfn = this.memory.adopt(pages, count, page);
    this.pinned.set(page, count, pages.pfn);
    return pages.pfn;
  }

  /** Pages of a file can lie behind its end; anonymous ones are there when asked for. */
  private checkPresent(vma: Vma, start: number, end: number): void {
    if (isSpecial(vma)) this.fault(vma.start, vma.end - vma.start, `is ${vma.path}, which cannot be pinned`);
    if (vma.inode === 0) return;
    const to = Math.min(end, vma.end);
    for (let at = Math.max(start, vma.start); at < to; at += probe.length) {
      const bytes = probe.subarray(0, Math.min(probe.length, to - at));
      if (!this.peek(at, bytes)) this.fault(at, bytes.length, `is partly behind the end of ${vma.path}`);
    }
  }

  /** Pages from `start` on are about to be unmapped or replaced: what is pinned there is kept as it is now. */
  keep(start: number, length: number): void {
    const page = Math.floor(start / PAGE_SIZE);
    const count = Math.ceil((start + length) / PAGE_SIZE) - page;
    for (const { first, length: pages, pfn } of this.pinned.heldRuns(page, count)) {
      const content = new Uint8Array(pages * PAGE_SIZE);
      this.peekPages(first, content);
      this.memory.rebind(pfn, pages, new SavedPages(content, this.memory, pfn), 0);
      this.pinned.clear(first, pages);
    }
    this.vmas.forget();
    this.closeIfUnused();
  }

  // Changes

  /**
   * The program is about to change the mappings of the bytes from `start` up to `end` (exclusive), or what they hold: when this
   * returns nobody uses a page of these who has not pinned it, and nobody will until {@link changed} says so.
   */
  changing(start: number, end: number): void {
    const whole = mirroredRange(start, end);
    this.notifiers.invalidateStart(whole.start, whole.end);
    this.mirrored.drop(whole.start / PAGE_SIZE, whole.end / PAGE_SIZE);
  }

  /** The change that {@link changing} told with the same range is over, whether it succeeded or not. */
  changed(start: number, end: number): void {
    this.vmas.forget();
    const whole = mirroredRange(start, end);
    this.notifiers.invalidateEnd(whole.start, whole.end);
  }

  /**
   * Whether the process itself may do that: not every change is told (libc's own are not), and /proc/PID/mem ignores
   * protections.
   */
  private mayNow(address: number, length: number, write: boolean): boolean {
    this.vmas.forgetIfChanged();
    return this.vmas.allow(address, address + length, write);
  }

  /** Of anonymous memory all of the mapping that lies in the same 2 MiB, since none of it is brought in by being looked at. */
  faultIn(page: number, rights: number): ResidentPages {
    this.vmas.forgetIfChanged();
    const start = page * PAGE_SIZE;
    const end = start + PAGE_SIZE;
    if (end > USER_END) this.fault(start, PAGE_SIZE, "is no user address");
    const vma = this.vmas.covering(start, end, (rights & PAGE_WRITE) !== 0)?.[0];
    if (vma === undefined) this.fault(start, PAGE_SIZE, "is not mapped, or does not allow that");
    if ((rights & PAGE_EXECUTE) !== 0 && !vma.executable) this.fault(start, PAGE_SIZE, "holds no code");
    this.checkPresent(vma, start, end);
    const isAnonymous = vma.inode === 0;
    const from = isAnonymous ? vma.start / PAGE_SIZE : page;
    const to = isAnonymous ? Math.min(vma.end, USER_END) / PAGE_SIZE : page + 1;
    return { ...this.mirrored.around(page, from, to), rights: rightsOf(vma) };
  }

  /** The pages from `start` on lie at `target` now (mremap). */
  move(start: number, length: number, target: number): void {
    const page = Math.floor(start / PAGE_SIZE);
    const distance = Math.floor(target / PAGE_SIZE) - page;
    const moved = [...this.pinned.heldRuns(page, Math.ceil(length / PAGE_SIZE))];
    for (const { first, length: pages } of moved) this.pinned.clear(first, pages);
    for (const { first, length: pages, pfn } of moved) {
      const backing = new ClientPages(this, first + distance);
      backing.pfn = pfn;
      this.memory.rebind(pfn, pages, backing, 0);
      this.pinned.set(first + distance, pages, pfn);
    }
    this.vmas.forget();
  }

  /** Reads page after page; one that is not there is zeros. */
  private peekPages(page: number, into: Uint8Array): void {
    if (this.peek(page * PAGE_SIZE, into)) return;
    for (let offset = 0; offset < into.length; offset += PAGE_SIZE) {
      const part = into.subarray(offset, offset + PAGE_SIZE);
      if (!this.peek(page * PAGE_SIZE + offset, part)) part.fill(0);
    }
  }

  /** Opens the file behind a shared mapping, if one may. */
  private openShared(vma: Vma): number | undefined {
    const range = `${vma.start.toString(16)}-${vma.end.toString(16)}`;
    const candidates = [`/proc/${this.pid}/map_files/${range}`, vma.path];
    try {
      const directory = `${livingThread(this.pid)}/fd`;
      candidates.push(...readdirSync(directory).map((fd) => `${directory}/${fd}`));
    } catch {
      // gone
    }
    for (const path of candidates) {
      try {
        if (statSync(path).ino !== vma.inode) continue;
        const file = openSync(path, "r+");
        if (keyOfFile(file) === keyOf(vma)) return file;
        closeSync(file);
      } catch {
        // not this way
      }
    }
    return undefined;
  }

  /** @internal The last pin of pages is gone. */
  unpinned(page: number, count: number, pfn: number): void {
    this.pinned.clear(page, count);
    this.memory.drop(pfn, count);
    this.closeIfUnused();
  }

  private closeIfUnused(): void {
    if (this.alive || this.pinned.size > 0 || this.file === undefined) return;
    closeSync(this.file);
    this.file = undefined;
    this.onUnused?.();
  }
}

/** The file of a mapping, as {@link keyOfFile} names it. */
function keyOf({ device, inode }: Vma): string {
  return `${device}:${inode}`;
}

function rightsOf({ writable, executable }: Vma): number {
  return PAGE_READ | (writable ? PAGE_WRITE : 0) | (executable ? PAGE_EXECUTE : 0);
}

/** Adds a run, to the last one where it continues that. */
function append(runs: FrameRun[], run: FrameRun): void {
  const last = runs.at(-1);
  if (last !== undefined && last.pfn + last.count === run.pfn) {
    runs[runs.length - 1] = { pfn: last.pfn, count: last.count + run.count };
  } else {
    runs.push(run);
  }
}

/** Pages of a client, from `firstPage` on, behind frames. Of a process that is gone, what cannot be read is zeros. */
class ClientPages implements FrameBacking {
  /** The frame of `firstPage`. */
  pfn = 0;
  private readonly space: ClientAddressSpace;
  private readonly firstPage: number;

  constructor(space: ClientAddressSpace, firstPage: number) {
    this.space = space;
    this.firstPage = firstPage;
  }

  read(page: number, offset: number, into: Uint8Array): void {
    if (!this.space.peek((this.firstPage + page) * PAGE_SIZE + offset, into)) into.fill(0);
  }

  write(page: number, offset: number, from: Uint8Array): void {
    this.space.poke((this.firstPage + page) * PAGE_SIZE + offset, from);
  }

  unpinned(page: number, count: number): void {
    this.space.unpinned(this.firstPage + page, count, this.pfn + page);
  }
}
