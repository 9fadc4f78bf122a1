// Runs in a browser.
import type { IommuDriver, NestedDomain } from "../iommu/index.ts";
import { assert, EINVAL, EOPNOTSUPP, refuse, type Task } from "../runtime/index.ts";
import { HWPT_ALLOC_PASID, HWPT_FAULT_ID_VALID } from "../uapi/index.ts";
import type { ClientData } from "./client-data.ts";
import type { IommufdContext } from "./context.ts";
import type { IommufdDevice } from "./device.ts";
import { Hwpt, type PagingHwpt } from "./hwpt.ts";
import type { IommufdViommu } from "./viommu.ts";

/** What a nested HWPT is made on. */
export type NestingParent = PagingHwpt | IommufdViommu;

/**
 * A HWPT for tables that a guest writes itself, on a parent that shows the guest's memory. It is a user of its parent (or
 * of the viommu, which is one) as long as it lives: so the parent stays linked to its IOAS (reference 1.1).
 */
export class NestedHwpt extends Hwpt {
  static readonly noun = "nested HWPT";
  readonly kind = "HWPT_NESTED";
  readonly automatic = false;
  readonly domain: NestedDomain;
  readonly paging: PagingHwpt;
  /** By which it was made, if it was. */
  readonly viommu: IommufdViommu | undefined;
  private readonly flags: number;

  constructor(id: number, options: { parent: NestingParent; domain: NestedDomain; flags: number }) {
    super(id, NestedHwpt.noun);
    const { parent } = options;
    if (parent instanceof Hwpt) {
      this.paging = parent;
    } else {
      this.viommu = parent;
      this.paging = parent.hwpt;
    }
    this.domain = options.domain;
    this.flags = options.flags;
    parent.users.get(this);
  }

  get pasidCompatible(): boolean {
    return (this.flags & HWPT_ALLOC_PASID) !== 0;
  }

  *destroy(): Task<void> {
    this.domain.free();
    (this.viommu ?? this.paging).users.put(this);
    this.leaveFaultQueue();
  }

  describe(): Record<string, unknown> {
    const { paging, viommu, domain, flags } = this;
    return { paging: paging.id, viommu: viommu?.id, domain: domain.label, flags };
  }
}

/**
 * Makes a nested HWPT for `device`; its id is reserved, not published. Refusals in order: EINVAL (viommu of another IOMMU),
 * EOPNOTSUPP (flags, no data, no such operation), EINVAL (parent not made for nesting, or another driver's), the driver's.
 */
export function* buildNestedHwpt(
  context: IommufdContext,
  options: { parent: NestingParent; device: IommufdDevice; flags: number; data: ClientData | undefined },
): Task<NestedHwpt> {
  const { parent, device, flags, data } = options;
  const allocate = parent instanceof Hwpt ? onHwpt(parent, device, flags, data) : onViommu(parent, device, flags, data);
  const id = context.objects.reserve();
  try {
    // Fault queues are iommufd's own business.
    const domain = yield* allocate(flags & ~HWPT_FAULT_ID_VALID);
    assert(domain.owner === driverOf(device), () => `${domain.label} is not of the driver that made it`);
    return new NestedHwpt(id, { parent, domain, flags });
  } catch (error) {
    context.objects.abort(id);
    throw error;
  }
}

/** Takes back a HWPT that was built but never published. */
export function* abandonNestedHwpt(context: IommufdContext, hwpt: NestedHwpt): Task<void> {
  yield* hwpt.destroy();
  context.objects.abort(hwpt.id);
}

type Allocate = (flags: number) => Task<NestedDomain>;

function onHwpt(parent: PagingHwpt, device: IommufdDevice, flags: number, data: ClientData | undefined): Allocate {
  const driver = driverOf(device);
  const given = checkRequest(flags, data);
  if (driver.allocateNested === undefined) refuse(EOPNOTSUPP, () => `driver ${driver.name} has no nested domains`);
  if (parent.automatic) refuse(EINVAL, () => `${parent.label} is an automatic HWPT: nothing can be put on it`);
  refuseWithoutNesting(parent);
  if (parent.domain.owner !== driver) {
    refuse(EINVAL, () => `${parent.domain.label} of ${parent.label} belongs to another driver than ${device.label}`);
  }
  return (flags) => driver.allocateNested!(device.device, parent.domain, flags, given);
}

function onViommu(viommu: IommufdViommu, device: IommufdDevice, flags: number, data: ClientData | undefined): Allocate {
  const { driver } = viommu;
  if (driver.instance !== device.device.iommu!.instance) {
    refuse(EINVAL, () => `${device.label} is behind another IOMMU than ${viommu.label}, which is ${driver.label}`);
  }
  const given = checkRequest(flags, data);
  if (driver.allocateNested === undefined) refuse(EOPNOTSUPP, () => `${driver.label} has no nested domains`);
  return (flags) => driver.allocateNested!(device.device, flags, given);
}

function checkRequest(flags: number, data: ClientData | undefined): ClientData {
  const unknown = flags & ~(HWPT_FAULT_ID_VALID | HWPT_ALLOC_PASID);
  if (unknown !== 0) refuse(EOPNOTSUPP, () => `flags 0x${(unknown >>> 0).toString(16)} are not for nested HWPTs`);
  return data ?? refuse(EOPNOTSUPP, () => "a nested HWPT needs the data of its driver");
}

/** Refusal EINVAL for a HWPT that was not made to be a parent. */
export function refuseWithoutNesting(hwpt: PagingHwpt): void {
  if (!hwpt.nestParent) refuse(EINVAL, () => `${hwpt.label} was allocated without NEST_PARENT`);
}

function driverOf(device: IommufdDevice): IommuDriver {
  return device.device.iommu!.instance.driver;
}
