// Runs in a browser.
import type { HardwareQueue } from "../iommu/index.ts";
import type { Task } from "../runtime/index.ts";
import type { Access } from "./access.ts";
import { IommufdObject } from "./objects.ts";
import type { IommufdViommu } from "./viommu.ts";

/**
 * A queue in the guest's memory that hardware reads by itself. Its memory is pinned by an access of its own, and the areas
 * it lies in cannot be unmapped as long as it lives.
 */
export class HwQueue extends IommufdObject {
  static readonly noun = "hardware queue";
  readonly kind = "HW_QUEUE";
  private readonly viommu: IommufdViommu;
  private readonly type: number;
  private readonly queue: HardwareQueue;
  /** Has the pages from `iova` on pinned, `length` bytes. */
  private readonly access: Access;
  private readonly iova: bigint;
  private readonly length: bigint;

  constructor(
    id: number,
    options: {
      viommu: IommufdViommu;
      type: number;
      queue: HardwareQueue;
      access: Access;
      iova: bigint;
      length: bigint;
    },
  ) {
    super(id, HwQueue.noun);
    this.viommu = options.viommu;
    this.type = options.type;
    this.queue = options.queue;
    this.access = options.access;
    this.iova = options.iova;
    this.length = options.length;
    this.viommu.users.get(this);
    this.viommu.hwQueues.set(this.queue, this);
    this.lower?.users.get(this);
  }

  /** The queue that this one depends on. */
  private get lower(): HwQueue | undefined {
    const { dependsOn } = this.queue;
    return dependsOn === undefined ? undefined : this.viommu.hwQueues.get(dependsOn);
  }

  *destroy(): Task<void> {
    yield* this.queue.free();
    this.lower?.users.put(this);
    this.viommu.hwQueues.delete(this.queue);
    this.access.unpin(this.iova, this.length, true);
    yield* this.access.destroyByUser();
    this.viommu.users.put(this);
  }

  describe(): Record<string, unknown> {
    const { viommu, type, access, iova, length } = this;
    return { viommu: viommu.id, type, access: access.id, iova, length, dependsOn: this.lower?.id };
  }
}
