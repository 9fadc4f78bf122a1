// Runs in a browser.
import type { FileWindow, MmapRequest } from "../memory/index.ts";
import { PAGE_SIZE } from "../memory/index.ts";
import { assert, EINVAL, ENXIO, EPERM, type Interval, IntervalMap, refuse } from "../runtime/index.ts";
import type { IommufdObject } from "./objects.ts";

/** Frames that a driver lets a client map; while somebody has, the owner has a user. */
interface Window {
  readonly owner: IommufdObject;
  readonly pfn: number;
  readonly count: number;
}

const PAGE = BigInt(PAGE_SIZE);

/** What can be mapped of a context's file, by offset: the first window lies at one page, each at the lowest free place. */
export class MmapWindows {
  private readonly windows = new IntervalMap<Window>();

  /** Returns the offset. */
  add(owner: IommufdObject, pfn: number, count: number): bigint {
    const length = BigInt(count) * PAGE;
    const start = this.windows.firstHole(PAGE, 2n ** 63n - 1n, length, (hole) => hole.start);
    assert(start !== undefined, () => `no room for a window of ${count} pages`);
    this.windows.insert(start, start + length - 1n, { owner, pfn, count });
    return start;
  }

  remove(offset: bigint): void {
    const window = this.windows.at(offset);
    assert(window?.start === offset, () => `no window begins at 0x${offset.toString(16)}`);
    this.windows.remove(window as Interval<Window>);
  }

  /** mmap (reference 3.12). EINVAL: not MAP_SHARED. EPERM: PROT_EXEC. ENXIO: not a whole window. */
  map({ offset, length, shared, executable }: MmapRequest): FileWindow {
    if (!shared) refuse(EINVAL, () => "a window can only be mapped MAP_SHARED");
    if (executable) refuse(EPERM, () => "a window cannot be mapped PROT_EXEC");
    const at = this.windows.at(offset);
    if (at === undefined || at.start !== offset || at.last - at.start + 1n !== length) {
      return refuse(ENXIO, () => {
        const what = at === undefined ? "in no window" : `not all of the window at 0x${at.start.toString(16)}`;
        return `offset 0x${offset.toString(16)}, ${length} bytes: ${what}`;
      });
    }
    const { owner, pfn, count } = at.value;
    const holder = { label: `mmap of ${count} pages` };
    owner.users.get(holder);
    return { pfn, count, release: () => void owner.users.put(holder) };
  }
}
