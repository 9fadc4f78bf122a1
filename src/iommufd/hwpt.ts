// Runs in a browser.
import type { Domain, PagingDomain } from "../iommu/index.ts";
import type { Process } from "../memory/index.ts";
import { assert, EOPNOTSUPP, refuse, type Task } from "../runtime/index.ts";
import {
  HWPT_ALLOC_DIRTY_TRACKING,
  HWPT_ALLOC_NEST_PARENT,
  HWPT_ALLOC_PASID,
  HWPT_FAULT_ID_VALID,
} from "../uapi/index.ts";
import type { ClientData } from "./client-data.ts";
import type { IommufdContext } from "./context.ts";
import type { IommufdDevice } from "./device.ts";
import type { FaultQueue } from "./fault-queue.ts";
import type { Ioas } from "./ioas.ts";
import { IommufdObject } from "./objects.ts";

const PAGING_FLAGS = HWPT_ALLOC_NEST_PARENT | HWPT_ALLOC_DIRTY_TRACKING | HWPT_FAULT_ID_VALID | HWPT_ALLOC_PASID;

/** A hardware page table: a domain that devices can be attached to. */
export abstract class Hwpt extends IommufdObject {
  abstract readonly domain: Domain;
  /** The HWPT whose IOAS the devices' memory is in: itself, or the parent of a nested one. */
  abstract readonly paging: PagingHwpt;
  /** Allocated with the PASID flag: may be attached to a PASID, and to the RID beside PASIDs. */
  abstract readonly pasidCompatible: boolean;
  /** Made by an attach to an IOAS, and gone with its last user. */
  abstract readonly automatic: boolean;
  private faults: FaultQueue | undefined;

  /** Where page requests of what is attached to it go; they are refused without one. */
  get faultQueue(): FaultQueue | undefined {
    return this.faults;
  }

  /** From now on page requests go to `queue`. Before anything is attached. */
  useFaultQueue(queue: FaultQueue): void {
    assert(this.faults === undefined, () => `${this.label} has a fault queue already`);
    this.faults = queue;
    queue.users.get(this);
    this.domain.pageRequestHandler = (group) => queue.deliver(group);
  }

  protected leaveFaultQueue(): void {
    this.faults?.users.put(this);
    this.faults = undefined;
  }
}

/**
 * A HWPT that shows an IOAS. It is linked to its IOAS from allocation to destruction, whoever is attached meanwhile
 * (reference 1.1).
 */
export class PagingHwpt extends Hwpt {
  static readonly noun = "paging HWPT";
  readonly kind = "HWPT_PAGING";
  readonly ioas: Ioas;
  readonly domain: PagingDomain;
  readonly automatic: boolean;
  readonly flags: number;
  /** Every access through it is coherent with the CPU's caches, decided when it was made. */
  readonly enforcesCoherency: boolean;
  private linked = false;

  constructor(
    id: number,
    options: { ioas: Ioas; domain: PagingDomain; automatic: boolean; flags: number; enforcesCoherency: boolean },
  ) {
    super(id, "HWPT");
    this.ioas = options.ioas;
    this.domain = options.domain;
    this.automatic = options.automatic;
    this.flags = options.flags;
    this.enforcesCoherency = options.enforcesCoherency;
    this.ioas.users.get(this);
  }

  get paging(): PagingHwpt {
    return this;
  }

  get nestParent(): boolean {
    return (this.flags & HWPT_ALLOC_NEST_PARENT) !== 0;
  }

  get pasidCompatible(): boolean {
    return (this.flags & HWPT_ALLOC_PASID) !== 0;
  }

  get dirtyTracking(): boolean {
    return (this.flags & HWPT_ALLOC_DIRTY_TRACKING) !== 0;
  }

  /** Links it to its IOAS. Refusals as IovaSpace.link. */
  *link(caller: Process): Task<void> {
    this.ioas.mutex.assertHeld();
    yield* this.ioas.space.link(this.domain, this, caller);
    this.linked = true;
    this.ioas.hwpts.push(this);
  }

  *destroy(): Task<void> {
    yield* this.ioas.mutex.take();
    yield* this.dismantle();
    this.ioas.mutex.release();
  }

  /** The mirror image of construction and {@link link}. */
  *dismantle(): Task<void> {
    this.ioas.mutex.assertHeld();
    if (this.linked) {
      this.ioas.hwpts.splice(this.ioas.hwpts.indexOf(this), 1);
      yield* this.ioas.space.unlink(this.domain, this);
      this.linked = false;
    }
    this.domain.free();
    this.ioas.users.put(this);
    this.leaveFaultQueue();
  }

  describe(): Record<string, unknown> {
    const { ioas, domain, automatic, flags, enforcesCoherency } = this;
    return { ioas: ioas.id, domain: domain.label, automatic, flags, enforcesCoherency };
  }
}

/**
 * Makes a paging HWPT for `device`; its id is reserved, not published, and it is not linked yet. Refusals: EOPNOTSUPP for
 * flags that Linux or the device does not know, then the driver's own (reference 3.7).
 */
export function* buildPagingHwpt(
  context: IommufdContext,
  options: { ioas: Ioas; device: IommufdDevice; flags: number; data: ClientData | undefined; automatic: boolean },
): Task<PagingHwpt> {
  const { ioas, device, flags, data, automatic } = options;
  ioas.mutex.assertHeld();
  const { driver } = device.device.iommu!.instance;
  if ((flags & ~PAGING_FLAGS) !== 0)
    refuse(EOPNOTSUPP, () => `unknown HWPT flags 0x${(flags & ~PAGING_FLAGS).toString(16)}`);
  if ((flags & HWPT_ALLOC_DIRTY_TRACKING) !== 0 && !driver.capable(device.device, "dirty-tracking")) {
    refuse(EOPNOTSUPP, () => `${device.label} cannot track dirty pages`);
  }
  if ((flags & HWPT_FAULT_ID_VALID) !== 0 && (flags & HWPT_ALLOC_NEST_PARENT) !== 0) {
    refuse(EOPNOTSUPP, () => "a nest parent has no fault queue: its nested HWPTs have");
  }
  const id = context.objects.reserve();
  try {
    // Fault queues are iommufd's own business.
    const domain = yield* driver.allocatePaging(device.device, flags & ~HWPT_FAULT_ID_VALID, data);
    const enforcesCoherency = driver.capable(device.device, "enforce-cache-coherency");
    return new PagingHwpt(id, { ioas, domain, automatic, flags, enforcesCoherency });
  } catch (error) {
    context.objects.abort(id);
    throw error;
  }
}

/** Takes back a HWPT that was built but never published. */
export function* abandonPagingHwpt(context: IommufdContext, hwpt: PagingHwpt): Task<void> {
  assert(hwpt.users.count === 0, () => `${hwpt.label} is abandoned but used by ${hwpt.users.holders()}`);
  yield* hwpt.dismantle();
  context.objects.abort(hwpt.id);
}
