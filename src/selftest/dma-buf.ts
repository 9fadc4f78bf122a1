// Runs in a browser.
/** DMABUF_GET and DMABUF_REVOKE: memory that a test lets others map as a device's driver would (reference 4.8). */
import { type DmaBuf, type File, ownFile, PAGE_SIZE, type PhysicalMemory, type Process } from "../memory/index.ts";
import { EBADF, EINVAL, ENOTTY, EOPNOTSUPP, refuse, type Task } from "../runtime/index.ts";
import { TestDmabufGet, TestDmabufRevoke } from "../uapi/index.ts";
import { type Operation, operation } from "./call.ts";

/** Pages of the longest. */
const MOST_PAGES = 512;

/** An open dma-buf of the test. Its memory lives until its file is closed and nothing maps it any more. */
class TestDmaBuf implements File, DmaBuf {
  readonly label = "a test dma-buf";
  readonly hasPosition = false;
  readonly physical: number;
  readonly size: number;
  readonly mappable = true;
  revoked = false;
  private readonly memory: PhysicalMemory;
  private readonly listeners = new Set<() => Task<void>>();
  private open = true;

  /** Refusal ENOMEM. */
  constructor(memory: PhysicalMemory, pages: number) {
    this.memory = memory;
    this.size = pages * PAGE_SIZE;
    this.physical = memory.allocate(pages) * PAGE_SIZE;
  }

  get dmaBuf(): DmaBuf {
    return this;
  }

  listen(revoke: () => Task<void>): () => void {
    this.listeners.add(revoke);
    return () => {
      this.listeners.delete(revoke);
      this.freeIfUnused();
    };
  }

  *setRevoked(revoked: boolean): Task<void> {
    this.revoked = revoked;
    for (const revoke of [...this.listeners]) yield* revoke();
  }

  *ioctl(_process: Process, request: number): Task<number> {
    return refuse(ENOTTY, () => `0x${request.toString(16)}: ${this.label} has no ioctls`);
  }

  mmap(): never {
    return refuse(EINVAL, () => `${this.label} is only for devices`);
  }

  *release(): Task<void> {
    this.open = false;
    this.freeIfUnused();
  }

  private freeIfUnused(): void {
    if (!this.open && this.listeners.size === 0) this.memory.free(this.physical / PAGE_SIZE, this.size / PAGE_SIZE);
  }
}

/** The new descriptor is what ioctl() returns. */
export const dmabufGet: Operation = operation(TestDmabufGet, function* ({ call, test }) {
  const { context, process } = call;
  const pages = Math.ceil(test.length / PAGE_SIZE);
  if (pages === 0 || pages > MOST_PAGES) refuse(EINVAL, () => `a dma-buf has 1 to ${MOST_PAGES} pages, not ${pages}`);
  context.system.failures.point("selftest.dmabuf.allocate");
  const file = new TestDmaBuf(context.memory, pages);
  try {
    return process.installFileAsResult(file);
  } catch (error) {
    yield* file.release();
    throw error;
  }
});

/** Also telling that it is usable again ends every mapping. */
export const dmabufRevoke: Operation = operation(TestDmabufRevoke, function* ({ call, test }) {
  const fd = test.dmabuf_fd;
  if (fd < 0) refuse(EBADF, () => `${fd} is no descriptor`);
  const dmaBuf = ownFile(call.process, fd)?.dmaBuf;
  if (dmaBuf === undefined) return refuse(EINVAL, () => `descriptor ${fd} is no dma-buf`);
  if (!(dmaBuf instanceof TestDmaBuf)) return refuse(EOPNOTSUPP, () => `${dmaBuf.label} is not of the test`);
  yield* dmaBuf.setRevoked(test.revoked !== 0);
});
