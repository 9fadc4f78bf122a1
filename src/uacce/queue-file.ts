// Runs in a browser.
import type { SvaHandle } from "../iommu/index.ts";
import { type File, type FileWindow, type MmapRequest, PAGE_SIZE, type Process } from "../memory/index.ts";
import { EEXIST, EINVAL, ENXIO, refuse, type Task } from "../runtime/index.ts";
import { requestName, UACCE_PUT_Q, UACCE_START_Q } from "../uapi/index.ts";
import type { AcceleratorQueue, Region } from "./accelerator.ts";
import type { UacceDevice } from "./device.ts";

/** By page offset. */
const REGIONS: readonly Region[] = ["mmio", "dus"];

/** What an open file has of its device. */
export interface OpenQueue {
  readonly queue: AcceleratorQueue;
  readonly handle: SvaHandle;
}

/** An open file of an accelerator: one of its queues. The states are Linux's: INIT, STARTED, and ZOMBIE for good. */
export class QueueFile implements File {
  readonly label: string;
  readonly hasPosition = false;
  readonly writable = false;
  onReadable: (() => void) | undefined;
  state: "init" | "started" | "zombie" = "init";
  private readonly device: UacceDevice;
  private readonly opened: OpenQueue;
  private readonly shown = new Set<Region>();

  constructor(device: UacceDevice, opened: OpenQueue) {
    this.device = device;
    this.opened = opened;
    this.label = device.name;
    opened.queue.onUpdate = () => this.onReadable?.();
  }

  /** ENXIO for every command once the queue is taken away; EINVAL to start it twice, and for commands that nobody has. */
  *ioctl(process: Process, request: number, argument: number): Task<number> {
    const { device, opened } = this;
    yield* device.mutex.take();
    try {
      this.checkValid(() => requestName(request) ?? `command 0x${request.toString(16)}`);
      switch (request) {
        case UACCE_START_Q:
          yield* this.start();
          return 0;
        case UACCE_PUT_Q:
          yield* this.stop();
          return 0;
      }
    } finally {
      device.mutex.release();
    }
    return yield* opened.queue.ioctl(process, request, argument);
  }

  readable(): boolean {
    return this.state !== "zombie" && this.opened.queue.isUpdated;
  }

  /** Page offset 0 is the MMIO region, 1 the DUS region. EINVAL for others; ENXIO as above; EEXIST while it is mapped. */
  mmap(_process: Process, request: MmapRequest): FileWindow {
    const region = request.offset % BigInt(PAGE_SIZE) === 0n ? REGIONS[Number(request.offset) / PAGE_SIZE] : undefined;
    if (region === undefined) refuse(EINVAL, () => `${this.label} has no region at 0x${request.offset.toString(16)}`);
    this.checkValid(() => `mmap of the ${region} region`);
    if (this.shown.has(region)) refuse(EEXIST, () => `the ${region} region of this queue is mapped already`);
    const window = this.opened.queue.map(region, request);
    this.shown.add(region);
    return {
      ...window,
      release: () => {
        this.shown.delete(region);
        window.release();
      },
    };
  }

  *release(): Task<void> {
    const { device } = this;
    yield* device.mutex.take();
    try {
      yield* this.put();
      device.forget(this);
    } finally {
      device.mutex.release();
    }
  }

  /** Takes the queue away from whoever has the file. Cannot fail. */
  *put(): Task<void> {
    this.device.mutex.assertHeld();
    if (this.state === "zombie") return;
    yield* this.stop();
    this.state = "zombie";
    yield* this.opened.queue.put();
    yield* this.device.unbind(this.opened.handle);
    this.device.tell("uacce.queue.put", {});
    this.onReadable?.();
  }

  private *start(): Task<void> {
    if (this.state !== "init") refuse(EINVAL, () => `the queue of ${this.label} is started already`);
    yield* this.opened.queue.start();
    this.state = "started";
    this.device.tell("uacce.queue.start", { pasid: this.opened.handle.pasid });
  }

  private *stop(): Task<void> {
    if (this.state !== "started") return;
    yield* this.opened.queue.stop();
    this.state = "init";
    this.device.tell("uacce.queue.stop", {});
  }

  private checkValid(what: () => string): void {
    if (this.state === "zombie") refuse(ENXIO, () => `${what()}: ${this.label} was removed`);
  }
}
