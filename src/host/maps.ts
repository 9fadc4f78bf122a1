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

/** The mappings of a process at one moment: the text of /proc/PID/maps, ascending. Of its lines few are ever looked at. */
export class Maps {
  private readonly text: string;

  constructor(text: string) {
    this.text = text;
  }

  /** The mappings that hold the bytes from `start` up to `end`; undefined if one is missing or does not allow it. */
  covering(start: number, end: number, write: boolean): readonly Vma[] | undefined {
    const found: Vma[] = [];
    let at = start;
    for (const vma of this.endingBehind(start)) {
      if (at >= end) break;
      if (vma.start > at || !(write ? vma.writable : vma.readable)) return undefined;
      found.push(vma);
      at = vma.end;
    }
    return at >= end ? found : undefined;
  }

  /** Those with bytes at `address` or above. */
  *endingBehind(address: number): Generator<Vma> {
    const { text } = this;
    // Lines that begin before `low` end at `address` or below; `high` is the end, or begins a line that does not.
    let low = 0;
    let high = text.length;
    while (low < high) {
      const begin = text.lastIndexOf("\n", ((low + high) >>> 1) - 1) + 1;
      if (Number.parseInt(text.slice(text.indexOf("-", begin) + 1, text.indexOf(" ", begin)), 16) > address)
        high = begin;
      else low = text.indexOf("\n", begin) + 1;
    }
    for (let end = text.indexOf("\n", low); end >= 0; end = text.indexOf("\n", low)) {
      yield parseLine(text.slice(low, end));
      low = end + 1;
    }
  }
}

function parseLine(text: string): Vma {
  const [, start, end, r, w, x, s, offset, device, inode, path] = line.exec(text)!;
  return {
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
  };
}

/** Mappings that hold no ordinary pages: Linux does not pin them. */
export function isSpecial(vma: Vma): boolean {
  return vma.path === "[vvar]" || vma.path === "[vvar_vclock]" || vma.path === "[vsyscall]";
}

/** `"0x1000-0x1fff"`, for people. */
export function addressRange(start: number, length: number): string {
  return `0x${start.toString(16)}-0x${(start + Math.max(length, 1) - 1).toString(16)}`;
}

export const USER_END: number = 2 ** 47 - PAGE_SIZE;
