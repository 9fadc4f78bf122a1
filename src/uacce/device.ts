// Runs in a browser.
/**
 * Accelerators as files: the user interface of Linux's uacce (reference 9).
 *
 * An *UacceDevice* is an accelerator that a driver brought; its character device `/dev/NAME-N` may be opened often. Each open
 * is a *QueueFile* (queue-file.ts): one hardware queue, whose DMA carries the PASID of the process that opened it. So the
 * process gives the device its own addresses, and no mapping call exists. What the queue is like the driver says
 * (accelerator.ts). The one driver here is of the copy engine: driver.ts binds it to PCI functions, copy-queue.ts is a queue
 * of it, copy-registers.ts what both know of the hardware, dma-memory.ts the memory that they share with it.
 *
 * Always true: a file that is not a zombie has a queue and a binding, and gives back both in the mirror order: the queue is
 * at rest before its PASID goes. A device that is removed takes the queues of all its files; those stay open, as zombies.
 *
 * Lock order: uacce.device → the core's (bind and unbind, the default domain). A driver's own commands run outside of the
 * mutex, since they may wait; they look for themselves whether the queue is still theirs.
 */
import type { Device, Sva, SvaHandle } from "../iommu/index.ts";
import type { File, Process } from "../memory/index.ts";
import type { PciFunction } from "../pci/index.ts";
import { EINVAL, Mutex, refuse, type System, type Task } from "../runtime/index.ts";
import type { Accelerator } from "./accelerator.ts";
import { QueueFile } from "./queue-file.ts";

/** What binds address spaces to devices. */
export type Binder = Pick<Sva, "bind" | "unbind">;

export interface UacceDeviceOptions {
  readonly system: System;
  /** Without the number: `"copy_engine"`. */
  readonly kind: string;
  /** N of `/dev/NAME-N`, over all accelerators. */
  readonly number: number;
  readonly member: PciFunction;
  /** The same function, as the core knows it. */
  readonly device: Device;
  readonly accelerator: Accelerator;
  readonly sva: Binder;
  /** Told when what sysfs says may have changed. */
  readonly onChange: (device: UacceDevice) => void;
}

/** An accelerator with shared virtual addressing. */
export class UacceDevice {
  readonly name: string;
  readonly number: number;
  readonly member: PciFunction;
  readonly accelerator: Accelerator;
  /** Held over what is done with a file of it, but for the driver's own commands. */
  readonly mutex: Mutex;
  private readonly system: System;
  private readonly device: Device;
  private readonly sva: Binder;
  private readonly onChange: UacceDeviceOptions["onChange"];
  private readonly files = new Set<QueueFile>();
  private isRemoved = false;

  constructor({ system, kind, number, member, device, accelerator, sva, onChange }: UacceDeviceOptions) {
    this.system = system;
    this.name = `${kind}-${number}`;
    this.number = number;
    this.member = member;
    this.accelerator = accelerator;
    this.device = device;
    this.sva = sva;
    this.onChange = onChange;
    this.mutex = new Mutex(system, "uacce.device");
  }

  /** Files whose queue was not taken away, and others that are still open. */
  get openFiles(): ReadonlySet<QueueFile> {
    return this.files;
  }

  /** One open of the character device. EINVAL if the device is gone; what binding the process and its driver refuse. */
  *open(process: Process): Task<File> {
    yield* this.mutex.take();
    try {
      if (this.isRemoved) refuse(EINVAL, () => `${this.name} was removed`);
      this.system.failures.point("uacce.queue.open");
      const handle = yield* this.sva.bind(this.device, process.memory);
      try {
        const queue = yield* this.accelerator.getQueue(handle.pasid);
        const file = new QueueFile(this, { queue, handle });
        this.files.add(file);
        this.tell("uacce.queue.open", { pid: process.pid, pasid: handle.pasid });
        return file;
      } catch (error) {
        yield* this.sva.unbind(handle);
        throw error;
      }
    } finally {
      this.mutex.release();
    }
  }

  /** A file has no queue any more: its process is out of the device's reach. Cannot fail. */
  *unbind(handle: SvaHandle): Task<void> {
    yield* this.sva.unbind(handle);
  }

  /** A file is closed. */
  forget(file: QueueFile): void {
    this.files.delete(file);
  }

  /** The driver lets go of the device: every file loses its queue. Cannot fail. */
  *remove(): Task<void> {
    yield* this.mutex.take();
    try {
      this.isRemoved = true;
      for (const file of this.files) yield* file.put();
    } finally {
      this.mutex.release();
    }
  }

  tell(kind: string, fields: Record<string, unknown>): void {
    this.onChange(this);
    const { events } = this.system;
    if (events.on) events.emit({ kind, device: this.name, ...fields });
  }
}
