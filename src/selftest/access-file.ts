// Runs in a browser.
import type { Access, AccessUser, IommufdContext } from "../iommufd/index.ts";
import type { File, Process } from "../memory/index.ts";
import { ENOENT, ENOTTY, refuse, type Task } from "../runtime/index.ts";

/** A range that the test has pinned. */
interface PinnedItem {
  readonly iova: bigint;
  readonly length: bigint;
}

/** An access that a client drives: what CREATE_ACCESS gives it a descriptor of (reference 4.7). */
export class AccessFile implements File, AccessUser {
  readonly label = "selftest access";
  readonly hasPosition = false;
  readonly access: Access;
  private readonly items = new Map<number, PinnedItem>();
  private nextItem = 0;

  constructor(context: IommufdContext, pins: boolean) {
    this.access = context.createAccess(this, { pins });
  }

  /** Remembers a range that was pinned; its id. */
  add(iova: bigint, length: bigint): number {
    const id = this.nextItem++;
    this.items.set(id, { iova, length });
    return id;
  }

  /** Unpins one. Refusal ENOENT. */
  remove(id: number): void {
    const item = this.items.get(id) ?? refuse(ENOENT, () => `${this.label} has no item ${id}`);
    this.items.delete(id);
    this.access.unpin(item.iova, item.length);
  }

  /** Unpins all that has a page in the range. */
  *unmap(iova: bigint, length: bigint): Task<void> {
    for (const [id, item] of this.items) {
      if (item.iova <= iova + length - 1n && iova <= item.iova + item.length - 1n) this.remove(id);
    }
  }

  *ioctl(_process: Process, request: number): Task<number> {
    return refuse(ENOTTY, () => `0x${request.toString(16)}: ${this.label} has no ioctls`);
  }

  *release(): Task<void> {
    for (const id of this.items.keys()) this.remove(id);
    yield* this.access.destroyByUser();
  }
}
